"""`openai` (PyPI), chat completions."""

import json

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

import tools
from report import KEY, MODEL, N_TURNS_MAX, TASK, URL, Report, rewritten

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
messages = [{"role": "system", "content": TASK["system"]}, {"role": "user", "content": TASK["prompt"]}]
report = Report()

for n in range(N_TURNS_MAX):
    if n == TASK["reloaded"]:
        for message in messages:
            for call in message.get("tool_calls") or []:
                call["function"]["arguments"] = rewritten(call["function"]["arguments"])
    state, pieces = ChatCompletionStreamState(), {}
    for chunk in client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True},
            tools=[{"type": "function", "function": tool} for tool in TASK["tools"]]):
        state.handle_chunk(chunk)
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or []:
                pieces[delta.index] = pieces.get(delta.index, 0) + bool(delta.function.arguments)
    completion = state.get_final_completion()
    message, usage = completion.choices[0].message, completion.usage
    calls = message.tool_calls or []
    assert completion.choices[0].finish_reason == ("tool_calls" if calls else "stop"), completion
    report.turn([(c.function.name, c.function.arguments) for c in calls], message.content, usage.prompt_tokens,
                usage.completion_tokens, message.reasoning_content, list(pieces.values()))
    if not calls:
        break
    sent = message.model_dump(exclude_none=True)
    if n in TASK["reordered"]:
        for call in sent["tool_calls"]:
            call["function"]["arguments"] = rewritten(call["function"]["arguments"])
    messages.append(sent)
    for call in calls:
        result, _ = tools.run(call.function.name, json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

report.write()
