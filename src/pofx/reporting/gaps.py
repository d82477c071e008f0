"""Gaps: the picture of what `impute` filled in.

A table: for each number with gaps, what was observed against what was drawn; below, some gaps with their 90 % intervals
in the order of their means (and the truth, where it is known). A picture: the hole, three draws, their mean and spread.
Offers `filled_figure`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.style import ACCENT, BRANCH, INK, MUTED, blank, plain
from pofx.kinds.base import Space
from pofx.tasks.base import Answer
from pofx.tasks.completion import numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS, GAPS, PICTURES = 4, 40, 4


def filled_figure(answer: Answer, space: Space, observed: Tensor, truth: Tensor | None = None) -> Figure:
    """Draw the answer of `impute`.

    Args:
        answer: of `pofx.impute`, with more than one draw.
        space: of the model.
        observed: `(N, *event)`, what was known.
        truth: `(N, *event)` as x, where the gaps were made on purpose.

    Raises:
        ValueError: there is nothing to draw: no gap, or no number among the columns.
    """
    if answer.raw is None or "spread" not in answer.diagnostics or bool(observed.all()):
        raise ValueError("filled_figure: nothing was filled, or the answer holds no draws.")
    if space.layout == "grid" and len(space.shape) >= 2:
        return _pictures(answer, observed)
    return _table(answer, space, observed, truth)


def _table(answer: Answer, space: Space, observed: Tensor, truth: Tensor | None) -> Figure:
    raw, facts = answer.raw, answer.diagnostics
    assert raw is not None
    draws = torch.stack([numbers(space, one) for one in raw]).numpy()
    real = None if truth is None else numbers(space, truth).numpy()
    holes = ~observed.numpy()
    columns = [j for j in range(space.size) if holes[:, j].any() and np.isfinite(draws[:, holes[:, j], j]).all()]
    columns = sorted(columns, key=lambda j: -int(holes[:, j].sum()))[:ACROSS]
    if not columns:
        raise ValueError("filled_figure: no number has a gap; words are not drawn.")
    intervals = "low" in facts
    figure = blank(2.9 * len(columns) + 0.6, 5.0 if intervals else 2.4)
    grid = figure.subplots(2 if intervals else 1, len(columns), squeeze=False)
    for k, j in enumerate(sorted(columns)):
        hole = holes[:, j]
        _margins(grid[0, k], space.variable(j).name, draws[0, ~hole, j], draws[:, hole, j].ravel(), k == 0)
        if intervals:
            ends = [facts[name][:, j].numpy()[hole] for name in ("mean_raw", "low", "high")]
            _intervals(grid[1, k], ends, None if real is None else real[hole, j], k == 0)
    return figure


def _margins(axes: Any, name: str, seen: np.ndarray, drawn: np.ndarray, first: bool) -> None:
    both = np.concatenate([seen, drawn])
    edges = np.linspace(both.min(), both.max() + 1e-9, 24)
    axes.hist(seen, edges, density=True, color=BRANCH, label="observed")
    axes.hist(drawn, edges, density=True, histtype="step", color=ACCENT, linewidth=1.4, label="drawn")
    axes.set_yticks([])
    plain(axes, str(name))
    if first:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _intervals(axes: Any, ends: list[np.ndarray], real: np.ndarray | None, first: bool) -> None:
    mean, low, high = ends
    chosen = np.linspace(0, len(mean) - 1, min(len(mean), GAPS)).astype(int)
    order = np.argsort(mean)[chosen]
    place = np.arange(len(order))
    axes.vlines(place, low[order], high[order], color=ACCENT, alpha=0.35, linewidth=2.2)
    axes.plot(place, mean[order], ".", color=ACCENT, markersize=3.5, label="mean, 90 % interval")
    if real is not None:
        outside = (real[order] < low[order]) | (real[order] > high[order])
        axes.plot(place[~outside], real[order][~outside], "o", color=INK, markersize=2.6, label="truth, inside")
        axes.plot(place[outside], real[order][outside], "x", color="#c0392b", markersize=5, label="truth, outside")
    axes.set_xticks([])
    axes.set_xlabel(f"{len(order)} of {len(mean)} gaps, by mean")
    plain(axes)
    if first:
        axes.legend(frameon=False, fontsize=7, labelcolor=MUTED, loc="upper left")


def _pictures(answer: Answer, observed: Tensor) -> Figure:
    raw, facts = answer.raw, answer.diagnostics
    assert raw is not None
    rows = (~observed).flatten(1).any(1).nonzero().squeeze(1)[:PICTURES].tolist()
    shown = min(len(raw), 3)
    titles = ["known", *[f"draw {k + 1}" for k in range(shown)], "mean", "spread"]
    figure = blank(1.35 * len(titles), 1.4 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    low, high = float(raw.min()), float(raw.max())
    for i, row in enumerate(rows):
        known = torch.where(observed[row], raw[0, row].double(), torch.tensor(torch.nan))
        panels = [known, *(raw[k, row].double() for k in range(shown)), facts["mean_raw"][row], facts["spread"][row]]
        for k, (axes, panel) in enumerate(zip(grid[i], panels, strict=True)):
            _picture(axes, panel.numpy(), low, high, titles[k] == "spread")
            if i == 0:
                axes.set_title(titles[k], fontsize=9, color=INK)
    return figure


def _picture(axes: Any, pixels: np.ndarray, low: float, high: float, spread: bool) -> None:
    axes.set_axis_off()
    axes.set_facecolor("#f7e2ba")
    if pixels.ndim == 3 and pixels.shape[2] == 3 and not spread:
        scaled = (pixels - low) / max(high - low, 1e-9)
        gone = np.isnan(scaled).any(2, keepdims=True)
        axes.imshow(np.where(gone, np.array([0.97, 0.89, 0.73]), np.nan_to_num(scaled)).clip(0, 1))
        return
    flat = pixels.reshape(*pixels.shape[:2], -1).mean(2) if pixels.ndim == 3 else pixels
    from matplotlib import colormaps

    colours = colormaps["magma" if spread else "gray"].with_extremes(bad="#f7e2ba")
    limits = {} if spread else {"vmin": low, "vmax": high}
    axes.imshow(flat, cmap=colours, interpolation="nearest", **limits)
