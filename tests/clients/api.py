"""A small client on the standard library: what curl would do, with the answers put together."""

import http.client
import json


def post(port, path, body, headers=None, timeout=120):
    """(status, headers, parsed JSON)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.headers, json.loads(reply.read())
    finally:
        connection.close()


def events(port, path, body, headers=None, timeout=120, on_comment=None):
    """The JSON of every server-sent event, as it arrives; ends after [DONE]. Raises on any other end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps({**body, "stream": True}),
                           {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        assert reply.status == 200, (reply.status, reply.read())
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        while True:
            line = reply.readline()
            assert line, "the stream ended without [DONE]"
            line = line.decode().rstrip("\n")
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(line[6:])
            else:
                assert line == "" or line.startswith(":"), line
                if line and on_comment:
                    on_comment(line)
    finally:
        connection.close()


def streamed_message(port, body, headers=None, on_token=None):
    """(message, finish reason, usage) of a streamed chat completion, put together from its deltas."""
    message = {"role": None, "content": "", "reasoning_content": "", "tool_calls": []}
    finish, usage = None, None
    for event in events(port, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}, headers):
        assert "error" not in event, event
        if event.get("usage"):
            usage = event["usage"]
        for choice in event["choices"]:
            delta = choice["delta"]
            message["role"] = delta.get("role") or message["role"]
            for field in ("content", "reasoning_content"):
                message[field] += delta.get(field) or ""
            for call in delta.get("tool_calls", []):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"id": call["id"], "type": call["type"],
                                                  "function": {"name": call["function"]["name"], "arguments": ""}})
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"].get("arguments", "")
            finish = choice["finish_reason"] or finish
            if on_token and (delta.get("content") or delta.get("reasoning_content")):
                on_token()
    return message, finish, usage


def whole_message(port, body, headers=None):
    status, _, reply = post(port, "/v1/chat/completions", body, headers)
    assert status == 200, (status, reply)
    choice = reply["choices"][0]
    message = {"tool_calls": [], "reasoning_content": "", **choice["message"]}
    return message, choice["finish_reason"], reply["usage"]
