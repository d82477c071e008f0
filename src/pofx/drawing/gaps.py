"""Gaps: the picture of what `impute` filled in.

A table: for each of the columns with the most gaps, what was observed against what was drawn; below, some gaps with
their 90 % intervals in the order of their means, or how many draws agree on a word (and the truth, where it is known).
A picture: the hole, draws, their mean and spread. A series: its steps, and draws where steps are missing. A text: what
is known, and draws. Other kinds draw themselves. Offers `Filled` and `filled_figure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.letters import END, laid_out, letters, spelt
from pofx.drawing.pixels import hang, pictured, pixels
from pofx.drawing.rows import counted, title_of
from pofx.drawing.style import ACCENT, BRANCH, HOLE, INK, MUTED, blank, plain
from pofx.drawing.values import columnar, names, short, units, wordy
from pofx.kinds import KINDS
from pofx.kinds.base import Space, Variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
COLUMNS, GAPS, PICTURES, DRAWS, SERIES, OTHERS, WORDS = 4, 40, 4, 3, 3, 2, 8
WRONG = "#c0392b"


@dataclass(frozen=True)
class Filled:
    """Completions, and what they say together.

    Attributes:
        draws: `(m, N, *event)`.
        observed: `(N, *event)` bool.
        space: of x.
        mean: `(N, *event)` in the user's units (a word: its code), None where it is to be worked out from the draws.
        low, high: `(N, *event)`, ends of the intervals, None where there are too few draws.
        truth: `(N, *event)` as x, where the gaps were made on purpose.
    """

    draws: Tensor
    observed: Tensor
    space: Space
    mean: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    truth: Tensor | None = None

    @property
    def rows(self) -> list[int]:
        """Those with gaps."""
        return (~self.observed).flatten(1).any(1).nonzero().squeeze(1).tolist()


def filled_figure(filled: Filled) -> Figure:
    """Draw completions.

    Raises:
        ValueError: nothing was missing.
    """
    space = filled.space
    if not filled.rows:
        raise ValueError("impute: nothing was missing, so that there is nothing to draw.")
    if pictured(space):
        return _pictures(filled)
    if columnar(space):
        return _table(filled)
    if space.kind == "series":
        return _series(filled)
    if space.kind == "text":
        return _texts(filled)
    return _others(filled)


def _said(v: Variable) -> bool:
    """Whether the codes of a variable are drawn as words: a code of a category is no number."""
    return wordy(v) or v.support == "category"


def _note(filled: Filled) -> str:
    m = len(filled.draws)
    return "one draw; ask for draws=20 to see how sure it is" if m == 1 else f"{m} draws"


def _table(filled: Filled) -> Figure:
    space, holes = filled.space, ~filled.observed.numpy()
    columns = sorted(range(space.size), key=lambda j: -int(holes[:, j].sum()))[:COLUMNS]
    columns = sorted(j for j in columns if holes[:, j].any())
    draws = units(space, filled.draws)
    real = None if filled.truth is None else units(space, filled.truth)
    several = len(draws) > 1
    drawing = blank(max(2.9 * len(columns) + 0.6, 4.6), 5.3 if several else 2.7)
    grid = drawing.subplots(2 if several else 1, len(columns), squeeze=False)
    for k, j in enumerate(columns):
        hole, v, first = holes[:, j], space.variable(j), k == 0
        seen, drawn = draws[0, ~hole, j], draws[:, hole, j]
        (_shares if _said(v) else _margins)(grid[0, k], v, names(space)[j], seen, drawn.ravel(), first)
        if not several:
            continue
        truth = None if real is None else real[hole, j]
        if _said(v):
            _agreement(grid[1, k], drawn, truth)
        else:
            _intervals(grid[1, k], _ends(filled, drawn, hole, j), truth, first)
    gone = sum(bool(holes[:, j].any()) for j in range(space.size)) - len(columns)
    more = f"; {counted(gone, 'column')} with fewer gaps left out" if gone else ""
    title_of(drawing, f"{counted(int(holes.sum()), 'gap')}, filled: {_note(filled)}{more}")
    return drawing


def _ends(filled: Filled, drawn: Array, hole: Array, column: int) -> list[Array | None]:
    """Mean, low and high of the gaps of a column; no intervals where there are too few draws."""
    every = [t if t is None else t[:, column].numpy()[hole] for t in (filled.mean, filled.low, filled.high)]
    return [drawn.mean(0) if every[0] is None else every[0], *every[1:]]


def _margins(axes: Any, v: Variable, name: str, seen: Array, drawn: Array, first: bool) -> None:
    both = np.concatenate([seen, drawn])
    low, high = float(both.min()), float(both.max())
    constant = high - low < 1e-9 * max(1.0, abs(low))
    edges = np.linspace(low - 0.5 * constant, high + 0.5 * constant, 24)
    if len(seen):
        axes.hist(seen, edges, density=True, color=BRANCH, label="observed")
    axes.hist(drawn, edges, density=True, histtype="step", color=ACCENT, linewidth=1.4, label="drawn")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6)
    _briefly(axes.xaxis, both)
    plain(axes, name)
    if first:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _briefly(axis: Any, values: Array) -> None:
    """Long numbers on an axis as 100k."""
    from matplotlib.ticker import EngFormatter

    if np.abs(values).max() >= 1e4:
        axis.set_major_formatter(EngFormatter(sep=""))


def _shares(axes: Any, v: Variable, name: str, seen: Array, drawn: Array, first: bool) -> None:
    """How often each word was observed and drawn; the commonest words."""
    counts = [np.bincount(part.astype(int), minlength=v.levels) / max(len(part), 1) for part in (seen, drawn)]
    shown = np.sort(np.argsort(-(counts[0] + counts[1]), kind="stable")[:WORDS])
    place = np.arange(len(shown))
    axes.bar(place, counts[0][shown], 0.8, color=BRANCH, label="observed")
    axes.bar(place, counts[1][shown], 0.8, fill=False, edgecolor=ACCENT, linewidth=1.4, label="drawn")
    words = [short((v.values or range(v.levels))[k], 12) for k in shown]
    long = len(shown) > 3 or max(map(len, words)) > 8
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(place, words, **turned)
    axes.set_yticks([])
    plain(axes, name)
    if first:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _intervals(axes: Any, ends: list[Array | None], real: Array | None, first: bool) -> None:
    mean, low, high = ends
    assert mean is not None
    chosen = np.linspace(0, len(mean) - 1, min(len(mean), GAPS)).astype(int)
    order = np.argsort(mean)[chosen]
    place = np.arange(len(order))
    label = "mean"
    if low is not None and high is not None:
        axes.vlines(place, low[order], high[order], color=ACCENT, alpha=0.35, linewidth=2.2)
        label = "mean, 90 % interval"
    axes.plot(place, mean[order], ".", color=ACCENT, markersize=3.5, label=label)
    if real is not None and low is not None and high is not None:
        outside = (real[order] < low[order]) | (real[order] > high[order])
        axes.plot(place[~outside], real[order][~outside], "o", color=INK, markersize=2.6, label="truth, inside")
        axes.plot(place[outside], real[order][outside], "x", color=WRONG, markersize=5, label="truth, outside")
    elif real is not None:
        axes.plot(place, real[order], "o", color=INK, markersize=2.6, label="truth")
    _briefly(axes.yaxis, mean)
    axes.set_xticks([])
    axes.set_xlabel(f"{len(order)} of {len(mean)} gaps, by mean")
    plain(axes)
    if first:
        low_end, top = axes.get_ylim()
        axes.set_ylim(low_end, top + 0.25 * (top - low_end))  # room for the legend
        axes.legend(frameon=False, fontsize=7, labelcolor=MUTED, loc="upper left")


def _agreement(axes: Any, drawn: Array, real: Array | None) -> None:
    """The share of draws `(m, K)` that agree on the commonest word of each gap, the least sure first."""
    codes = drawn.astype(int)
    common = np.array([np.bincount(one).argmax() for one in codes.T])
    share = (codes == common).mean(0)
    chosen = np.linspace(0, len(share) - 1, min(len(share), GAPS)).astype(int)
    order = np.argsort(share, kind="stable")[chosen]
    place = np.arange(len(order))
    right = np.ones(len(order), dtype=bool) if real is None else common[order] == real[order].astype(int)
    axes.vlines(place, 0, share[order], color=ACCENT, alpha=0.35, linewidth=2.2)
    dots = {"color": ACCENT, "markersize": 3.5} if real is None else {"color": INK, "markersize": 5}
    axes.plot(place[right], share[order][right], ".", **dots, label="right")
    if real is not None:
        axes.plot(place[~right], share[order][~right], "x", color=WRONG, markersize=5, label="wrong")
        axes.legend(frameon=False, fontsize=7, labelcolor=MUTED, loc="upper left")
    axes.set(ylim=(0, 1.05), xticks=[], xlabel=f"{len(order)} of {len(share)} gaps, by agreement")
    axes.set_ylabel("draws that agree")
    axes.yaxis.set_major_formatter("{x:.0%}")
    plain(axes)


def _pictures(filled: Filled) -> Figure:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows, space, draws = filled.rows[:PICTURES], filled.space, filled.draws
    m = min(len(draws), DRAWS)
    several = len(draws) > 1
    some = draws[:, rows].double()
    mean = some.mean(0) if filled.mean is None else filled.mean[rows]
    titles = ["known", *([f"draw {k + 1}" for k in range(m)] if several else ["one draw"])]
    known = pixels(draws[0, rows], space)
    known[(~filled.observed[rows]).any(-1).numpy()] = HOLE
    panels = [known, *pixels(some[:m], space)]
    if several:
        titles.append("mean")
        panels.append(pixels(mean, space))
    if filled.truth is not None:
        titles.append("truth")
        panels.append(pixels(filled.truth[rows], space))
    spread = some.std(0).mean(-1).numpy() if several else np.zeros(1)
    scale = ScalarMappable(Normalize(0, max(float(spread.max()), 1e-9)), colormaps["magma"])
    if several:
        titles.append("spread")
        panels.append(np.asarray(scale.cmap(scale.norm(spread), bytes=True))[..., :3])
    h, w = space.shape[:2]
    drawing = blank(max(1.2 * len(titles), 4.4) + 0.9 * several, 1.2 * len(rows) * h / w + 0.8, "compressed")
    axes = drawing.subplots()
    hang(axes, np.stack(panels, 1), [f"row {r}" for r in rows], titles)
    if several:
        bar = drawing.colorbar(scale, ax=axes, shrink=0.8, aspect=20, pad=0.02)
        bar.set_label(f"spread of the draws, levels of {space.meta.get('white', 255):g}", size=8, color=MUTED)
        bar.ax.tick_params(labelsize=7.5, colors=MUTED)
        bar.outline.set_visible(False)
    title_of(drawing, f"filled pictures: {_note(filled)}")
    return drawing


def _series(filled: Filled) -> Figure:
    """The channel with the most gaps of each row: what is known as a line with dots, draws where it is not."""
    rows = filled.rows[:SERIES]
    channels = [str(c) for c in filled.space.meta["channels"]]
    drawing = blank(7.2, 1.9 * len(rows) + 0.5)
    for k, (axes, r) in enumerate(zip(drawing.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True)):
        hole = ~filled.observed[r].reshape(len(filled.observed[r]), -1).numpy()
        c = int(hole[:, : len(channels)].sum(0).argmax())
        gone, step = hole[:, c], np.arange(len(hole))
        lines = filled.draws[:, r].double().reshape(len(filled.draws), len(hole), -1)[:, :, c].numpy()
        near = gone | np.roll(gone, 1) & (step > 0) | np.roll(gone, -1) & (step < len(step) - 1)
        for line in lines[:20]:
            axes.plot(step, np.where(near, line, np.nan), color=ACCENT, alpha=max(0.25, 1 / len(lines)), linewidth=0.9)
        axes.plot(step, np.where(gone, np.nan, lines[0]), ".-", color=INK, markersize=3, linewidth=0.9, label="known")
        axes.plot([], [], color=ACCENT, label="draws")
        if filled.truth is not None:
            real = filled.truth[r].double().reshape(len(hole), -1)[:, c].numpy()
            axes.plot(step[gone], real[gone], "o", color=WRONG, markersize=2.6, label="truth")
        plain(axes, f"row {r}, {short(channels[c])}")
        if k == 0:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set_xlabel("step")
    title_of(drawing, f"missing steps, filled: {_note(filled)}")
    return drawing


def _texts(filled: Filled) -> Figure:
    """Draws below each other; what was drawn is tinted."""
    from matplotlib.colors import ListedColormap, Normalize

    space, texts, tints, labels = filled.space, [], [], []
    for r in filled.rows[:PICTURES]:
        for k in range(min(len(filled.draws), DRAWS)):
            (words,) = spelt(filled.draws[k, r : r + 1], space)
            texts.append(words)
            tints.append(np.where(filled.observed[r].numpy(), np.nan, 1.0)[: len(words)])
            labels.append(f"row {r}, draw {k + 1}")
    lines = laid_out(texts, tints)[0]
    drawing = blank(max(0.112 * len(lines[0]) + 1.6, 5.2), 0.19 * max(len(lines), 3) + 0.7)
    tint = ListedColormap([tuple(v / 255 for v in HOLE)])
    letters(drawing.subplots(), texts, tints, labels, cmap=tint, norm=Normalize(0, 1))
    ends = f"; {END}: the end" if any(END in text for text in texts) else ""
    title_of(drawing, f"filled texts: {_note(filled)}\ntinted: what was missing{ends}")
    return drawing


def _others(filled: Filled) -> Figure:
    """Draws of the same row beside each other, as the kind draws rows."""
    rows, m = filled.rows[:OTHERS], min(len(filled.draws), DRAWS)
    drawing = blank(7.2, (0.5 + 1.0 * m) * len(rows) + 0.4)
    for axes, r in zip(drawing.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        KINDS[filled.space.kind].draw(axes, filled.draws[:m, r], filled.space)
        hole = ~filled.observed[r]
        gone = hole.reshape(len(hole), -1).any(1).nonzero().squeeze(1).tolist()
        where = "" if filled.space.kind == "shape" else f", between steps {gone[0]} and {gone[-1]} of {len(hole)}"
        words = f"row {r}, {counted(m, 'draw')}; missing: {float(hole.double().mean()):.0%}{where}"
        axes.set_title(words, fontsize=9, loc="left", color=INK)
    title_of(drawing, f"filled rows: {_note(filled)}")
    return drawing
