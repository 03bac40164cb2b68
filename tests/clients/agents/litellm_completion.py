"""`litellm` (PyPI), as an OpenAI-compatible provider."""

import json

import litellm

import tools
from report import KEY, MODEL, N_TURNS_MAX, TASK, URL, Report

messages = [{"role": "system", "content": TASK["system"]}, {"role": "user", "content": TASK["prompt"]}]
report = Report()

for n in range(N_TURNS_MAX):
    chunks, pieces = [], {}
    for chunk in litellm.completion(
            model="openai/" + MODEL, api_base=URL + "/v1", api_key=KEY, messages=messages, num_retries=0, stream=True,
            stream_options={"include_usage": True},
            tools=[{"type": "function", "function": tool} for tool in TASK["tools"]]):
        chunks.append(chunk)
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or []:
                pieces[delta.index] = pieces.get(delta.index, 0) + bool(delta.function.arguments)
    completion = litellm.stream_chunk_builder(chunks, messages=messages)
    message, usage = completion.choices[0].message, completion.usage
    calls = message.tool_calls or []
    report.turn([(c.function.name, c.function.arguments) for c in calls], message.content, usage.prompt_tokens,
                usage.completion_tokens, message.reasoning_content, list(pieces.values()))
    if not calls:
        break
    messages.append(message)
    for call in calls:
        result, _ = tools.run(call.function.name, json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

report.write()
