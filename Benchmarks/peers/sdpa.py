"""Measures PyTorch's scaled_dot_product_attention; prints the fields of `ringzoo attention bench --json`.

    python sdpa.py --shapes 1,8,8,4096,64 1,8,2,4096,128 --mask causal --dtype float32 --threads 1

Words go to standard error. FLOPs are counted as RingZoo counts them: 4 H T T D forward, half of it when causal, and 3.5
times that for forward and backward.
"""

import argparse
import json
import os
import platform
import resource
import sys

import torch
from torch.nn.functional import scaled_dot_product_attention

from timing import median_seconds

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


def arguments():
    parser = argparse.ArgumentParser(description="PyTorch's scaled_dot_product_attention, measured on the CPU.")
    parser.add_argument("--shapes", nargs="+", default=["1,8,8,1024,64", "1,8,8,4096,64", "1,8,8,4096,128",
    "1,8,2,4096,128"],
                        metavar="B,H,Hkv,T,D", type=str)
    parser.add_argument("--mask", choices=["full", "causal"], default="causal")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=7, help="timed runs of each; the median counts (default 7)")
    options = parser.parse_args()
    if options.threads < 1 or options.repetitions < 1:
        parser.error("--threads and --repetitions must be 1 or more")
    shapes = []
    for text in options.shapes:
        try:
            shape = [int(part) for part in text.split(",")]
            batch, heads, kv_heads, tokens, size = shape
        except ValueError:
            parser.error(f"--shapes wants B,H,Hkv,T,D, five whole numbers, not {text!r}")
        if min(shape) < 1 or heads % kv_heads != 0:
            parser.error(f"--shapes {text}: all must be 1 or more, and Hkv must divide H")
        shapes.append(shape)
    options.shapes = shapes
    return options


def peak_bytes():
    """The process's peak so far; it never falls, so give every shape a process of its own where this figure matters."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(shape, options):
    batch, heads, kv_heads, tokens, size = shape
    causal, grouped = options.mask == "causal", kv_heads != heads
    generator = torch.Generator().manual_seed(0)

    def draw(head_count):
        return torch.randn(batch, head_count, tokens, size, generator=generator).to(DTYPES[options.dtype])

    q, k, v, d_out = draw(heads), draw(kv_heads), draw(kv_heads), draw(heads)

    def attend():
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    def forward():
        with torch.no_grad():
            attend()

    def forward_backward():
        torch.autograd.grad(attend(), (q, k, v), d_out)

    forward_seconds = median_seconds(options.repetitions, forward)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    both_seconds = median_seconds(options.repetitions, forward_backward)

    operations = 4 * batch * heads * tokens * tokens * size / (2 if causal else 1)
    return {
        "backend": "pytorch-sdpa", "batch": batch, "heads": heads, "kvHeads": kv_heads, "tokens": tokens,
        "headSize": size,
        "mask": options.mask, "dtype": options.dtype, "threads": options.threads,
        "kernelSet": f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        "forwardSeconds": forward_seconds, "forwardBackwardSeconds": both_seconds,
        "forwardGFLOPS": operations / forward_seconds / 1e9,
        "forwardBackwardGFLOPS": 3.5 * operations / both_seconds / 1e9,
        "peakBytes": peak_bytes(),
    }


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    print(f"{platform.machine()} {platform.system()}, torch {torch.__version__}, {options.threads} threads,",
          f"median of {options.repetitions}", file=sys.stderr)
    for shape in options.shapes:
        print(json.dumps(measure(shape, options)), flush=True)


main()
