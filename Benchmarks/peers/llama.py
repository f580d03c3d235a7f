"""Trains a plain PyTorch LLaMA on random tokens; prints seconds a step and tokens a second as JSON.

    python llama.py --model byte-25m --batch 1 --context 4096 --mode compiled --dtype float32 --threads 2

The model has the sizes of RingZoo's preset of that name and does what `ringzoo train` does in a step: loss over all tokens,
gradients, global norm and clipping, AdamW. It is written as PyTorch is meant to be used: fused attention, fused AdamW,
and with --mode compiled the whole of loss and gradients in torch.compile. bf16 is autocast over float32 weights.
"""

import argparse
import os
import statistics

import torch
from torch import nn
from torch.nn import functional as F

from timing import emit, say, seconds_of

# width, layers, heads, feed-forward width, vocabulary
MODELS = {"tiny-24m": (288, 6, 6, 768, 32000), "byte-25m": (512, 8, 8, 1376, 256)}


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cosine, sine):
        batch, tokens, width = x.shape
        q, k, v = (
            part.view(batch, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(turn(q, cosine, sine), turn(k, cosine, sine), v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).reshape(batch, tokens, width))
        h = self.feed_forward_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def turn(x, cosine, sine):
    """Rotary positions, half against half."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, width, layers, heads, hidden, vocabulary, context):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser(description="A training step of a plain PyTorch LLaMA, measured on the CPU.")
    parser.add_argument("--model", choices=MODELS, default="byte-25m")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--mode", choices=["eager", "compiled"], default="eager")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=5, help="timed steps; the median counts (default 5)")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Llama(*MODELS[options.model], options.context)
    vocabulary = MODELS[options.model][-1]
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=3e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if options.mode == "compiled" else model
    losses = []

    def step():
        text = torch.randint(vocabulary, (options.batch, options.context + 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = run(text[:, :-1], text[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    seconds = statistics.median(seconds_of(options.steps, step, warmup=2))
    say(f"torch {torch.__version__}, {options.mode}, losses {losses[0]:.3f} to {losses[-1]:.3f}")
    emit({
        "backend": f"pytorch-{options.mode}", "model": options.model, "batch": options.batch,
        "context": options.context, "dtype": options.dtype, "threads": options.threads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "kernelSet": f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        "secondsPerStep": seconds, "tokensPerSecond": options.batch * options.context / seconds,
    })


if __name__ == "__main__":
    main()
