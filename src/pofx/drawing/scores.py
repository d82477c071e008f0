"""Scores: one number a row, as a histogram, with the rows that stand out.

    scores_figure     scores of rows asked about, of rows that belong, and which are flagged; strange pictures below
    density_figure    log p of rows, their mean, how many are impossible; the likeliest and the least likely rows

What lies far off is drawn at the edge, so that the rest can be seen; a line says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import pictured
from pofx.drawing.rows import counted, picture_strip, title_of
from pofx.drawing.style import BRANCH, MUTED, blank, plain
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

Array = np.ndarray[Any, np.dtype[Any]]
BINS, FEWEST, ABREAST, MARKED = 40, 12, 8, 5  # bins, at most and least; pictures of a strip; lowest rows named
BELONG, ASKED, FLAGGED = "#c9c4ba", "#1f5f8b", "#c23b22"
REACH = 4.0  # times the distance from the median to a tenth of the rows: what is beyond stands at the edge


def scores_figure(
    scores: Array,
    label: str,
    known: Array | None = None,
    flagged: Array | None = None,
    x: Tensor | None = None,
    space: Space | None = None,
) -> Figure:
    """Scores, larger is stranger.

    Args:
        scores: `(N,)`, finite.
        label: what a score is, with its unit.
        known: `(n,)`, of rows that belong.
        flagged: `(N,)` bool.
        x, space: the rows `(N, *event)`; of pictures the strangest are shown.
    """
    shown = x is not None and space is not None and pictured(space)
    drawing = blank(6.0, 2.6 + (_strip_height(space) if shown else 0))
    grid = drawing.add_gridspec(2 if shown else 1, 1, height_ratios=[2.6, _strip_height(space)] if shown else None)
    axes = drawing.add_subplot(grid[0])
    low, high = _limits(scores if known is None else np.concatenate([scores, known]))
    asked, edges = np.clip(scores, low, high), np.linspace(low, high, BINS + 1).tolist()
    if known is not None:
        rows = np.clip(known, low, high)
        axes.hist(rows, edges, density=True, color=BELONG, label=f"{counted(len(rows), 'row')} that belong")
    axes.hist(
        asked, edges, density=True, histtype="step", color=ASKED, lw=1.4, label=f"{counted(len(asked), 'row')} asked"
    )
    if flagged is not None and flagged.any():
        share = np.full(int(flagged.sum()), BINS / (len(asked) * (high - low)))  # as high as in all rows asked
        axes.hist(asked[flagged], edges, weights=share, color=FLAGGED, label=f"{len(share)} flagged")
    beyond = f"\nbeyond {high:.3g} at the edge" if float(scores.max()) > high else ""
    axes.set(xlabel=f"{label}{beyond}", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    if shown:
        assert x is not None and space is not None
        order = np.argsort(-scores, kind="stable")[:ABREAST]
        marks = ["\nflagged" if flagged is not None and flagged[r] else "" for r in order]
        words = [f"row {r}\n{scores[r]:.4g}{mark}" for r, mark in zip(order, marks, strict=True)]
        picture_strip(drawing.add_subplot(grid[1]), x[order.copy()], space, words, "the strangest rows", ABREAST)
    return drawing


def density_figure(
    log_p: Array,
    unit: str,
    quality: str,
    x: Tensor,
    space: Space,
    stderr: float | None = None,
    bits: float | None = None,
) -> Figure:
    """log p of rows, larger is likelier.

    Args:
        log_p: `(N,)`, without NaN; minus infinity where a row is impossible.
        unit, quality: of log p, in words.
        x, space: the rows `(N, *event)`: of pictures the likeliest and the least likely are shown, of others the
            lowest are marked by their numbers.
        stderr: of one row's log p, about.
        bits: a dimension, in the mean.
    """
    shown = pictured(space)
    below = 2 * _strip_height(space) if shown else 0.55
    drawing = blank(6.6, 2.5 + below)
    grid = drawing.add_gridspec(2, 1, height_ratios=[2.5, below])
    finite = np.isfinite(log_p)
    title_of(drawing, _density_title(log_p[finite], len(log_p), unit, quality, stderr, bits))
    axes = drawing.add_subplot(grid[0])
    edges = _density_histogram(axes, log_p[finite], unit)
    _impossible(axes, log_p)
    if shown:
        _ends(drawing, grid[1], log_p, x, space)
    else:
        _marks(drawing.add_subplot(grid[1]), axes, log_p, edges)
    return drawing


def _density_title(log_p: Array, rows: int, unit: str, quality: str, stderr: float | None, bits: float | None) -> str:
    if not len(log_p):
        return f"log p of {counted(rows, 'row')}: every one is impossible under the model"
    some = "" if len(log_p) == rows else f" of the {len(log_p)} possible ones"
    words = f"log p of {counted(rows, 'row')}: mean{some} {_number(log_p.mean())} {unit.split(' (')[0].split(',')[0]}"
    words += f" = {bits:.3g} bits per entry" if bits is not None and np.isfinite(bits) else ""
    words += f", {quality}"
    return words + (f"\nstandard error about {stderr:.2g} a row" if stderr else "")


def _density_histogram(axes: Any, log_p: Array, unit: str) -> Array:
    """Counts of rows, with their mean; gives the edges of the bins."""
    plain(axes)
    axes.set(xlabel=f"log p(x), {unit}; to the right: likelier", ylabel="rows")
    if not len(log_p):
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        axes.spines[:].set_visible(False)
        return np.array([0.0, 1.0])
    high, low = (-v for v in _limits(-log_p))
    bins = int(np.clip(2 * np.sqrt(len(log_p)), FEWEST, BINS))
    edges = np.linspace(low, high, bins + 1)
    counts, _, _ = axes.hist(np.clip(log_p, low, high), edges, color=BRANCH)
    axes.set_ylim(0, 1.25 * max(counts.max(), 1))
    axes.locator_params(axis="y", integer=True, nbins=5)
    mean = max(float(log_p.mean()), low)
    axes.axvline(mean, color=ASKED, linewidth=1.4)
    left = mean > (low + high) / 2
    axes.annotate(
        "mean", (mean, 0.97), (-4 if left else 4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="right" if left else "left", va="top", fontsize=8, color=ASKED,
    )  # fmt: skip
    if float(log_p.min()) < low:
        axes.set_xlabel(f"log p(x), {unit}; to the right: likelier; below {_number(low)} at the edge")
    return edges


def _impossible(axes: Any, log_p: Array) -> None:
    """How many rows have probability 0, in the corner."""
    rows = np.flatnonzero(np.isneginf(log_p))
    if not len(rows):
        return
    named = ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")
    words = f"{counted(len(rows), 'row')} with log p = −∞: {named}"
    axes.text(0.01, 0.97, words, transform=axes.transAxes, fontsize=8, color=FLAGGED, va="top", ha="left")


def _ends(drawing: Figure, place: SubplotSpec, log_p: Array, x: Tensor, space: Space) -> None:
    """The likeliest and the least likely pictures."""
    order = np.argsort(-log_p, kind="stable")
    few = max(1, min(ABREAST, len(order) // 2))
    parts = place.subgridspec(2, 1)
    strips = (("the likeliest", order[:few]), ("the least likely", order[::-1][:few]))
    for k, (title, rows) in enumerate(strips[: 2 if len(order) > 1 else 1]):
        words = [f"row {r}\n{_number(log_p[r])}" for r in rows]
        picture_strip(drawing.add_subplot(parts[k]), x[rows.copy()], space, words, title, ABREAST)


def _marks(axes: Any, above: Any, log_p: Array, edges: Array) -> None:
    """A tick for each row, and the numbers of the lowest, side by side with a line to where each belongs."""
    axes.set_axis_off()
    axes.set(ylim=(0, 1))
    axes.sharex(above)
    rows = np.flatnonzero(np.isfinite(log_p))
    if not len(rows):
        return
    at = np.clip(log_p, edges[0], edges[-1])
    lowest = rows[np.argsort(log_p[rows], kind="stable")][:MARKED]
    axes.vlines(at[rows], 0.75, 1, color=BRANCH, linewidth=0.5)
    words = [f"row {r}" for r in lowest]
    gap = (edges[-1] - edges[0]) * 0.11
    places = _apart(at[lowest], gap, edges[0], edges[-1])
    for where, place, word in zip(at[lowest], places, words, strict=True):
        axes.plot([where, where, place], [1, 0.75, 0.4], color=FLAGGED, linewidth=0.9)
        axes.text(place, 0.34, word, fontsize=8, color=FLAGGED, ha="center", va="top")
    axes.text(
        1, 0.34, "named: the least likely", transform=axes.transAxes, fontsize=8, color=MUTED, ha="right", va="top"
    )


def _apart(places: Array, gap: float, low: float, high: float) -> Array:
    """Ascending places moved to the right until neighbours are a gap apart, and back from where words stand."""
    out = np.maximum(places.astype(float), low + gap / 2)
    for k in range(1, len(out)):
        out[k] = max(out[k], out[k - 1] + gap)
    end = high - 2.5 * gap
    for k in reversed(range(len(out))):
        out[k] = min(out[k], end)
        end = out[k] - gap
    return out


def _number(value: float) -> str:
    return "−∞" if np.isneginf(value) else f"{value:.4g}".replace("-", "−")


def _strip_height(space: Space | None) -> float:
    """Inches that a strip of pictures takes, with its words."""
    assert space is not None
    return 0.72 * space.shape[0] / space.shape[1] + 0.75


def _limits(scores: Array) -> tuple[float, float]:
    """Where a histogram is readable: scores far above are drawn at its edge."""
    low, middle, high = np.quantile(scores, [0.0, 0.5, 0.9])
    top = min(float(scores.max()), float(middle + REACH * max(float(high - middle), 1e-6)))
    if top - low < 1e-6 * max(1.0, abs(float(low))):  # one row, or all alike
        return float(low) - 0.5, float(low) + 0.5
    return float(low), top
