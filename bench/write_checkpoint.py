#!/usr/bin/env python3
"""Writes a checkpoint of a V4-shaped model with random weights in the published formats, for measuring how weights are
held and read (docs/operating.md).

    bench/write_checkpoint.py mid DIR [--seed 1]

Shapes are those of write_gguf.py. There is no tokenizer. Needs nothing but Python's library. The same seed gives the
same files.
"""
import argparse
import json
import math
import os
import random
import struct

from write_gguf import MODELS

WIDTH = {"I64": 8, "F32": 4, "BF16": 2, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1}
# Codes of E4M3 without NaN; numbers of BF16 and F32 get their size from their upper bytes.
FP8 = bytes(b & 0x9F | 0x20 for b in range(256))
PIECE = 1 << 22


def config(m):
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "bos_token_id": 0, "eos_token_id": 1,
        "expert_dtype": "fp4", "hc_eps": 1e-6, "hc_mult": m["hc"], "hc_sinkhorn_iters": 20, "head_dim": m["head_dim"],
        "hidden_act": "silu", "hidden_size": m["hidden"], "index_head_dim": m["index_dim"],
        "index_n_heads": m["index_heads"], "index_topk": m["topk"], "max_position_embeddings": 1 << 20,
        "moe_intermediate_size": m["ff"], "n_routed_experts": m["experts"], "n_shared_experts": m["shared"],
        "norm_topk_prob": True, "num_attention_heads": m["heads"], "num_experts_per_tok": m["used"],
        "num_hidden_layers": len(m["ratios"]), "num_hash_layers": m["hash_layers"], "num_key_value_heads": 1,
        "num_nextn_predict_layers": 0, "o_groups": m["o_groups"], "o_lora_rank": m["o_lora"],
        "q_lora_rank": m["q_lora"], "qk_rope_head_dim": m["rope"], "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 65536, "beta_fast": 32,
                         "beta_slow": 1},
        "rope_theta": 10000.0, "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus",
        "sliding_window": m["window"], "swiglu_limit": 10.0, "tie_word_embeddings": False, "topk_method": "noaux_tc",
        "vocab_size": m["vocab"], "compress_rope_theta": 160000.0, "compress_ratios": m["ratios"],
    }


def fp8(name, rows, cols):
    yield name + ".weight", "F8_E4M3", (rows, cols), cols
    yield name + ".scale", "F8_E8M0", (-(-rows // 128), -(-cols // 128)), cols


def fp4(name, rows, cols):
    yield name + ".weight", "I8", (rows, cols // 2), cols
    yield name + ".scale", "F8_E8M0", (rows, cols // 32), cols


def bf16(name, rows, cols):
    yield name + ".weight", "BF16", (rows, cols), cols


def norm(name, n):
    yield name + ".weight", "BF16", (n,), 0


def hyper(name, m, n_out, n_scales):
    yield name + "_fn", "F32", (n_out, m["hc"] * m["hidden"]), m["hc"] * m["hidden"]
    yield name + "_base", "F32", (n_out,), 4096
    yield name + "_scale", "F32", (n_scales,), 0


def compressor(p, m, ratio, dim):
    width = (2 if ratio == 4 else 1) * dim
    yield from bf16(p + "wkv", width, m["hidden"])
    yield from bf16(p + "wgate", width, m["hidden"])
    yield p + "ape", "F32", (ratio, width), 4096
    yield from norm(p + "norm", dim)


def attention(p, m, ratio):
    heads, out = m["heads"] * m["head_dim"], m["o_groups"] * m["o_lora"]
    yield from fp8(p + "wq_a", m["q_lora"], m["hidden"])
    yield from norm(p + "q_norm", m["q_lora"])
    yield from fp8(p + "wq_b", heads, m["q_lora"])
    yield from fp8(p + "wkv", m["head_dim"], m["hidden"])
    yield from norm(p + "kv_norm", m["head_dim"])
    yield from fp8(p + "wo_a", out, heads // m["o_groups"])
    yield from fp8(p + "wo_b", m["hidden"], out)
    yield p + "attn_sink", "F32", (m["heads"],), 4096
    if ratio:
        yield from compressor(p + "compressor.", m, ratio, m["head_dim"])
    if ratio == 4:
        yield from fp8(p + "indexer.wq_b", m["index_heads"] * m["index_dim"], m["q_lora"])
        yield from bf16(p + "indexer.weights_proj", m["index_heads"], m["hidden"])
        yield from compressor(p + "indexer.compressor.", m, 4, m["index_dim"])


def moe(p, m, hashed):
    yield from bf16(p + "gate", m["experts"], m["hidden"])
    if hashed:
        yield p + "gate.tid2eid", "I64", (m["vocab"], m["used"]), m["experts"]
    else:
        yield p + "gate.bias", "F32", (m["experts"],), 4096
    for e in range(m["experts"]):
        for part, rows, cols in (("w1", m["ff"], m["hidden"]), ("w2", m["hidden"], m["ff"]),
                                 ("w3", m["ff"], m["hidden"])):
            yield from fp4(f"{p}experts.{e}.{part}", rows, cols)
    for part, rows, cols in (("w1", m["ff"], m["hidden"]), ("w2", m["hidden"], m["ff"]), ("w3", m["ff"], m["hidden"])):
        yield from fp8(f"{p}shared_experts.{part}", rows, cols)


def tensors(m):
    """(name, dtype, shape, columns that a sum runs over; 0: all values are one)."""
    yield "embed.weight", "BF16", (m["vocab"], m["hidden"]), 4
    yield from bf16("head", m["vocab"], m["hidden"])
    yield from norm("norm", m["hidden"])
    yield from hyper("hc_head", m, m["hc"], 1)
    for layer, ratio in enumerate(m["ratios"]):
        p = f"layers.{layer}."
        yield from norm(p + "attn_norm", m["hidden"])
        yield from norm(p + "ffn_norm", m["hidden"])
        for site in ("hc_attn", "hc_ffn"):
            yield from hyper(p + site, m, (2 + m["hc"]) * m["hc"], 3)
        yield from attention(p + "attn.", m, ratio)
        yield from moe(p + "ffn.", m, layer < m["hash_layers"])


def values(rng, dtype, n, fan_in):
    """n values of a size that keeps products as large as their inputs."""
    exponent = 127 + round(math.log2(0.6 / math.sqrt(fan_in))) if fan_in else 127
    if dtype == "I64":  # distinct experts of a token; fan_in experts
        return b"".join(struct.pack("<q", (first + k) % fan_in) for first in (rng.randrange(fan_in) for _ in range(n // 6))
                        for k in range(6))
    if dtype == "F8_E8M0":
        return bytes([exponent]) * n
    if dtype == "F8_E4M3":
        return rng.randbytes(n).translate(FP8)
    if dtype == "I8":
        return rng.randbytes(n)
    width = WIDTH[dtype]
    if not fan_in:
        return struct.pack("<I", 0x3F800000)[4 - width:] * n
    raw = bytearray(rng.randbytes(n * width))  # sign, exponent, and whatever mantissa
    raw[width - 1::width] = bytes(b & 0x80 | exponent >> 1 for b in raw[width - 1::width])
    raw[width - 2::width] = bytes(b & 0x7F | (exponent & 1) << 7 for b in raw[width - 2::width])
    return bytes(raw)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("dir")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    m = MODELS[args.model]
    rng = random.Random(args.seed)
    os.makedirs(args.dir, exist_ok=True)
    with open(os.path.join(args.dir, "config.json"), "w") as f:
        json.dump(config(m), f, indent=2)
    # Widest first, so that each is aligned.
    all_tensors = sorted(tensors(m), key=lambda t: -WIDTH[t[1]])
    header, at = {}, 0
    for name, dtype, shape, _ in all_tensors:
        size = math.prod(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(args.dir, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, fan_in in all_tensors:
            left = math.prod(shape)
            while left > 0:
                n = min(left, PIECE) if dtype != "I64" else left
                f.write(values(rng, dtype, n, fan_in))
                left -= n


if __name__ == "__main__":
    main()
