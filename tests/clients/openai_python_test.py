"""The `openai` package from PyPI against a running cluster: LONGSHELF_URL, LONGSHELF_KEY, LONGSHELF_MODEL."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["LONGSHELF_URL"] + "/v1", api_key=os.environ["LONGSHELF_KEY"], max_retries=0)
model = os.environ["LONGSHELF_MODEL"]
messages = [{"role": "user", "content": "What is the capital of Finland?"}]

assert [m.id for m in client.models.list()] == [model]
assert client.models.retrieve(model).object == "model"

# Chat, in one piece.
whole = client.chat.completions.create(model=model, messages=messages, temperature=0)
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason == "stop"
reasoning = whole.choices[0].message.reasoning_content
assert reasoning and "</think>" not in text + reasoning
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens

# The same, streamed.
content, thoughts, usage = "", "", None
for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0, stream=True,
                                            stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        content += choice.delta.content or ""
        thoughts += getattr(choice.delta, "reasoning_content", None) or ""
assert (content, thoughts) == (text, reasoning)
assert usage.completion_tokens == whole.usage.completion_tokens

# Without thinking, several choices, logprobs.
plain = client.chat.completions.create(model=model, messages=messages, temperature=0, n=2, logprobs=True, top_logprobs=3,
                                       extra_body={"thinking": {"type": "disabled"}})
assert len(plain.choices) == 2 and plain.choices[0].message.content == plain.choices[1].message.content
logprobs = plain.choices[0].logprobs.content
assert "".join(t.token for t in logprobs) == plain.choices[0].message.content
assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in logprobs)
assert all(t.token == t.top_logprobs[0].token for t in logprobs), "temperature 0 takes the most likely token"

# Stop strings and lengths.
stopped = client.chat.completions.create(model=model, messages=messages, temperature=0, stop=[text[4:9]],
                                         extra_body={"thinking": {"type": "disabled"}})
assert text[4:9] not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"
short = client.chat.completions.create(model=model, messages=messages, temperature=0, max_completion_tokens=3)
assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3

# A tools round trip, with what the SDK itself sends back.
tools = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
conversation = [{"role": "user", "content": "What is the weather in Oslo?"}]
call_turn = client.chat.completions.create(model=model, messages=conversation, tools=tools, temperature=0)
assert call_turn.choices[0].finish_reason == "tool_calls", call_turn
calls = call_turn.choices[0].message.tool_calls
assert calls[0].function.name == "get_weather" and "city" in json.loads(calls[0].function.arguments)
conversation.append(call_turn.choices[0].message.model_dump(exclude_none=True))
conversation += [{"role": "tool", "tool_call_id": c.id, "content": json.dumps({"weather": "rain"})} for c in calls]
answer = client.chat.completions.create(model=model, messages=conversation, tools=tools, temperature=0, max_tokens=200)
assert answer.choices[0].finish_reason in ("stop", "tool_calls", "length")
assert answer.usage.prompt_tokens > call_turn.usage.prompt_tokens
streamed_name, streamed_arguments = "", ""
for chunk in client.chat.completions.create(model=model, messages=conversation[:1], tools=tools, temperature=0,
                                            stream=True):
    for choice in chunk.choices:
        for delta in choice.delta.tool_calls or []:
            if delta.index == 0:
                streamed_name += delta.function.name or ""
                streamed_arguments += delta.function.arguments or ""
assert (streamed_name, streamed_arguments) == (calls[0].function.name, calls[0].function.arguments)

# Calls that are demanded, of any tool and of a certain one, whole and streamed.
tools += [{"type": "function", "function": {
    "name": "add", "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                   "required": ["a", "b"]}}}]
off = {"thinking": {"type": "disabled"}}
for name, choice, mode in (
        (None, "required", off), ("get_weather", {"type": "function", "function": {"name": "get_weather"}}, off),
        ("add", {"type": "function", "function": {"name": "add"}}, off),
        ("add", {"type": "function", "function": {"name": "add"}}, {})):
    asked = dict(model=model, messages=conversation[:1], tools=tools, tool_choice=choice, temperature=0, max_tokens=400,
                 extra_body=mode)
    demanded = client.chat.completions.create(**asked)
    assert demanded.choices[0].finish_reason == "tool_calls", demanded
    calls = demanded.choices[0].message.tool_calls
    assert not demanded.choices[0].message.content, demanded
    assert all(c.function.name in ("get_weather", "add") for c in calls), demanded
    assert all(isinstance(json.loads(c.function.arguments), dict) for c in calls), demanded
    if name:
        assert [c.function.name for c in calls] == [name], demanded
    assert mode is off or demanded.choices[0].message.reasoning_content, demanded
    streamed, reason = [], None
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for delta in choice.delta.tool_calls or []:
                streamed += [["", ""]] if delta.index == len(streamed) else []
                streamed[delta.index][0] += delta.function.name or ""
                streamed[delta.index][1] += delta.function.arguments or ""
    assert reason == "tool_calls" and streamed == [[c.function.name, c.function.arguments] for c in calls], streamed

# Answers and arguments that follow a schema, which the demo model would never write by itself.
schema = {"type": "object", "properties": {
    "city": {"enum": ["Oslo", "Paris"]}, "degrees": {"type": "integer", "minimum": -40, "maximum": 50},
    "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 2, "maxItems": 3}},
    "required": ["city", "degrees", "words"], "additionalProperties": False}


def follows(value):
    return (list(value) == ["city", "degrees", "words"] and value["city"] in ("Oslo", "Paris") and
            -40 <= value["degrees"] <= 50 and 2 <= len(value["words"]) <= 3 and all(len(w) <= 5 for w in value["words"]))


for mode in (off, {}):
    for temperature in (0, 1):
        asked = dict(model=model, messages=conversation[:1], temperature=temperature, max_tokens=400, seed=5,
                     extra_body=mode)
        held = client.chat.completions.create(**asked, response_format={
            "type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": schema}})
        if held.choices[0].finish_reason == "stop":
            assert follows(json.loads(held.choices[0].message.content)), held
        assert mode is not off or held.choices[0].finish_reason == "stop", held
        called = client.chat.completions.create(**asked, tool_choice="required", tools=[
            {"type": "function", "function": {"name": "report", "strict": True, "parameters": schema}}])
        for call in called.choices[0].message.tool_calls or []:
            assert follows(json.loads(call.function.arguments)), called
        assert mode is not off or called.choices[0].message.tool_calls, called

# An answer in one piece that takes long is preceded by blank lines, which no JSON parser minds.
slow = client.chat.completions.with_raw_response.create(model=model, messages=messages, n=16, temperature=1)
assert slow.text.startswith("\n") and "content-length" not in slow.headers, slow.text
assert len(slow.parse().choices) == 16

# Plain completions, on text and on token ids.
completion = client.completions.create(model=model, prompt="The capital of", max_tokens=5, temperature=0, logprobs=2)
assert len(completion.choices[0].logprobs.tokens) == 5
assert client.completions.create(model=model, prompt=[10, 11, 12], max_tokens=2).usage.prompt_tokens == 3
echoed = client.completions.create(model=model, prompt="The capital of", max_tokens=1, temperature=0, echo=True)
assert echoed.choices[0].text.startswith("The capital of")

# Several prompts, each with choices of its own, whole and streamed; what a prompt gives does not depend on the others.
lists = dict(model=model, prompt=["The capital of France", "Two and two"], max_tokens=6, n=2, seed=3, temperature=0.8)
several = client.completions.create(**lists)
assert [c.index for c in several.choices] == [0, 1, 2, 3] and several.usage.completion_tokens <= 24
alone = client.completions.create(**dict(lists, prompt="Two and two"))
assert [c.text for c in alone.choices] == [c.text for c in several.choices[2:]], (alone, several)
texts = [""] * 4
for chunk in client.completions.create(**lists, stream=True):
    for choice in chunk.choices:
        texts[choice.index] += choice.text
assert texts == [c.text for c in several.choices], (texts, several)
chat_texts = ["", ""]
for chunk in client.chat.completions.create(model=model, messages=messages, n=2, seed=1, max_tokens=20, stream=True,
                                            extra_body=off):
    for choice in chunk.choices:
        chat_texts[choice.index] += choice.delta.content or ""
assert all(chat_texts), chat_texts

# How likely texts are, as evaluation harnesses ask for it: a continuation that the model wrote itself is the likeliest.
context = "<｜User｜>What is the capital of Finland?<｜Assistant｜></think>"  # control tokens of a raw prompt are tokens
greedy = client.completions.create(model=model, prompt=context, max_tokens=6, temperature=0, logprobs=1)
written = greedy.choices[0].logprobs
continued = context + greedy.choices[0].text
asked = dict(model=model, prompt=[continued, context + " purple purple"], echo=True, logprobs=1, temperature=0)
for length in (0, 1):
    for stream in (False, True):
        scored = [{"text": "", "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []} for _ in "ab"]
        answer = client.completions.create(**asked, max_tokens=length, stream=stream)
        for part in answer if stream else [answer]:
            for choice in part.choices:
                scored[choice.index]["text"] += choice.text
                for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                    scored[choice.index][name] += getattr(choice.logprobs, name) if choice.logprobs else []
        likely, unlikely = scored
        assert likely["token_logprobs"][0] is None and likely["top_logprobs"][0] is None
        assert likely["text"].startswith(continued) and unlikely["text"].startswith(context + " purple purple")
        first = next(i for i, at in enumerate(likely["text_offset"]) if at >= len(context))
        count = len(likely["tokens"]) - length
        assert likely["tokens"][first:count] == written.tokens[:count - first], (likely, written)
        assert likely["token_logprobs"][first:count] == written.token_logprobs[:count - first], "the same bits"
        assert all(value == max(top.values())
                   for value, top in zip(likely["token_logprobs"][first:count], likely["top_logprobs"][first:count]))
        assert min(unlikely["token_logprobs"][first:]) < min(likely["token_logprobs"][first:count])

# A token that is biased away does not come; one that is biased up does.
banned = client.completions.create(model=model, prompt=context, max_tokens=8, temperature=0, logprobs=1,
                                   logit_bias={str(i): -100 for i in range(100)}).choices[0]
assert banned.text is not None
forced = client.completions.create(model=model, prompt=context, max_tokens=3, temperature=0, logit_bias={"100": 100},
                                   logprobs=0).choices[0].logprobs.tokens
assert len(set(forced)) == 1, forced

# Fields that the SDK sends as null.
nothing = client.completions.create(model=model, prompt=context, max_tokens=1, n=None, best_of=None, echo=None,
                                    logit_bias=None, logprobs=None, seed=None, stop=None, suffix=None, temperature=None)
assert len(nothing.choices) == 1
beta = openai.OpenAI(base_url=os.environ["LONGSHELF_URL"] + "/beta", api_key=os.environ["LONGSHELF_KEY"], max_retries=0)
prefixed = beta.chat.completions.create(model=model, max_tokens=8, temperature=0, extra_body=off, messages=messages + [
    {"role": "assistant", "content": "Helsinki is", "prefix": True}])
assert prefixed.choices[0].message.content

# Errors arrive as the SDK's own types.
for kind, call in (
        (openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=messages, n=17)),
        (openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[])),
        (openai.BadRequestError, lambda: client.chat.completions.create(
            model=model, messages=messages, response_format={"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"type": "array", "uniqueItems": True}}})),
        (openai.BadRequestError, lambda: client.chat.completions.create(
            model=model, messages=messages + [{"role": "tool", "tool_call_id": "call_1", "content": "rain"}])),
        (openai.BadRequestError, lambda: beta.completions.create(model=model, prompt="a", suffix="b")),
        (openai.BadRequestError, lambda: client.chat.completions.create(
            model=model, messages=messages, tools=tools, extra_body=off,
            tool_choice={"type": "function", "function": {"name": "other"}})),
        (openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=messages, extra_body=off,
                                                                        tool_choice="required")),
        (openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-4o", messages=messages)),
        (openai.AuthenticationError, lambda: openai.OpenAI(base_url=str(client.base_url), api_key="no",
                                                           max_retries=0).models.list())):
    try:
        call()
        raise SystemExit(f"{kind.__name__} expected")
    except kind as error:
        assert error.body["message"] and error.request_id, error
print("openai", openai.__version__, "is content")
