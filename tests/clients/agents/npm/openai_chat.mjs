// `openai` (npm), chat completions: the SDK's own loop, which calls our functions and sends back what it read.
import OpenAI from "openai";

import {key, messages, model, Pieces, task, turn, turnsMax, url, write} from "./report.mjs";
import {run} from "./tools.mjs";

const client = new OpenAI({baseURL: url + "/v1", apiKey: key, maxRetries: 0});
let pieces = new Pieces(), thoughts = "";
const runner = client.chat.completions.runTools({
  model,
  messages,
  stream: true,
  stream_options: {include_usage: true},
  tools: task.tools.map((tool) => ({
    type: "function",
    function: {...tool, parse: JSON.parse, function: (args) => run(tool.name, args).text},
  })),
}, {maxChatCompletions: turnsMax});
runner.on("chunk", ({choices: [choice]}) => {
  thoughts += choice?.delta.reasoning_content ?? "";  // of fields that it does not know the SDK keeps the last piece
  for (const call of choice?.delta.tool_calls ?? []) pieces.add(call.index, call.function?.arguments);
});
runner.on("chatCompletion", ({choices: [{message}], usage}) => {
  turn({
    calls: (message.tool_calls ?? []).map((call) => ({name: call.function.name, arguments: call.function.arguments})),
    text: message.content,
    input: usage.prompt_tokens,
    output: usage.completion_tokens,
    thoughts,
    pieces,
  });
  pieces = new Pieces();
  thoughts = "";
});
await runner.finalContent();
write();
