"""Writes rope_scaling.json: what transformers computes for every kind of rotary scaling.

Run from anywhere: python make_fixtures.py
"""

import json
import pathlib

import torch
from transformers import LlamaConfig, modeling_rope_utils
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = pathlib.Path(__file__).resolve().parent

# name, head size, max_position_embeddings, rope parameters, sequence length (only dynamic looks at it)
LONG = [1.0 + 0.25 * i for i in range(16)]
SHORT = [1.0 + 0.02 * i for i in range(16)]
CASES = [
    ("default, LLaMA 2", 128, 4096, dict(rope_type="default", rope_theta=10000.0), None),
    ("default, base 5e7 for a million tokens", 128, 1048576, dict(rope_type="default", rope_theta=5e7), None),
    ("linear by 4", 128, 8192, dict(rope_type="linear", rope_theta=10000.0, factor=4.0), None),
    ("linear by 2.5, small head", 16, 4096, dict(rope_type="linear", rope_theta=500000.0, factor=2.5), None),
    ("dynamic, inside the trained length", 64, 2048, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 1000),
    ("dynamic, beyond the trained length", 64, 2048, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 5000),
    ("dynamic by 8", 128, 4096, dict(rope_type="dynamic", rope_theta=10000.0, factor=8.0), 32768),
    ("yarn by 16", 128, 65536, dict(
        rope_type="yarn", rope_theta=10000.0, factor=16.0, original_max_position_embeddings=4096), None),
    ("yarn, everything given", 64, 131072, dict(
        rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768, beta_fast=24.0,
        beta_slow=2.0, attention_factor=1.25, truncate=False), None),
    ("yarn, mscale", 64, 163840, dict(
        rope_type="yarn", rope_theta=10000.0, factor=40.0, original_max_position_embeddings=4096, beta_fast=32.0,
        beta_slow=1.0, mscale=1.0, mscale_all_dim=0.5), None),
    ("llama3, Llama 3.1", 128, 131072, dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192), None),
    ("llama3, Llama 3.2 1B", 64, 131072, dict(
        rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192), None),
    ("longrope, inside the trained length", 32, 16384, dict(
        rope_type="longrope", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=4096, short_factor=SHORT,
        long_factor=LONG), 4096),
    ("longrope, beyond the trained length", 32, 16384, dict(
        rope_type="longrope", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=4096, short_factor=SHORT,
        long_factor=LONG), 4097),
]


class TorchInDouble:
    """Stands for the torch module inside transformers, with float64 wherever the code there says float32."""

    float = torch.float64
    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def compute(config, kind, length):
    if kind == "default":
        # Its formula sits in the model's file, not among the scalings; linear by 1 gives the same numbers.
        config.rope_parameters = dict(config.rope_parameters, rope_type="linear", factor=1.0)
        kind = "linear"
    frequencies, factor = modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return frequencies, float(factor)


def main():
    entries = []
    for name, head, longest, rope, length in CASES:
        def config():
            return LlamaConfig(
                hidden_size=4 * head, num_attention_heads=4, max_position_embeddings=longest,
                rope_parameters=dict(rope))

        single, factor = compute(config(), rope["rope_type"], length)
        modeling_rope_utils.torch = TorchInDouble()
        double, _ = compute(config(), rope["rope_type"], length)
        modeling_rope_utils.torch = torch
        assert single.dtype == torch.float32 and double.dtype == torch.float64 and len(double) == head // 2
        assert ((single - double) / double).abs().max() < 2e-6
        if rope["rope_type"] == "default":
            assert torch.equal(single, LlamaRotaryEmbedding(config()).inv_freq)
        entries.append({
            "name": name, "head_dim": head, "max_position_embeddings": longest, "sequence_length": length,
            "rope_parameters": rope, "attention_factor": factor, "inv_freq": double.tolist(),
            "inv_freq_float32": single.tolist(),
        })
    (HERE / "rope_scaling.json").write_text(json.dumps(entries, indent=1) + "\n")


main()
