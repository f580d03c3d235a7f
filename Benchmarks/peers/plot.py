"""Draws the ratios of compare.py: one bar a measure, 1 being the peer's speed."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot(results, path):
    """Writes an SVG, PNG or PDF, whichever the path's ending says."""
    bars = [
        (f"{result['case']}\n{measure}", ratio)
        for result in results for measure, ratio in result["ratios"].items()]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.55 * len(bars)), layout="constrained")
    places = range(len(bars))
    drawn = axes.barh(places, [ratio for _, ratio in bars], height=0.6, color="#3b6ea5")
    axes.bar_label(drawn, fmt="%.2f", padding=4)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [label for label, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("RingZoo's speed / the best peer's (medians of runs in turn)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
