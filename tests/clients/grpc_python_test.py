"""grpcio with nothing but reflection: the service's own description makes the messages. LONGSHELF_GRPC, LONGSHELF_KEY,
LONGSHELF_MODEL."""

import json
import os

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(os.environ["LONGSHELF_GRPC"])
database = ProtoReflectionDescriptorDatabase(channel)
services = database.get_services()
assert "longshelf.v1.Inference" in services and "grpc.health.v1.Health" in services, services
pool = DescriptorPool(database)
service = pool.FindServiceByName("longshelf.v1.Inference")
key = [("authorization", "Bearer " + os.environ["LONGSHELF_KEY"])]


def message(name, /, **fields):
    return GetMessageClass(pool.FindMessageTypeByName("longshelf.v1." + name))(**fields)


def call(method_name, request, metadata=key):
    method = service.methods_by_name[method_name]
    reply = GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    rpc = kind(f"/longshelf.v1.Inference/{method_name}", request_serializer=lambda m: m.SerializeToString(),
               response_deserializer=reply.FromString)
    return rpc(request, metadata=metadata, timeout=60)


health = health_pb2_grpc.HealthStub(channel)
for name in ("", "longshelf.v1.Inference"):
    assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == 1

models = call("ListModels", message("ListModelsRequest"))
assert [m.id for m in models.models] == [os.environ["LONGSHELF_MODEL"]] and models.models[0].context_length > 0

options = message("GenerationOptions", temperature=0, max_tokens=60)
chat = message("ChatRequest", options=options,
               messages=[message("ChatMessage", role="user", content="What is the capital of Finland?")])
replies = list(call("Chat", chat))
content = "".join(r.content for r in replies)
assert content and "".join(r.reasoning_content for r in replies), replies
assert replies[-1].finish_reason == "stop" and replies[-1].usage.completion_tokens > 0
assert not any(r.HasField("usage") for r in replies[:-1])

counted = call("CountTokens", message("CountTokensRequest", chat=chat)).n_tokens
assert counted == replies[-1].usage.prompt_tokens, (counted, replies[-1].usage)
assert call("CountTokens", message("CountTokensRequest", text="one two three")).n_tokens > 0

chat.thinking = False
assert not any(r.reasoning_content for r in call("Chat", chat))

weather = message("ChatRequest", options=message("GenerationOptions", temperature=0, max_tokens=120),
                  messages=[message("ChatMessage", role="user", content="What is the weather in Oslo?")],
                  tools=[message("Tool", name="get_weather", description="Get the weather in a city.", parameters_json=
                                 '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}')])
replies = list(call("Chat", weather))
assert replies[-1].finish_reason == "tool_calls"
deltas = [c for r in replies for c in r.tool_calls]
assert [c.name for c in deltas if c.name] == ["get_weather"] and deltas[-1].complete
assert "city" in json.loads("".join(c.arguments_json for c in deltas))

generated = list(call("Generate", message("GenerateRequest", tokens=message("TokenIds", ids=[10, 11, 12]),
                                          options=message("GenerationOptions", temperature=0, max_tokens=4,
                                                          top_logprobs=2))))
assert sum(len(r.tokens) for r in generated) == 4 and generated[-1].finish_reason in ("length", "stop")
assert all(len(p.top) == 2 for r in generated for p in r.logprobs)

for request, metadata, code in (
        (message("GenerateRequest", text="x", options=message("GenerationOptions", temperature=9)), key,
         grpc.StatusCode.INVALID_ARGUMENT),
        (message("GenerateRequest", text=""), key, grpc.StatusCode.INVALID_ARGUMENT),
        (message("GenerateRequest", text="x", model="other"), key, grpc.StatusCode.NOT_FOUND),
        (message("GenerateRequest", text="x"), [], grpc.StatusCode.UNAUTHENTICATED),
        (message("GenerateRequest", text="x"), [("authorization", "Bearer no")], grpc.StatusCode.UNAUTHENTICATED)):
    try:
        list(call("Generate", request, metadata))
        raise SystemExit(f"{code} expected")
    except grpc.RpcError as error:
        assert error.code() == code, error
for method, request in (("ListModels", message("ListModelsRequest")),
                        ("CountTokens", message("CountTokensRequest", text="x"))):
    try:
        call(method, request, [])
        raise SystemExit("UNAUTHENTICATED expected")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
# A session: parked in the middle of its answer, it goes on to the byte.
def story(**fields):
    return message("ChatRequest", thinking=False, messages=[message("ChatMessage", role="user", content="Tell me a long story.")],
                   options=message("GenerationOptions", temperature=2, seed=1000, max_tokens=400), **fields)


def code_of(method, request):
    try:
        reply = call(method, request)
        list(reply) if hasattr(reply, "__iter__") else reply
    except grpc.RpcError as error:
        return error.code()


whole = "".join(r.content for r in call("Chat", story()))
assert len(whole) > 200, whole
stream = call("Chat", story(session=message("SessionOptions", id="grpc-session")))
begun = ""
for reply in stream:
    begun += reply.content
    if len(begun) > 50:
        break
ref = message("SessionRef", id="grpc-session")
parked = call("ParkSession", message("ParkSessionRequest", id="grpc-session", retention_s=60))
assert parked.status == "unfinished" and parked.retain_until_unix_s > parked.parked_unix_s, parked
for reply in stream:
    begun += reply.content
assert reply.finish_reason == "parked", reply
assert code_of("ResumeGenerate", ref) == grpc.StatusCode.FAILED_PRECONDITION
rest = "".join(r.content for r in call("ResumeChat", ref))
assert begun and rest and begun + rest == whole, (begun, rest, whole)
assert "grpc-session" in [s.id for s in call("ListSessions", message("ListSessionsRequest", limit=100)).sessions]
assert call("GetSession", ref).status == "finished"
assert call("DeleteSession", ref).id == "grpc-session"
assert code_of("GetSession", ref) == grpc.StatusCode.NOT_FOUND
assert code_of("ParkSession", message("ParkSessionRequest", id="grpc-session")) == grpc.StatusCode.INVALID_ARGUMENT

print("grpcio", grpc.__version__, "is content")
