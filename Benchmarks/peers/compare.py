"""Runs RingZoo and its peers in turn on this machine and lays the medians side by side; started by Scripts/bench-peers.

    compare.py [--cases attention llama ring] [--dtypes float32 bf16] [--rounds 3] [--threads 2]
               [--output results.json] [--plot results.svg]

Each case is a list of commands that print JSON. A round runs each once (ours, theirs, ours, theirs, ...), with the machine's
ceilings measured before it, so that a slow minute of the machine hits both. A ratio is ours / theirs of the medians over the
rounds; both medians, every single run and the ceilings are in the JSON file, and the numbers of a case replace those of an
earlier run of it.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

from timing import say

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RINGZOO = ROOT / ".build/release/ringzoo"
ATTENTION_SHAPES = [("1,8,8,4096,128", "full"), ("1,8,8,4096,128", "causal"), ("1,8,8,4096,64", "causal"),
                    ("1,8,8,1024,64", "causal"), ("1,2,2,16384,128", "causal")]
LLAMAS = [("tiny-24m", 4, 256), ("byte-25m", 1, 4096)]
RING_SHAPE = (1, 8, 8192, 64)


def has_bf16_arithmetic():
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


# Without bf16 arithmetic in the processor PyTorch takes half a minute for a step of tiny-24m in bf16.
REPETITIONS_OF_PEERS = {"float32": 5, "bf16": 5 if has_bf16_arithmetic() else 1}


class Tools:
    """How ours and theirs are started."""

    def __init__(self, threads):
        self.threads = threads
        self.environment = dict(os.environ, RINGZOO_THREADS=str(threads))
        # Both can force slow kernels on OpenBLAS.
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
            self.environment.pop(name, None)

    def output(self, command):
        done = subprocess.run([str(part) for part in command], env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"bench-peers: {' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def ringzoo(self, *arguments):
        return self.output([RINGZOO, *arguments])

    def peer(self, script, *arguments):
        return self.output([sys.executable, HERE / script, *arguments])

    def ceilings(self):
        text = self.ringzoo("doctor", "--ceilings")
        found = re.search(r"ceilings +([\d.]+) GFLOP/s float32, ([\d.]+) GB/s", text)
        return {"gigaflops": float(found[1]), "readGigabytes": float(found[2])}

    # Each of these returns {measure: rate}; larger is better. "ceiling" is what the arithmetic of the type could do at most.

    def our_attention(self, backend, shape, mask, *more):
        fields = json.loads(self.ringzoo(
            "attention", "bench", "--backends", backend, "--shapes", shape, "--mask", mask, "--json", *more))
        return {"forward": fields["forwardGFLOPS"], "forward+backward": fields["forwardBackwardGFLOPS"],
                "ceiling": fields["ceilingGFLOPS"]}

    def their_attention(self, script, *arguments):
        fields = json.loads(self.peer(script, *arguments))
        return {"forward": fields["forwardGFLOPS"], "forward+backward": fields["forwardBackwardGFLOPS"]}

    def our_training(self, model, batch, context, dtype, steps):
        with tempfile.TemporaryDirectory() as folder:
            text = pathlib.Path(folder, "text.txt")
            text.write_bytes(bytes((31 * i * i + 7 * i) % 96 + 32 for i in range(40 * (context + 1) * batch)))
            config = pathlib.Path(folder, "run.yaml")
            config.write_text(
                f"model: {{ name: llama, preset: {model} }}\n"
                f"data: {{ kind: text, path: {text}, context: {context}, batch: {batch} }}\n"
                f"precision: {dtype}\noptimizer: {{ name: adamw }}\n"
                f"run: {{ directory: {folder}/run, steps: {steps + 2}, evaluateEvery: none, checkpointEvery: none }}\n")
            self.ringzoo("train", config)
            lines = pathlib.Path(folder, "run/metrics.jsonl").read_text().splitlines()
        seconds = statistics.median(json.loads(line)["seconds"] for line in lines[2:])
        return {"tokens/s": batch * context / seconds}

    def their_training(self, mode, model, batch, context, dtype, steps):
        fields = json.loads(self.peer(
            "llama.py", "--model", model, "--batch", batch, "--context", context, "--mode", mode, "--dtype", dtype,
            "--threads", self.threads, "--steps", steps))
        return {"tokens/s": fields["tokensPerSecond"]}


def attention_cases(tools, dtype):
    for shape, mask in ATTENTION_SHAPES:
        yield f"attention {shape} {mask} {dtype}", "GFLOP/s", {
            "ringzoo": lambda shape=shape, mask=mask: tools.our_attention("cpu", shape, mask, "--dtype", dtype),
            "pytorch": lambda shape=shape, mask=mask: tools.their_attention(
                "sdpa.py", "--shapes", shape, "--mask", mask, "--dtype", dtype, "--threads", tools.threads,
                "--repetitions", REPETITIONS_OF_PEERS[dtype]),
        }


def llama_cases(tools, dtype):
    for model, batch, context in LLAMAS:
        steps = 5 if context < 1024 else 2
        work = (model, batch, context, dtype)
        theirs = (*work, min(steps, REPETITIONS_OF_PEERS[dtype]))
        yield f"llama {model} B {batch} T {context} {dtype}", "tokens/s", {
            "ringzoo": lambda work=work, steps=steps: tools.our_training(*work, steps),
            "pytorch eager": lambda theirs=theirs: tools.their_training("eager", *theirs),
            "pytorch compiled": lambda theirs=theirs: tools.their_training("compiled", *theirs),
        }


def ring_cases(tools, dtype):
    if dtype != "float32":
        return
    batch, heads, tokens, size = RING_SHAPE
    ours = f"{batch},{heads},{heads},{tokens},{size}"
    yield f"ring of two, {ours} causal float32", "GFLOP/s", {
        "ringzoo": lambda: tools.our_attention("ring", ours, "causal", "--ranks", "2"),
        "jax ringattention": lambda: tools.their_attention(
            "jax_ring.py", "--shapes", ",".join(map(str, RING_SHAPE)), "--devices", "2"),
    }


CASES = {"attention": attention_cases, "llama": llama_cases, "ring": ring_cases}


def run_case(tools, name, unit, contestants, rounds):
    """Medians over the rounds of each contestant and measure, all runs, and ours over the best of the others."""
    runs = {contestant: [] for contestant in contestants}
    ceilings = []
    for number in range(rounds):
        ceilings.append(tools.ceilings())
        for contestant, run in contestants.items():
            found = run()
            if "ceiling" in found:
                ceilings[-1]["arithmetic"] = found.pop("ceiling")
            runs[contestant].append(found)
            say(f"  round {number + 1}: {contestant}: "
                + ", ".join(f"{measure} {rate:.1f} {unit}" for measure, rate in runs[contestant][-1].items()))
    medians = {
        contestant: {measure: statistics.median(run[measure] for run in found) for measure in found[0]}
        for contestant, found in runs.items()}
    ours = medians["ringzoo"]
    others = [found for contestant, found in medians.items() if contestant != "ringzoo"]
    ratios = {measure: ours[measure] / max(other[measure] for other in others) for measure in ours}
    return {"case": name, "unit": unit, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "medians": medians, "ratios": ratios, "runs": runs, "ceilings": ceilings}


def describe(result):
    floats = statistics.median(c["gigaflops"] for c in result["ceilings"])
    flops = statistics.median(c.get("arithmetic", c["gigaflops"]) for c in result["ceilings"])
    memory = statistics.median(c["readGigabytes"] for c in result["ceilings"])
    lines = [f"{result['case']}   (ceilings: {floats:.0f} GFLOP/s float32, {memory:.1f} GB/s)"]
    for measure, ratio in result["ratios"].items():
        rates = ", ".join(f"{who} {rates[measure]:.1f}" for who, rates in result["medians"].items())
        share = f", ours at {result['medians']['ringzoo'][measure] / flops:.0%} of {flops:.0f}" \
            if result["unit"] == "GFLOP/s" else ""
        lines.append(f"  {measure:18s} {ratio:5.2f} x   {rates} {result['unit']}{share}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="RingZoo and its peers, in turn.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtypes", nargs="+", choices=REPETITIONS_OF_PEERS,
                        default=list(REPETITIONS_OF_PEERS),
                        help="the ring against JAX has float32 only")
    parser.add_argument("--only", default="", help="of these, the cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / ".build/peers/results.json")
    parser.add_argument("--plot", type=pathlib.Path, default=ROOT / ".build/peers/results.svg")
    options = parser.parse_args()

    tools = Tools(options.threads)
    kept = json.loads(options.output.read_text())["results"] if options.output.exists() else []
    results = {result["case"]: result for result in kept}
    for group, dtype in itertools.product(options.cases, options.dtypes):
        for name, unit, contestants in CASES[group](tools, dtype):
            if options.only not in name:
                continue
            say(name)
            results[name] = run_case(tools, name, unit, contestants, options.rounds)
            print(describe(results[name]), flush=True)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({
                "version": tools.ringzoo("--version").strip(), "machine": platform.platform(),
                "threads": options.threads, "results": list(results.values())}, indent=1) + "\n")
    from plot import plot
    plot(list(results.values()), options.plot)
    say(f"wrote {options.output} and {options.plot}")


if __name__ == "__main__":
    main()
