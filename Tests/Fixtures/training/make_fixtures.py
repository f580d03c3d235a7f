"""Writes adamw.json (PyTorch's AdamW in float64) and cosine_schedule.json (own arithmetic).

Run from anywhere: python make_fixtures.py
"""

import json
import math
import pathlib

import torch

HERE = pathlib.Path(__file__).resolve().parent


def adamw():
    """Five steps on a matrix with weight decay and a vector without, clipped together by their global norm."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    settings = dict(rate=1e-2, beta1=0.9, beta2=0.95, epsilon=1e-8, clip=1.0)
    parameters = {"matrix": draw(2, 3), "vector": draw(4)}
    decay = {"matrix": 0.1, "vector": 0.0}
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [leaves[name]], "weight_decay": decay[name]} for name in leaves],
        lr=settings["rate"], betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"])

    steps = []
    for size in (3.0, 0.05, 1.0, 0.2, 10.0):  # some above the clip, some below
        gradients = {name: size * draw(*leaf.shape) for name, leaf in leaves.items()}
        for name, leaf in leaves.items():
            leaf.grad = gradients[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(leaves.values(), settings["clip"])
        optimizer.step()
        steps.append({
            "gradients": flat(gradients), "gradient_norm": norm.item(), "parameters": flat(leaves),
            "first_moments": flat({name: optimizer.state[leaf]["exp_avg"] for name, leaf in leaves.items()}),
            "second_moments": flat({name: optimizer.state[leaf]["exp_avg_sq"] for name, leaf in leaves.items()}),
        })
    clipped = [step["gradient_norm"] > settings["clip"] for step in steps]
    assert any(clipped) and not all(clipped)
    return {
        "settings": settings, "weight_decay": decay, "shapes": {name: list(v.shape) for name, v in parameters.items()},
        "start": flat(parameters), "steps": steps,
    }


def flat(tensors):
    return {name: tensor.detach().flatten().tolist() for name, tensor in tensors.items()}


def cosine_rate(step, peak, final, warmup, total):
    """The schedule of nanoGPT's train.py, steps from 0: a linear rise that never is 0, half a cosine, then flat."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step > total:
        return final
    return final + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) * (peak - final)


def cosine():
    cases = []
    for peak, final, warmup, total in [(3e-4, 3e-5, 20, 1000), (1e-3, 0.0, 0, 10), (6e-4, 6e-5, 5, 40)]:
        interesting = {0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1, total, total + 1,
        total + 100}
        steps = sorted(step for step in interesting if step >= 0)
        cases.append({
            "peak": peak, "final": final, "warmup": warmup, "total": total, "steps": steps,
            "rates": [cosine_rate(step, peak, final, warmup, total) for step in steps],
        })
    return cases


(HERE / "adamw.json").write_text(json.dumps(adamw(), indent=1) + "\n")
(HERE / "cosine_schedule.json").write_text(json.dumps(cosine(), indent=1) + "\n")
