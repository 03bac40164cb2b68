"""`openai` (PyPI), responses."""

import json

import openai

import tools
from report import KEY, MODEL, N_TURNS_MAX, TASK, URL, Report, rewritten

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
items = [{"role": "user", "content": TASK["prompt"]}]
report = Report()

for n in range(N_TURNS_MAX):
    pieces = {}
    with client.responses.stream(
            model=MODEL, instructions=TASK["system"], input=items, store=False, include=["reasoning.encrypted_content"],
            tools=[{"type": "function", "strict": False, **tool} for tool in TASK["tools"]]) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                pieces[event.output_index] = pieces.get(event.output_index, 0) + 1
        response = stream.get_final_response()
    assert response.status == "completed", response
    calls = [item for item in response.output if item.type == "function_call"]
    thoughts = "".join(part.text for item in response.output if item.type == "reasoning" for part in item.content)
    report.turn([(c.name, c.arguments) for c in calls], response.output_text, response.usage.input_tokens,
                response.usage.output_tokens, thoughts, list(pieces.values()))
    if not calls:
        break
    if n in TASK["reordered"]:
        for call in calls:
            call.arguments = rewritten(call.arguments)
    items += response.output
    for call in calls:
        result, _ = tools.run(call.name, json.loads(call.arguments))
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})

report.write()
