"""`anthropic` (PyPI), thinking on: its blocks go back with their signatures."""

import json

import anthropic

import tools
from report import KEY, MODEL, N_TURNS_MAX, TASK, URL, Report, reversed_members

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
messages = [{"role": "user", "content": TASK["prompt"]}]
report = Report()

for n in range(N_TURNS_MAX):
    if n == TASK["reloaded"]:
        # What is kept as JSON comes back as plain dictionaries.
        messages = json.loads(json.dumps(messages, default=lambda block: block.model_dump(exclude_none=True)))
        for message in messages:
            for block in message["content"] if isinstance(message["content"], list) else []:
                if block["type"] == "tool_use":
                    block["input"] = reversed_members(block["input"])
    pieces = {}
    with client.messages.stream(
            model=MODEL, max_tokens=30000, system=TASK["system"], messages=messages,
            thinking={"type": "enabled", "budget_tokens": 10000},
            tools=[{"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
                   for tool in TASK["tools"]]) as stream:
        for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                pieces[event.index] = pieces.get(event.index, 0) + bool(event.delta.partial_json)
        message = stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == ("tool_use" if calls else "end_turn"), message
    assert message.content[0].type == "thinking" and message.content[0].signature, message
    report.turn([(c.name, json.dumps(c.input)) for c in calls], "".join(b.text for b in message.content if b.type == "text"),
                message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0), message.usage.output_tokens,
                message.content[0].thinking, list(pieces.values()))
    if not calls:
        break
    results = []
    for call in calls:
        result, failed = tools.run(call.name, call.input)
        results.append({"type": "tool_result", "tool_use_id": call.id, "content": result, "is_error": failed})
    if n in TASK["reordered"]:
        for call in calls:
            call.input = reversed_members(call.input)
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]

report.write()
