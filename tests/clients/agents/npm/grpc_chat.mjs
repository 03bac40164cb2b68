// `@grpc/grpc-js` with `@grpc/proto-loader` (npm) and the repository's proto file.
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import assert from "node:assert/strict";

import {grpcAddress, key, messages, model, Pieces, reversedMembers, task, turn, turnsMax, write} from "./report.mjs";
import {run} from "./tools.mjs";

const definition = protoLoader.loadSync("longshelf/v1/inference.proto", {
  includeDirs: [process.env.LONGSHELF_PROTO], keepCase: true, defaults: true, longs: Number, oneofs: true});
const {Inference} = grpc.loadPackageDefinition(definition).longshelf.v1;
const client = new Inference(grpcAddress, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${key}`);
const tools = task.tools.map(({name, description, parameters}) => ({name, description, parameters_json: JSON.stringify(parameters)}));

for (let n = 0; n < turnsMax; ++n) {
  const message = {role: "assistant", content: "", reasoning_content: "", tool_calls: []}, pieces = new Pieces();
  let last;
  for await (const reply of client.Chat({model, messages, tools}, metadata, {deadline: Date.now() + 60000})) {
    message.content += reply.content;
    message.reasoning_content += reply.reasoning_content;
    for (const {index, id, name, arguments_json: piece, complete} of reply.tool_calls) {
      const call = message.tool_calls[index] ??= {id, name, arguments_json: "", complete: false};
      call.arguments_json += piece;
      call.complete ||= complete;
      pieces.add(index, piece);
    }
    last = reply;
  }
  const calls = message.tool_calls;
  assert.equal(last.finish_reason, calls.length ? "tool_calls" : "stop");
  assert.ok(calls.every((call) => call.complete && call.id));
  turn({
    calls: calls.map((call) => ({name: call.name, arguments: call.arguments_json})),
    text: message.content,
    input: last.usage.prompt_tokens,
    output: last.usage.completion_tokens,
    thoughts: message.reasoning_content,
    pieces,
  });
  if (!calls.length) break;
  const results = calls.map((call) => ({
    role: "tool", tool_call_id: call.id, content: run(call.name, JSON.parse(call.arguments_json)).text}));
  if (task.reordered.includes(n)) {
    for (const call of calls) call.arguments_json = JSON.stringify(reversedMembers(JSON.parse(call.arguments_json)));
  }
  messages.push(message, ...results);
}
client.close();
write();
