"""Makes the tiny random LLaMA models beside this file, and the golden numbers that transformers computes with them.

Run from anywhere: python make_fixtures.py. README.md one folder up names the versions and says what the files hold.
"""

import json
import math
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, modeling_rope_utils
from transformers.models.llama import modeling_llama

HERE = pathlib.Path(__file__).resolve().parent
ROWS, TOKENS = 2, 24


class TorchInDouble:
    """Stands for the torch module inside transformers, with float64 wherever the code there says float32.

    RMSNorm, the rotary angles and the softmax are written with an explicit float32; in a model cast to float64 they
    would still round to float32 on the way.
    """

    float = torch.float64
    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class InDouble:
    def __enter__(self):
        modeling_llama.torch = modeling_rope_utils.torch = TorchInDouble()

    def __exit__(self, *_):
        modeling_llama.torch = modeling_rope_utils.torch = torch


def load(folder, dtype):
    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def set_random_weights(model, seed):
    """Weights with which every part matters: uneven norms, attention far from uniform, logits that deviate by 2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("embed_tokens.weight"):
                parameter.copy_(noise)
            else:
                gain = 1.7 if "q_proj" in name or "k_proj" in name else 1.0
                parameter.copy_(gain * noise / math.sqrt(parameter.shape[1]))
        ids = torch.randint(0, model.config.vocab_size, (ROWS, TOKENS), generator=generator)
        # The head follows the final norm, so scaling that norm scales the logits; a tied head has no other knob.
        model.model.norm.weight.mul_(2.0 / model(ids).logits.std())
    return ids


def write_old_rope_fields(folder):
    """The form of config.json before transformers 5: rope_theta and rope_scaling at the top, torch_dtype for dtype.

    The first LLaMA files also name no head_dim and no mlp_bias; they go where they hold the default.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"], config["mlp_bias"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name, config, seed, *, old_fields=False, shard=None, dtype=torch.float32, gradients=False):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = LlamaForCausalLM(config).eval()
    ids = set_random_weights(model, seed)
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink()  # says nothing about the model
    if old_fields:
        write_old_rope_fields(folder)

    # From here on only what is on disk counts.
    single = load(folder, torch.float32)(ids).logits
    with InDouble():
        model = load(folder, torch.float64)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float64
        logits = model(ids).logits
        assert logits.dtype == torch.float64
    deviation = logits.std().item()
    difference = (logits - single).abs().max().item()
    assert 1 < deviation < 3, deviation
    assert 0 < difference < 1e-4, difference  # float64 indeed, and the same model

    golden = {"input_ids": ids, "logits": logits.detach().float()}
    if gradients:
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        golden["loss"] = loss.detach().float()
        for key, parameter in model.named_parameters():
            golden["gradient." + key] = parameter.grad.float()
    save_file(golden, folder / "golden.safetensors")
    print(f"{name}: logits std {deviation:.2f}, float32 differs by {difference:.1e}")


def main():
    plain = dict(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128)
    make("llama-mha", LlamaConfig(**plain, rms_norm_eps=1e-6), 1, old_fields=True, gradients=True)
    make("llama-mha-bf16", LlamaConfig(**plain, rms_norm_eps=1e-5), 2, dtype=torch.bfloat16)
    # Head size 16 although 32 / 4 is 8. Of its 8 wavelengths 1 is below 64 / 4, 2 lie between and 5 are above 64 / 1.
    llama3 = dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)
    grouped = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, rope_parameters=llama3)
    make("llama-gqa-llama3-rope", grouped, 3, old_fields=True, shard="40KB")
    tied = LlamaConfig(
        vocab_size=128, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))
    make("llama-mqa-tied", tied, 4)


main()
