"""`langchain-openai` (PyPI): ChatOpenAI with bound tools, streaming."""

import json

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI

import tools
from report import KEY, MODEL, N_TURNS_MAX, TASK, URL, Report

model = ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key=KEY, max_retries=0, stream_usage=True).bind_tools(
    [{"type": "function", "function": tool} for tool in TASK["tools"]])
messages = [SystemMessage(TASK["system"]), HumanMessage(TASK["prompt"])]
report = Report()

for n in range(N_TURNS_MAX):
    message, pieces = None, {}
    for chunk in model.stream(messages):
        message = chunk if message is None else message + chunk
        for call in chunk.tool_call_chunks:
            pieces[call["index"]] = pieces.get(call["index"], 0) + bool(call["args"])
    assert not message.invalid_tool_calls, message
    usage = message.usage_metadata
    report.turn([(c["name"], json.dumps(c["args"])) for c in message.tool_calls], message.text, usage["input_tokens"],
                usage["output_tokens"], None, list(pieces.values()))
    if not message.tool_calls:
        break
    messages.append(message)
    for call in message.tool_calls:
        result, failed = tools.run(call["name"], call["args"])
        messages.append(ToolMessage(result, tool_call_id=call["id"], status="error" if failed else "success"))

report.write()
