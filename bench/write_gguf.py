#!/usr/bin/env python3
"""Writes a GGUF of a V4-shaped model with random weights, for measuring other programs (bench/peers.md).

    bench/write_gguf.py mid mid.gguf [--seed 1]

Routed experts are MXFP4, other matrices Q8_0; compressors, router and output head are BF16, small tensors FP32. Needs
nothing but Python's library. The same seed gives the same file.
"""
import argparse
import random
import struct
import sys

MODELS = {
    "mid": dict(vocab=16384, hidden=1024, ratios=[0, 0, 4, 128, 4, 128, 4, 128, 4, 128], hash_layers=2, heads=16,
                head_dim=512, rope=64, q_lora=512, o_groups=4, o_lora=256, index_heads=16, index_dim=128, topk=512,
                experts=64, used=6, shared=1, ff=512, hc=4, window=128),
    "lite": dict(vocab=16384, hidden=1024, ratios=[0, 4, 128], hash_layers=1, heads=16, head_dim=512, rope=64,
                 q_lora=512, o_groups=4, o_lora=256, index_heads=16, index_dim=128, topk=512, experts=64, used=6,
                 shared=1, ff=512, hc=4, window=128),
}

# Numbers of the file format. A value's kind: numbers, texts and lists of them.
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
# A tensor's kind -> (its number, weights of a block, bytes of a block).
KINDS = {"f32": (0, 1, 4), "q8_0": (8, 32, 34), "i32": (26, 1, 4), "bf16": (30, 1, 2), "mxfp4": (39, 32, 17)}
ALIGNMENT = 32
# Of the scoring functions that router weights may have: sqrt(softplus).
GATING_SQRT_SOFTPLUS = 4
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def packed(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def pair(key, kind, value):
    if isinstance(value, list):
        body = struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(packed(kind, v) for v in value)
    else:
        body = struct.pack("<I", kind) + packed(kind, value)
    return text(key) + body


def settings(name, m):
    """(key, kind, value) of everything the peers ask for."""
    def arch(key, kind, value):
        return "deepseek4." + key, kind, value

    n_layers = len(m["ratios"])
    tokens = ["<s>", "</s>"] + [f"t{i}" for i in range(2, m["vocab"])]
    return [
        ("general.architecture", STRING, "deepseek4"),
        ("general.name", STRING, f"random {name}"),
        ("general.alignment", U32, ALIGNMENT),
        arch("vocab_size", U32, m["vocab"]),
        arch("context_length", U32, 1 << 20),
        arch("embedding_length", U32, m["hidden"]),
        arch("block_count", U32, n_layers),
        arch("feed_forward_length", U32, m["ff"]),
        arch("attention.head_count", U32, m["heads"]),
        arch("attention.head_count_kv", U32, 1),
        arch("attention.key_length", U32, m["head_dim"]),
        arch("attention.value_length", U32, m["head_dim"]),
        arch("attention.layer_norm_rms_epsilon", F32, 1e-6),
        arch("attention.q_lora_rank", U32, m["q_lora"]),
        arch("attention.sliding_window", U32, m["window"]),
        arch("attention.output_group_count", U32, m["o_groups"]),
        arch("attention.output_lora_rank", U32, m["o_lora"]),
        arch("attention.compress_ratios", U32, m["ratios"]),
        arch("attention.compress_rope_freq_base", F32, 160000.0),
        arch("attention.indexer.head_count", U32, m["index_heads"]),
        arch("attention.indexer.key_length", U32, m["index_dim"]),
        arch("attention.indexer.top_k", U32, m["topk"]),
        arch("rope.dimension_count", U32, m["rope"]),
        arch("rope.freq_base", F32, 10000.0),
        arch("rope.scaling.type", STRING, "yarn"),
        arch("rope.scaling.factor", F32, 16.0),
        arch("rope.scaling.original_context_length", U32, 65536),
        arch("rope.scaling.yarn_beta_fast", F32, 32.0),
        arch("rope.scaling.yarn_beta_slow", F32, 1.0),
        arch("expert_count", U32, m["experts"]),
        arch("expert_used_count", U32, m["used"]),
        arch("expert_shared_count", U32, m["shared"]),
        arch("expert_feed_forward_length", U32, m["ff"]),
        arch("expert_weights_scale", F32, 1.5),
        arch("expert_weights_norm", BOOL, True),
        arch("expert_gating_func", U32, GATING_SQRT_SOFTPLUS),
        arch("swiglu_clamp_exp", F32, [10.0] * n_layers),
        arch("swiglu_clamp_shexp", F32, [10.0] * n_layers),
        arch("hash_layer_count", U32, m["hash_layers"]),
        arch("hyper_connection.count", U32, m["hc"]),
        arch("hyper_connection.sinkhorn_iterations", U32, 20),
        arch("hyper_connection.epsilon", F32, 1e-6),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "default"),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.token_type", I32, [TOKEN_CONTROL] * 2 + [TOKEN_NORMAL] * (m["vocab"] - 2)),
        ("tokenizer.ggml.merges", STRING, ["t 2"]),
        ("tokenizer.ggml.bos_token_id", U32, 0),
        ("tokenizer.ggml.eos_token_id", U32, 1),
    ]


def compressor(prefix, m, ratio, dim):
    width = (2 if ratio == 4 else 1) * dim
    yield f"{prefix}_kv.weight", "bf16", (m["hidden"], width)
    yield f"{prefix}_gate.weight", "bf16", (m["hidden"], width)
    yield f"{prefix}_ape.weight", "f32", (width, ratio)
    yield f"{prefix}_norm.weight", "f32", (dim,)


def hyper_connections(name, m, n_out, n_scales):
    yield f"{name}_fn.weight", "f32", (m["hc"] * m["hidden"], n_out)
    yield f"{name}_base.weight", "f32", (n_out,)
    yield f"{name}_scale.weight", "f32", (n_scales,)


def attention(b, m, ratio):
    heads = m["heads"] * m["head_dim"]
    yield b + "attn_norm.weight", "f32", (m["hidden"],)
    yield b + "attn_sinks.weight", "f32", (m["heads"],)
    yield b + "attn_q_a.weight", "q8_0", (m["hidden"], m["q_lora"])
    yield b + "attn_q_a_norm.weight", "f32", (m["q_lora"],)
    yield b + "attn_q_b.weight", "q8_0", (m["q_lora"], heads)
    yield b + "attn_kv.weight", "q8_0", (m["hidden"], m["head_dim"])
    yield b + "attn_kv_a_norm.weight", "f32", (m["head_dim"],)
    yield b + "attn_output_a.weight", "q8_0", (heads // m["o_groups"], m["o_groups"] * m["o_lora"])
    yield b + "attn_output_b.weight", "q8_0", (m["o_groups"] * m["o_lora"], m["hidden"])
    if ratio:
        yield from compressor(b + "attn_compressor", m, ratio, m["head_dim"])
    if ratio == 4:
        yield b + "indexer.proj.weight", "bf16", (m["hidden"], m["index_heads"])
        yield b + "indexer.attn_q_b.weight", "q8_0", (m["q_lora"], m["index_heads"] * m["index_dim"])
        yield from compressor(b + "indexer_compressor", m, ratio, m["index_dim"])


def experts(b, m, hashed):
    hidden, ff, shared = m["hidden"], m["ff"], m["ff"] * m["shared"]
    yield b + "ffn_norm.weight", "f32", (hidden,)
    yield b + "ffn_gate_inp.weight", "bf16", (hidden, m["experts"])
    if hashed:
        yield b + "ffn_gate_tid2eid.weight", "i32", (m["used"], m["vocab"])
    else:
        yield b + "exp_probs_b.bias", "f32", (m["experts"],)
    yield b + "ffn_gate_exps.weight", "mxfp4", (hidden, ff, m["experts"])
    yield b + "ffn_up_exps.weight", "mxfp4", (hidden, ff, m["experts"])
    yield b + "ffn_down_exps.weight", "mxfp4", (ff, hidden, m["experts"])
    yield b + "ffn_gate_shexp.weight", "q8_0", (hidden, shared)
    yield b + "ffn_up_shexp.weight", "q8_0", (hidden, shared)
    yield b + "ffn_down_shexp.weight", "q8_0", (shared, hidden)


def tensors(m):
    """(name, kind, shape), the innermost dimension first."""
    yield "token_embd.weight", "q8_0", (m["hidden"], m["vocab"])
    yield "output_norm.weight", "f32", (m["hidden"],)
    yield "output.weight", "bf16", (m["hidden"], m["vocab"])
    yield from hyper_connections("output_hc", m, m["hc"], 1)
    for i, ratio in enumerate(m["ratios"]):
        b = f"blk.{i}."
        n_out = (2 + m["hc"]) * m["hc"]
        yield from hyper_connections(b + "hc_attn", m, n_out, 3)
        yield from hyper_connections(b + "hc_ffn", m, n_out, 3)
        yield from attention(b, m, ratio)
        yield from experts(b, m, i < m["hash_layers"])


def n_values(shape):
    n = 1
    for side in shape:
        n *= side
    return n


def n_bytes(kind, shape):
    _, block, size = KINDS[kind]
    assert shape[0] % block == 0, shape
    return n_values(shape) // block * size


# Maps each random byte to what may stand there.
SIGNED_CODES = bytes(max(1, b) for b in range(256))  # Q8_0: 0x80 is not a code of a symmetric format
BF16_HIGH = bytes(0x3C | (b & 0x80) for b in range(256))  # with a random low byte: +-[1/128, 1/32)
NORM, SMALL = struct.pack("<f", 1.0), 0.02


def block_rows(scale, codes, each):
    """Blocks of one constant scale and `each` bytes of codes."""
    parts = bytearray()
    for at in range(0, len(codes), each):
        parts += scale
        parts += codes[at:at + each]
    return bytes(parts)


def contents(name, kind, shape, m, rng):
    """The tensor's bytes, in pieces."""
    n = n_values(shape)
    if kind == "f32":
        if "norm" in name:
            yield NORM * n
        else:
            yield struct.pack(f"<{n}f", *(rng.uniform(-SMALL, SMALL) for _ in range(n)))
    elif kind == "i32":
        # Distinct experts for each token, as a trained table has.
        for _ in range(shape[1]):
            first = rng.randrange(m["experts"])
            yield struct.pack(f"<{shape[0]}i", *((first + k) % m["experts"] for k in range(shape[0])))
    elif kind == "bf16":
        raw = bytearray(rng.randbytes(2 * n))
        raw[1::2] = raw[1::2].translate(BF16_HIGH)
        yield bytes(raw)
    else:
        _, block, size = KINDS[kind]
        fan_in = shape[0]
        for _ in range(n // fan_in // 64 or 1):
            rows = min(64, n // fan_in)
            if kind == "q8_0":
                codes = rng.randbytes(rows * fan_in).translate(SIGNED_CODES)
                scale = struct.pack("<e", 1 / (74 * fan_in**0.5))  # codes have root mean square 74
            else:
                codes = rng.randbytes(rows * fan_in // 2)
                scale = bytes([round(127 - 1.5 - fan_in.bit_length() / 2)])  # a power of two
            yield block_rows(scale, codes, size - len(scale))


def pad(file, n):
    file.write(b"\0" * (-n % ALIGNMENT))


def write(name, path, seed):
    m = MODELS[name]
    listed = list(tensors(m))
    pairs = [pair(*s) for s in settings(name, m)]
    head = [b"GGUF", struct.pack("<IQQ", 3, len(listed), len(pairs)), *pairs]
    offset = 0
    for tensor, kind, shape in listed:
        head.append(text(tensor) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, KINDS[kind][0], offset))
        offset += n_bytes(kind, shape)
        offset += -offset % ALIGNMENT
    with open(path, "wb") as file:
        raw = b"".join(head)
        file.write(raw)
        pad(file, len(raw))
        for tensor, kind, shape in listed:
            rng = random.Random(f"{seed} {tensor}")
            written = sum(file.write(piece) for piece in contents(tensor, kind, shape, m, rng))
            assert written == n_bytes(kind, shape), (tensor, written)
            pad(file, written)
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    size = write(args.model, args.path, args.seed)
    print(f"{args.path}: {size / 1e9:.2f} GB of tensors", file=sys.stderr)


if __name__ == "__main__":
    main()
