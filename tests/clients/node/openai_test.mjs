// The `openai` package from npm against a running cluster: LONGSHELF_URL, LONGSHELF_KEY, LONGSHELF_MODEL.
import assert from "node:assert/strict";

import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.LONGSHELF_URL + "/v1",
  apiKey: process.env.LONGSHELF_KEY,
  maxRetries: 0,
});
const model = process.env.LONGSHELF_MODEL;
const messages = [{role: "user", content: "What is the capital of Finland?"}];

const models = await client.models.list();
assert.deepEqual(models.data.map((m) => m.id), [model]);

// Chat, whole and streamed.
const whole = await client.chat.completions.create({model, messages, temperature: 0});
const {content: text, reasoning_content: reasoning} = whole.choices[0].message;
assert.ok(text && reasoning);
assert.equal(whole.choices[0].finish_reason, "stop");
const stream = await client.chat.completions.create(
    {model, messages, temperature: 0, stream: true, stream_options: {include_usage: true}});
let content = "", thoughts = "", usage;
for await (const chunk of stream) {
  usage = chunk.usage ?? usage;
  content += chunk.choices[0]?.delta?.content ?? "";
  thoughts += chunk.choices[0]?.delta?.reasoning_content ?? "";
}
assert.deepEqual([content, thoughts], [text, reasoning]);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

// The SDK's own tool runner: it calls our function and sends the result back.
const asked = [];
const runner = client.chat.completions.runTools({
  model,
  temperature: 0,
  max_tokens: 200,
  messages: [{role: "user", content: "What is the weather in Oslo?"}],
  tools: [{
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather in a city.",
      parse: JSON.parse,
      parameters: {type: "object", properties: {city: {type: "string"}}, required: ["city"]},
      function: ({city}) => {
        asked.push(city);
        return JSON.stringify({weather: "rain"});
      },
    },
  }],
}, {maxChatCompletions: 3});
try {
  await runner.finalContent();
} catch (error) {
  // The demo model may go on calling; what counts is that calls and results went round.
  if (!asked.length) throw error;
}
assert.ok(asked.length >= 1 && asked.every((city) => typeof city === "string" && city.length));
assert.ok(runner.messages.some((m) => m.role === "tool"));
assert.ok(runner.messages.filter((m) => m.role === "assistant").length >= 2);

// Closing a stream early must not upset the server.
const abandoned = await client.chat.completions.create(
    {model, messages: [{role: "user", content: "Tell me a long story."}], stream: true});
for await (const chunk of abandoned) {
  if (chunk.choices[0]?.delta) break;
}

await assert.rejects(client.chat.completions.create({model, messages, n: 17}), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({model: "gpt-4o", messages}), OpenAI.NotFoundError);
const stranger = new OpenAI({baseURL: client.baseURL, apiKey: "no", maxRetries: 0});
await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
console.log("openai (npm) is content");
