#!/usr/bin/env python3
"""Writes a GGUF of random weights in the shape that engine_bench calls `mid`, for llama.cpp and its relatives.

    bench/write_gguf.py OUTPUT.gguf [--layers 10] [--experts 64] [--seed 1]

Architecture `deepseek4`: routed experts in MXFP4, dense matrices in Q8_0, compressors, index head weights, gates,
embedding and output head in BF16, the rest in F32. About 0.8 GB. The tokenizer is a stand-in that makes the file
loadable: token i is the text of its number. Only Python's standard library is needed.
"""
import argparse
import math
import random
import struct
import sys

ARCH = "deepseek4"
ALIGNMENT = 32

# The container's type numbers: of tensors, and of metadata values.
F32, Q8_0, BF16, I32, MXFP4 = 0, 8, 30, 26, 39
U32, INT32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
BLOCK = {F32: (1, 4), I32: (1, 4), BF16: (1, 2), Q8_0: (32, 34), MXFP4: (32, 17)}  # values, bytes
SQRT_SOFTPLUS = 4  # how the router scores

SHAPE = {
    "vocab": 16384, "hidden": 1024, "heads": 16, "head_dim": 512, "rope": 64, "q_lora": 512, "o_groups": 4,
    "o_lora": 256, "window": 128, "index_heads": 16, "index_dim": 128, "topk": 512, "experts_used": 6, "ff": 512,
    "hc": 4, "hash_layers": 2,
}


def ratio(layer):
    return 0 if layer < 2 else 4 if layer % 2 == 0 else 128


def product(dims):
    return math.prod(dims)


class Random:
    """Random contents of a tensor, in its stored form, with products that keep the size of their input."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def floats(self, n, exponent):
        """F32: sign * [1, 2) * 2^exponent."""
        words = bytearray(self.random.randbytes(4 * n))
        high, low = self._exponent(exponent)
        words[3::4] = words[3::4].translate(high)
        words[2::4] = words[2::4].translate(low)
        return bytes(words)

    def bf16(self, n, exponent):
        words = bytearray(self.random.randbytes(2 * n))
        high, low = self._exponent(exponent)
        words[1::2] = words[1::2].translate(high)
        words[0::2] = words[0::2].translate(low)
        return bytes(words)

    def q8_0(self, n, exponent):
        """A half-precision scale and 32 codes; -128 is not a code."""
        blocks = bytearray(self.random.randbytes(n // 32 * 34)).replace(b"\x80", b"\x81")
        scale = struct.pack("<e", 2.0 ** (exponent - 6))
        blocks[0::34] = scale[:1] * (n // 32)
        blocks[1::34] = scale[1:] * (n // 32)
        return bytes(blocks)

    def mxfp4(self, n, exponent):
        """An exponent and 32 codes of four bits."""
        blocks = bytearray(self.random.randbytes(n // 32 * 17))
        blocks[0::17] = bytes([127 + exponent - 1]) * (n // 32)
        return bytes(blocks)

    def expert_ids(self, n_tokens, n_each, n_experts):
        rows = []
        for _ in range(n_tokens):
            rows += self.random.sample(range(n_experts), n_each)
        return struct.pack(f"<{len(rows)}i", *rows)

    @staticmethod
    def _exponent(exponent):
        biased = exponent + 127
        high = bytes((byte & 0x80) | (biased >> 1) for byte in range(256))
        low = bytes((byte & 0x7F) | ((biased & 1) << 7) for byte in range(256))
        return high, low


class Model:
    """Tensors by name: type, dimensions (columns first) and how to fill them."""

    def __init__(self, n_layers, n_experts, seed):
        self.n_layers, self.n_experts = n_layers, n_experts
        self.random = Random(seed)
        self.tensors = []
        s = SHAPE
        self.matrix("token_embd.weight", BF16, s["hidden"], s["vocab"])
        self.matrix("output.weight", BF16, s["hidden"], s["vocab"])
        self.ones("output_norm.weight", s["hidden"])
        self.hyper_connection("output_hc", s["hc"], 1)
        for layer in range(n_layers):
            self.attention(layer)
            self.experts(layer)

    def add(self, name, kind, dims, fill):
        self.tensors.append((name, kind, dims, fill))

    def matrix(self, name, kind, *dims):
        exponent = round(math.log2(0.65 / math.sqrt(dims[0])))
        fill = {F32: self.random.floats, BF16: self.random.bf16, Q8_0: self.random.q8_0, MXFP4: self.random.mxfp4}[kind]
        self.add(name, kind, dims, lambda: fill(product(dims), exponent))

    def ones(self, name, n):
        self.add(name, F32, (n,), lambda: struct.pack("<f", 1.0) * n)

    def small(self, name, *dims):
        self.add(name, F32, dims, lambda: self.random.floats(product(dims), -6))

    def hyper_connection(self, prefix, n_out, n_scales):
        self.matrix(f"{prefix}_fn.weight", F32, SHAPE["hc"] * SHAPE["hidden"], n_out)
        self.small(f"{prefix}_base.weight", n_out)
        self.ones(f"{prefix}_scale.weight", n_scales)

    def compressor(self, prefix, width, dim, tokens):
        self.matrix(f"{prefix}_kv.weight", BF16, SHAPE["hidden"], width)
        self.matrix(f"{prefix}_gate.weight", BF16, SHAPE["hidden"], width)
        self.small(f"{prefix}_ape.weight", width, tokens)
        self.ones(f"{prefix}_norm.weight", dim)

    def attention(self, layer):
        s, b = SHAPE, f"blk.{layer}."
        heads = s["heads"] * s["head_dim"]
        self.ones(b + "attn_norm.weight", s["hidden"])
        self.small(b + "attn_sinks.weight", s["heads"])
        self.matrix(b + "attn_q_a.weight", Q8_0, s["hidden"], s["q_lora"])
        self.ones(b + "attn_q_a_norm.weight", s["q_lora"])
        self.matrix(b + "attn_q_b.weight", Q8_0, s["q_lora"], heads)
        self.matrix(b + "attn_kv.weight", Q8_0, s["hidden"], s["head_dim"])
        self.ones(b + "attn_kv_a_norm.weight", s["head_dim"])
        self.matrix(b + "attn_output_a.weight", Q8_0, heads // s["o_groups"], s["o_lora"] * s["o_groups"])
        self.matrix(b + "attn_output_b.weight", Q8_0, s["o_lora"] * s["o_groups"], s["hidden"])
        for site in ("attn", "ffn"):
            self.hyper_connection(f"{b}hc_{site}", (2 + s["hc"]) * s["hc"], 3)
        tokens = ratio(layer)
        if tokens != 0:
            overlap = 2 if tokens == 4 else 1
            self.compressor(b + "attn_compressor", overlap * s["head_dim"], s["head_dim"], tokens)
        if tokens == 4:
            self.matrix(b + "indexer.proj.weight", BF16, s["hidden"], s["index_heads"])
            self.matrix(b + "indexer.attn_q_b.weight", Q8_0, s["q_lora"], s["index_heads"] * s["index_dim"])
            self.compressor(b + "indexer_compressor", 2 * s["index_dim"], s["index_dim"], tokens)

    def experts(self, layer):
        s, b = SHAPE, f"blk.{layer}."
        self.ones(b + "ffn_norm.weight", s["hidden"])
        self.matrix(b + "ffn_gate_inp.weight", BF16, s["hidden"], self.n_experts)
        if layer < s["hash_layers"]:
            self.add(b + "ffn_gate_tid2eid.weight", I32, (s["experts_used"], s["vocab"]),
                     lambda: self.random.expert_ids(s["vocab"], s["experts_used"], self.n_experts))
        else:
            self.small(b + "exp_probs_b.bias", self.n_experts)
        for kind, suffix, more in ((MXFP4, "exps", (self.n_experts,)), (Q8_0, "shexp", ())):
            self.matrix(f"{b}ffn_gate_{suffix}.weight", kind, s["hidden"], s["ff"], *more)
            self.matrix(f"{b}ffn_up_{suffix}.weight", kind, s["hidden"], s["ff"], *more)
            self.matrix(f"{b}ffn_down_{suffix}.weight", kind, s["ff"], s["hidden"], *more)

    def metadata(self):
        s = SHAPE
        yield "general.architecture", STRING, ARCH
        yield "general.name", STRING, "mid, random"
        yield "general.alignment", U32, ALIGNMENT
        of_arch = [
            ("context_length", U32, 1 << 20), ("vocab_size", U32, s["vocab"]), ("embedding_length", U32, s["hidden"]),
            ("block_count", U32, self.n_layers), ("feed_forward_length", U32, s["ff"]),
            ("attention.head_count", U32, s["heads"]), ("attention.head_count_kv", U32, 1),
            ("attention.key_length", U32, s["head_dim"]), ("attention.value_length", U32, s["head_dim"]),
            ("attention.layer_norm_rms_epsilon", FLOAT, 1e-6), ("attention.q_lora_rank", U32, s["q_lora"]),
            ("attention.sliding_window", U32, s["window"]), ("attention.output_group_count", U32, s["o_groups"]),
            ("attention.output_lora_rank", U32, s["o_lora"]),
            ("attention.compress_ratios", (ARRAY, U32), [ratio(i) for i in range(self.n_layers)]),
            ("attention.compress_rope_freq_base", FLOAT, 160000.0),
            ("attention.indexer.head_count", U32, s["index_heads"]),
            ("attention.indexer.key_length", U32, s["index_dim"]), ("attention.indexer.top_k", U32, s["topk"]),
            ("rope.dimension_count", U32, s["rope"]), ("rope.freq_base", FLOAT, 10000.0),
            ("rope.scaling.type", STRING, "yarn"), ("rope.scaling.factor", FLOAT, 16.0),
            ("rope.scaling.original_context_length", U32, 65536),
            ("rope.scaling.yarn_beta_fast", FLOAT, 32.0), ("rope.scaling.yarn_beta_slow", FLOAT, 1.0),
            ("expert_count", U32, self.n_experts), ("expert_used_count", U32, s["experts_used"]),
            ("expert_shared_count", U32, 1), ("expert_feed_forward_length", U32, s["ff"]),
            ("expert_weights_scale", FLOAT, 1.5), ("expert_weights_norm", BOOL, True),
            ("expert_gating_func", U32, SQRT_SOFTPLUS), ("swiglu_clamp_exp", (ARRAY, FLOAT), [10.0] * self.n_layers),
            ("hash_layer_count", U32, s["hash_layers"]), ("hyper_connection.count", U32, s["hc"]),
            ("hyper_connection.sinkhorn_iterations", U32, 20), ("hyper_connection.epsilon", FLOAT, 1e-6),
        ]
        for key, kind, value in of_arch:
            yield f"{ARCH}.{key}", kind, value
        tokens = [f"<{i}>" for i in range(s["vocab"])]
        yield "tokenizer.ggml.model", STRING, "gpt2"
        yield "tokenizer.ggml.pre", STRING, "deepseek-v3"
        yield "tokenizer.ggml.tokens", (ARRAY, STRING), tokens
        yield "tokenizer.ggml.token_type", (ARRAY, INT32), [1] * len(tokens)
        yield "tokenizer.ggml.merges", (ARRAY, STRING), ["< 0"]
        yield "tokenizer.ggml.bos_token_id", U32, 0
        yield "tokenizer.ggml.eos_token_id", U32, 1


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack({U32: "<I", INT32: "<i", FLOAT: "<f", BOOL: "<?"}[kind], value)


def pair(key, kind, value):
    if isinstance(kind, tuple):
        return (text(key) + struct.pack("<IIQ", ARRAY, kind[1], len(value)) +
                b"".join(scalar(kind[1], item) for item in value))
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def padded(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write(model, file):
    pairs = [pair(*entry) for entry in model.metadata()]
    header = [b"GGUF", struct.pack("<IQQ", 3, len(model.tensors), len(pairs)), *pairs]
    offset = 0
    sizes = []
    for name, kind, dims, _ in model.tensors:
        values, n_bytes = BLOCK[kind]
        header.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        sizes.append(product(dims) // values * n_bytes)
        offset += padded(sizes[-1])
    head = b"".join(header)
    file.write(head.ljust(padded(len(head)), b"\0"))
    for (name, _, _, fill), size in zip(model.tensors, sizes):
        data = fill()
        if len(data) != size:
            sys.exit(f"write_gguf.py: {name} has {len(data)} bytes, not {size}")
        file.write(data.ljust(padded(size), b"\0"))
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.layers <= SHAPE["hash_layers"] or args.experts < SHAPE["experts_used"]:
        parser.error(f"at least {SHAPE['hash_layers'] + 1} layers and {SHAPE['experts_used']} experts")
    with open(args.output, "wb") as file:
        n_bytes = write(Model(args.layers, args.experts, args.seed), file)
    print(f"write_gguf.py: {args.output}: {n_bytes / 1e9:.2f} GB of weights", file=sys.stderr)


if __name__ == "__main__":
    main()
