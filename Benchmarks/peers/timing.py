"""What the peers' scripts share: medians, and where words and data go."""

import json
import statistics
import sys
import time


def seconds_of(repetitions, run, warmup=1):
    """The time of each of `repetitions` runs, after `warmup` runs that are not counted: they allocate and pick kernels."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def median_seconds(repetitions, run):
    return statistics.median(seconds_of(repetitions, run))


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def emit(fields):
    print(json.dumps(fields), flush=True)
