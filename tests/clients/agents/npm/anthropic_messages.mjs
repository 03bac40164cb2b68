// `@anthropic-ai/sdk` (npm), thinking on: its blocks go back with their signatures.
import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";

import {key, model, Pieces, reversedMembers, task, turn, turnsMax, url, write} from "./report.mjs";
import {run} from "./tools.mjs";

const client = new Anthropic({baseURL: url, apiKey: key, maxRetries: 0});
const messages = [{role: "user", content: task.prompt}];
for (let n = 0; n < turnsMax; ++n) {
  const pieces = new Pieces();
  const stream = client.messages.stream({
    model,
    max_tokens: 30000,
    system: task.system,
    messages,
    thinking: {type: "enabled", budget_tokens: 10000},
    tools: task.tools.map(({name, description, parameters}) => ({name, description, input_schema: parameters})),
  });
  stream.on("streamEvent", (event) => {
    if (event.delta?.type === "input_json_delta") pieces.add(event.index, event.delta.partial_json);
  });
  const message = await stream.finalMessage();
  const calls = message.content.filter((block) => block.type === "tool_use");
  assert.equal(message.stop_reason, calls.length ? "tool_use" : "end_turn");
  assert.ok(message.content[0].type === "thinking" && message.content[0].signature);
  turn({
    calls: calls.map((call) => ({name: call.name, arguments: JSON.stringify(call.input)})),
    text: message.content.filter((block) => block.type === "text").map((block) => block.text).join(""),
    input: message.usage.input_tokens + (message.usage.cache_read_input_tokens ?? 0),
    output: message.usage.output_tokens,
    thoughts: message.content[0].thinking,
    pieces,
  });
  if (!calls.length) break;
  const results = calls.map((call) => {
    const {text, failed} = run(call.name, call.input);
    return {type: "tool_result", tool_use_id: call.id, content: [{type: "text", text}], is_error: failed};
  });
  if (task.reordered.includes(n)) {
    for (const call of calls) call.input = reversedMembers(call.input);
  }
  messages.push({role: "assistant", content: message.content}, {role: "user", content: results});
}
write();
