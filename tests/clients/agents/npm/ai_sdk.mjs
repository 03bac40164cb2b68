// `ai` with `@ai-sdk/openai-compatible` (npm): streamText holds the loop.
import {createOpenAICompatible} from "@ai-sdk/openai-compatible";
import {jsonSchema, stepCountIs, streamText, tool} from "ai";

import {key, model, Pieces, task, turn, turnsMax, url, write} from "./report.mjs";
import {run} from "./tools.mjs";

const provider = createOpenAICompatible({name: "longshelf", baseURL: url + "/v1", apiKey: key, includeUsage: true});
const tools = Object.fromEntries(task.tools.map(({name, description, parameters}) => [name, tool({
  description,
  inputSchema: jsonSchema(parameters),
  execute: (args) => run(name, args).text,
})]));
const result = streamText({
  model: provider.chatModel(model),
  system: task.system,
  prompt: task.prompt,
  tools,
  stopWhen: stepCountIs(turnsMax),
  maxRetries: 0,
  onError: ({error}) => {
    throw error;
  },
});
const pieces = new Pieces();
for await (const part of result.fullStream) {
  if (part.type === "tool-input-delta") pieces.add(part.id, part.delta);
}
for (const step of await result.steps) {
  turn({
    calls: step.toolCalls.map((call) => ({name: call.toolName, arguments: JSON.stringify(call.input)})),
    text: step.text,
    input: step.usage.inputTokens,
    output: step.usage.outputTokens,
    thoughts: step.reasoningText,
    pieces: new Map(step.toolCalls.map((call) => [call.toolCallId, pieces.get(call.toolCallId) ?? 0])),
  });
}
write();
