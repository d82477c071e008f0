"""Figures: learning curves, and samples of tables and vectors as histograms and pairs. Matplotlib objects only.

Offers `curves`, `histograms`, `pairs`: HTML with the figure and a caption that says what to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pofx.drawing.style import INK, MUTED, REAL, blank, plain
from pofx.kinds.base import Variable
from pofx.reporting.evidence import Evidence
from pofx.reporting.numbers import shown
from pofx.reporting.style import figure, missing, plot

ACROSS, POINTS, FEW = 4, 1200, 6


def curves(seen: Evidence) -> str:
    """Training and validation loss against seconds, one panel a family; closed forms are named, not drawn."""
    lines = {n: seen.history(n) for n in seen.names if not seen.row(n).get("baseline")}
    drawn = {n: h for n, h in lines.items() if sum("loss" in one for one in h) > 2}
    closed = [n for n, h in lines.items() if n not in drawn and h]
    words = f" Fitted at once or in a few steps, so without a curve: {', '.join(closed)}." if closed else ""
    words += _warned(lines)
    if not drawn:
        return missing(f"No family has a learning curve.{words}")
    rows = -(-len(drawn) // ACROSS)
    sketch = blank(11.8, 2.7 * rows)
    engine: Any = sketch.get_layout_engine()
    engine.set(h_pad=0.12, w_pad=0.08)
    grid = sketch.subplots(rows, ACROSS, squeeze=False)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, (name, history) in zip(grid.flat, drawn.items(), strict=False):
        _curve(axes, name, history, seen)
    return figure(
        plot(sketch, "learning curves"),
        "Loss against seconds of fitting (wall clock): pale line, training; dark line with dots, validation. "
        "Each panel has its own "
        "unit, so compare shapes, not heights: is it still falling, and does validation part from training? Losses of "
        f"a game (critic) or of contrast (energy) need not fall as samples improve.{words}",
    )


def _warned(lines: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """What fits warned of while they ran."""
    said = [f" {name}: {line['warning']}" for name, history in lines.items() for line in history if "warning" in line]
    return " Warned of while fitting:" + "".join(said) if said else ""


def histograms(seen: Evidence, columns: int = FEW) -> str:
    """The first columns of tables and vectors, real against every family."""
    space, fakes = seen.data.space, seen.answered("samples")
    picked = list(range(min(columns, space.size)))
    if not fakes:
        return missing("No family drew samples.")
    sketch = blank(11.8, 1.15 * len(fakes) + 0.5)
    grid = sketch.subplots(len(fakes), len(picked), squeeze=False)
    real = seen.test.x.flatten(1).double().numpy()
    for row, (axes, (name, tensors)) in enumerate(zip(grid, fakes, strict=True)):
        fake = tensors["samples"].flatten(1).double().numpy()
        for k, j in enumerate(picked):
            _histogram(axes[k], real[:, j], fake[:, j], space.variable(j), seen.colours[name])
            if row == 0:
                axes[k].set_title(space.variable(j).name[:22], fontsize=9, color=INK)
        axes[0].set_ylabel(name[:14], rotation=0, ha="right", va="center", color=INK, fontsize=9)
    more = f" (the first {len(picked)} of {space.size})" if space.size > len(picked) else ""
    return figure(
        plot(sketch, "histograms of columns"),
        f"Columns{more}: grey, held-out rows; coloured outline, samples. Look for modes that are missing, tails "
        f"that are too "
        "long, and spikes that a smooth model cannot make.",
    )


def pairs(seen: Evidence) -> str:
    """Two columns against each other: real, then every family."""
    first, second = _two(seen)
    if second is None:
        return ""
    clouds = [("real, held out", seen.test.x, REAL)]
    clouds += [(n, t["samples"], seen.colours[n]) for n, t in seen.answered("samples")]
    rows = -(-len(clouds) // ACROSS)
    sketch = blank(11.8, 2.7 * rows)
    grid = sketch.subplots(rows, ACROSS, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(clouds) :]:
        axes.set_axis_off()
    for axes, (name, x, colour) in zip(grid.flat, clouds, strict=False):
        flat = x[:POINTS].flatten(1).double().numpy()
        axes.scatter(
            flat[:, first], flat[:, second], s=5 if len(flat) > 100 else 14, alpha=0.5, color=colour, linewidths=0
        )
        plain(axes, name)
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_xlabel(seen.data.space.variable(first).name[:26])
        axes.set_ylabel(seen.data.space.variable(second).name[:26])
    _limits(grid[0, 0], seen, first, second)
    return figure(
        plot(sketch, "pairs of columns", vector=False),
        f"{seen.data.space.variable(first).name} against {seen.data.space.variable(second).name}, all panels on "
        f"the axes of the "
        "held-out rows. A family can match every histogram above and still miss how columns move together.",
    )


def _curve(axes: Any, name: str, history: Sequence[dict[str, Any]], seen: Evidence) -> None:
    colour, unit = seen.colours[name], _unit(seen, name)
    train = [(h["seconds"], h["loss"]) for h in history if h.get("loss") is not None and "seconds" in h]
    valid = [(h["seconds"], h["valid"]) for h in history if h.get("valid") is not None and "seconds" in h]
    axes.plot(*zip(*train, strict=True), color=colour, alpha=0.4, lw=1.4)
    values = [v for _, v in train]
    if valid and not _samples_judge(seen, name):
        axes.plot(*zip(*valid, strict=True), color=colour, lw=1.6, marker="o", ms=3)
        values += [v for _, v in valid]
    low, high = min(values), max(values[max(1, len(values) // 20) :])
    if high > low:  # the first steps would flatten the rest
        axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))
    plain(axes, name)
    axes.set_ylabel(unit)
    axes.set_xlabel("s")
    if valid:
        axes.set_title(f"valid {shown(valid[-1][1])}", loc="right", fontsize=8, color=MUTED)


def _unit(seen: Evidence, name: str) -> str:
    model = seen.models.get(name)
    return "loss" if model is None else model.core.loss_unit


def _samples_judge(seen: Evidence, name: str) -> bool:
    """Whether validation measures samples, which has another unit than the loss."""
    model = seen.models.get(name)
    return model is not None and model.core.validate_by == "samples"


def _histogram(axes: Any, real: np.ndarray, fake: np.ndarray, v: Variable, colour: str) -> None:
    real, fake = real[np.isfinite(real)], fake[np.isfinite(fake)]
    if v.discrete and v.levels <= 256:  # a bar a level; the levels of a sound are binned as numbers are
        edges = np.arange(v.levels + 1) - 0.5
    else:
        low, high = np.quantile(real, [0.001, 0.999])
        edges = np.linspace(low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9, 26)
    axes.hist(real, bins=edges, density=True, color="#d3d7db")
    axes.hist(np.clip(fake, edges[0], edges[-1]), bins=edges, density=True, histtype="step", color=colour, lw=1.3)
    plain(axes)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=3)
    if v.discrete and v.values is not None and v.levels <= 4:
        axes.set_xticks(range(v.levels), [str(w)[: 12 if v.levels < 4 else 8] for w in v.values], fontsize=6.5)


def _two(seen: Evidence) -> tuple[int, int | None]:
    """The two real columns that move together most; else the first two."""
    space = seen.data.space
    reals = [j for j in range(min(space.size, 40)) if not space.variable(j).discrete]
    if len(reals) < 2:
        return 0, 1 if space.size > 1 else None
    moves = np.abs(np.nan_to_num(np.corrcoef(seen.train.x.flatten(1)[:, reals].double().numpy().T)))
    np.fill_diagonal(moves, -1)
    a, b = sorted(np.unravel_index(moves.argmax(), moves.shape))
    return reals[a], reals[b]


def _limits(axes: Any, seen: Evidence, first: int, second: int) -> None:
    for j, place in ((first, axes.set_xlim), (second, axes.set_ylim)):
        column = seen.test.x.flatten(1)[:, j].double().numpy()
        low, high = float(column.min()), float(column.max())
        pad = 0.2 * (high - low) + 1e-9
        place(low - pad, high + pad)
