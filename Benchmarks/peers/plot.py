"""Draws the ratios of compare.py: one bar a measure, to the right of 1 where RingZoo is faster."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot(results, path):
    """Writes an SVG, PNG or PDF, whichever the path's ending says."""
    bars = [
        (f"{result['case']}\n{measure}", ratio)
        for result in results for measure, ratio in result["ratios"].items()]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(bars)), layout="constrained")
    places = range(len(bars))
    # Twice as fast and half as fast are equally far from 1, and ratios of 1.2 and of 40 are both to be read.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    drawn = axes.barh(places, [ratio - 1 for _, ratio in bars], left=1, height=0.6, color="#3b6ea5")
    axes.bar_label(drawn, [f"{ratio:.2f}" for _, ratio in bars], padding=4)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [label for label, _ in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_xlabel("RingZoo's speed / the best peer's (medians of runs in turn)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
