// `openai` (npm), responses.
import OpenAI from "openai";

import {key, model, Pieces, reversedMembers, task, turn, turnsMax, url, write} from "./report.mjs";
import {run} from "./tools.mjs";

const client = new OpenAI({baseURL: url + "/v1", apiKey: key, maxRetries: 0});
const input = [{role: "user", content: task.prompt}];
for (let n = 0; n < turnsMax; ++n) {
  const pieces = new Pieces();
  const stream = client.responses.stream({
    model,
    instructions: task.system,
    input,
    store: false,
    tools: task.tools.map((tool) => ({type: "function", strict: false, ...tool})),
  });
  stream.on("response.function_call_arguments.delta", (event) => pieces.add(event.output_index, event.delta));
  const response = await stream.finalResponse();
  const calls = response.output.filter((item) => item.type === "function_call");
  turn({
    calls: calls.map((call) => ({name: call.name, arguments: call.arguments})),
    text: response.output_text,
    input: response.usage.input_tokens,
    output: response.usage.output_tokens,
    thoughts: response.output.filter((item) => item.type === "reasoning").map((item) => item.content[0].text).join(""),
    pieces,
  });
  if (!calls.length) break;
  const results = calls.map((call) => ({
    type: "function_call_output", call_id: call.call_id, output: run(call.name, JSON.parse(call.arguments)).text}));
  if (task.reordered.includes(n)) {
    for (const call of calls) call.arguments = JSON.stringify(reversedMembers(JSON.parse(call.arguments)));
  }
  input.push(...response.output, ...results);
}
write();
