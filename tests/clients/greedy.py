"""The demo model's reference completions, as requests and as what a client must see."""

import json
import os
import re

EOS = "<｜end▁of▁sentence｜>"
CALLS = "\n\n<｜DSML｜tool_calls>\n"
INVOKE = re.compile(r'<｜DSML｜invoke name="([^"]*)">\n(.*?)\n?</｜DSML｜invoke>', re.S)
PARAMETER = re.compile(r'<｜DSML｜parameter name="([^"]*)" string="(true|false)">(.*?)</｜DSML｜parameter>', re.S)


def load(model):
    with open(os.path.join(model, "greedy.json"), encoding="utf-8") as file:
        return json.load(file)


def request_of(case):
    thinking = "enabled" if case["thinking_mode"] == "thinking" else "disabled"
    return {"messages": case["messages"], "thinking": {"type": thinking}, "temperature": 0,
            "max_tokens": len(case["completion_ids"]) + 8}


def expected_of(case):
    """{content, reasoning_content, calls, finish} of the reference's text."""
    text = case["completion"]
    assert text.endswith(EOS), text
    text = text[:-len(EOS)]
    reasoning = ""
    if case["thinking_mode"] == "thinking":
        reasoning, text = text.split("</think>", 1)
    content, _, block = text.partition(CALLS)
    calls = [(name, {key: value if is_string == "true" else json.loads(value)
                     for key, is_string, value in PARAMETER.findall(body)})
             for name, body in INVOKE.findall(block)]
    return {"content": content, "reasoning_content": reasoning, "calls": calls,
            "finish": "tool_calls" if calls else "stop"}


def seen(message, finish):
    return {"content": message["content"] or "", "reasoning_content": message.get("reasoning_content") or "",
            "calls": [(call["function"]["name"], json.loads(call["function"]["arguments"]))
                      for call in message["tool_calls"]],
            "finish": finish}
