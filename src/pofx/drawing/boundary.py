"""Boundary: which class a row is of, how sure that is, and whether it is of any.

    region of c     where p(c | x) is the largest; it pales towards the boundary
    contour         log p(x) above it: half, nine in ten, 99 in 100 of the rows drawn
    refused         of no class: log p(x) below the dashed line; ambiguous: two classes explain it alike

Offers `boundary_figure` (rows of two numbers; `draw_boundary` and `legend` are its parts) and `doubts_figure` (any
rows: doubt against density), with `Classes` (what is known of the rows) and `Judged` (what true labels tell).
References: Ng and Jordan 2001 (a boundary is not a density); Chow 1970 (refusing); Guo 2017 (arXiv:1706.04599,
reliability); Geifman and El-Yaniv 2017 (arXiv:1705.08500, risk and coverage).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.planes import CLASSES, MARKS, colour
from pofx.drawing.style import ACCENT, BRANCH, INK, LINE, MUTED, PAPER, blank, plain
from pofx.drawing.values import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
SHARES = (0.5, 0.9, 0.99)  # of the rows, that lie within a contour
LEAST = 1e-6  # doubt below which rows are alike
MOST_NAMED, DOTS = 12, 3000  # classes in a legend; rows drawn
NONE, TORN = "#c0392b", INK  # rings: of no class, ambiguous


@dataclass(frozen=True)
class Classes:
    """What is known of N rows.

    Attributes:
        names: of the K classes.
        codes: `(N,)`, which class each is drawn as (the true one where it is known).
        doubt: `(N,)`, 1 - the largest p(c | x).
        log_p: `(N,)`, log p(x); None: the model has no density.
        strange: `(N,)` bool, of no class; None: there was nothing to judge it by.
        threshold: log p(x) below which a row is of no class; None: not known.
        ambiguous: doubt above which a row is ambiguous.
        known: whether `codes` are the true classes; else the likeliest.
    """

    names: Sequence[str]
    codes: Array
    doubt: Array
    log_p: Array | None = None
    strange: Array | None = None
    threshold: float | None = None
    ambiguous: float = 0.1
    known: bool = False

    @property
    def torn(self) -> Array:
        """Which rows are ambiguous, `(N,)` bool."""
        return self.doubt > self.ambiguous

    def words(self) -> str:
        """How many are named, ambiguous and of no class."""
        strange = np.zeros(len(self.doubt), bool) if self.strange is None else self.strange
        named = int((~self.torn & ~strange).sum())
        parts = [f"{len(self.doubt)} rows: {named} named", f"{int((self.torn & ~strange).sum())} ambiguous"]
        return ", ".join([*parts, *([] if self.strange is None else [f"{int(strange.sum())} of no class"])])


@dataclass(frozen=True)
class Judged:
    """What true labels tell: bins of a reliability diagram `(B,)`, a risk-coverage curve `(N,)`, and both in a number.

    Attributes:
        confidence, accuracy: means of each bin.
        coverage, risk: the error rate among the surest rows.
        error, floor: calibration error, and that of a perfect model as sure.
        area: under risk-coverage.
    """

    confidence: Array
    accuracy: Array
    coverage: Array
    risk: Array
    error: float
    floor: float
    area: float


def boundary_figure(
    x: Array, rows: Classes, sides: tuple[Array, Array], shares: Array, log_p: Array, axes_names: tuple[str, str]
) -> Figure:
    """Regions of the likeliest class, contours of log p(x), rows as dots, refused ones ringed.

    Args:
        x: `(N, 2)`.
        rows: what is known of them; their `log_p` sets the contours.
        sides: the grid's values on each axis, `(A,)` and `(B,)`.
        shares: p(c | x) on the grid, `(B, A, K)`.
        log_p: log p(x) there, `(B, A)`.
        axes_names: of the two columns.
    """
    figure = blank(7.4, 5.0)
    axes = figure.subplots()
    beyond = draw_boundary(axes, x, rows, sides, shares, log_p)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
    plain(axes, rows.words() + (f"; {beyond} beyond the picture" if beyond else ""))
    legend(figure, rows, boundary=True)
    return figure


def draw_boundary(
    axes: Any, x: Array, rows: Classes, sides: tuple[Array, Array], shares: Array, log_p: Array | None
) -> int:
    """The same in axes of one's own; without log p, of a model that has none, no contours. How many rows lie beyond."""
    _regions(axes, sides, shares)
    if rows.log_p is not None and log_p is not None:
        levels = sorted(set(np.quantile(rows.log_p, [1 - s for s in SHARES]).tolist()))
        wide = [0.6, 0.8, 1.1][-len(levels) :]
        axes.contour(*sides, log_p, levels=levels, colors=MUTED, linewidths=wide, linestyles="solid")
        if rows.threshold is not None and log_p.min() < rows.threshold < log_p.max():
            axes.contour(*sides, log_p, levels=[rows.threshold], colors=NONE, linewidths=1.2, linestyles=[(0, (5, 3))])
    _dots(axes, x[:, 0], x[:, 1], rows)
    ends = np.array([side[[0, -1]] for side in sides])
    axes.set(xlim=ends[0], ylim=ends[1])
    return int(((x < ends[:, 0]) | (x > ends[:, 1])).any(1).sum())


def doubts_figure(rows: Classes, judged: Judged | None = None) -> Figure:
    """Each row by how unsure its class is and how likely it is itself; beside it what true labels say of that.

    Without a density rows stand by their class instead: such a model cannot say that a row is of none.

    Args:
        rows: what is known of them.
        judged: where true labels are known.
    """
    figure = blank(7.4 if judged is None else 10.0, 4.6)
    grid: Any = figure.add_gridspec(2, 1 if judged is None else 2, width_ratios=(1,) if judged is None else (2.1, 1))
    axes = figure.add_subplot(grid[:, 0])
    doubt = rows.doubt.clip(LEAST, 1)
    if rows.log_p is None:
        spread = 0.3 * np.sin(np.arange(len(doubt)) * 2.399963)  # the golden angle keeps dots of one class apart
        _dots(axes, doubt, rows.codes + spread, rows)
        axes.set_yticks(range(len(rows.names)), [short(name) for name in rows.names])
        axes.set_ylabel("likeliest class (no density, so none is refused as of no class)")
    else:
        low = _lowest(rows)
        _dots(axes, doubt, rows.log_p.clip(low), rows)
        axes.set_ylabel("log p(x), nats" + ("" if rows.log_p.min() >= low else f" (lower ones at {low:.0f})"))
    if rows.threshold is not None:
        axes.axhline(rows.threshold, color=NONE, lw=1.1, ls=(0, (5, 3)))
    axes.axvline(rows.ambiguous, color=TORN, lw=0.9, ls=(0, (2, 2)))
    axes.set_xscale("log")
    axes.set_xlim(LEAST / 1.6, 1.1)
    axes.set_xlabel("doubt, 1 - the largest p(class | x); sure on the left, at 1e-6 or less")
    plain(axes, rows.words())
    legend(figure, rows, boundary=False)
    if judged is not None:
        _reliability(figure.add_subplot(grid[0, 1]), judged)
        _risk(figure.add_subplot(grid[1, 1]), judged)
    return figure


def _regions(axes: Any, sides: tuple[Array, Array], shares: Array) -> None:
    """The likeliest class in a pale colour, paler where it is hardly likelier than the next; lines where they meet."""
    from matplotlib.colors import to_rgb

    tones, paper = np.array([to_rgb(colour(k)) for k in range(shares.shape[-1])]), np.array(to_rgb(PAPER))
    likeliest, least = shares.argmax(-1), 1 / shares.shape[-1]
    depth = 0.06 + 0.22 * ((shares.max(-1) - least) / (1 - least)) ** 2
    pixels = paper + depth[..., None] * (tones[likeliest] - paper)
    ends = (*sides[0][[0, -1]], *sides[1][[0, -1]])
    axes.imshow(pixels, origin="lower", extent=ends, aspect="auto", interpolation="bilinear", zorder=0)
    for k in range(shares.shape[-1]):
        beyond = shares[..., k] - np.delete(shares, k, -1).max(-1)
        if beyond.min() < 0 < beyond.max():
            axes.contour(*sides, beyond, levels=[0], colors=INK, linewidths=1.3)


def _dots(axes: Any, a: Array, b: Array, rows: Classes) -> None:
    """Rows in the colour of their class; refused ones ringed, the more of them the finer."""
    some = np.arange(len(a)) < DOTS
    size = float(np.clip(5000 / max(len(a), 1), 6, 22))
    order = np.argsort(-np.bincount(rows.codes)[rows.codes], kind="stable")  # rare classes lie on top
    for mark in range(-(-len(rows.names) // len(CLASSES))):
        own = order[(some & (rows.codes // len(CLASSES) == mark))[order]]
        tones = [colour(int(k)) for k in rows.codes[own]]
        axes.scatter(
            a[own], b[own], s=size, c=tones, marker=MARKS[mark % len(MARKS)], linewidths=0, alpha=0.85, zorder=3
        )
    strange = np.zeros(len(a), bool) if rows.strange is None else rows.strange
    for marked, tone, wide in ((some & rows.torn & ~strange, TORN, 1.0), (some & strange, NONE, 1.3)):
        fine = float(np.clip(60 / max(int(marked.sum()), 1), 0.35, 1))
        axes.scatter(
            a[marked], b[marked], s=size + 60 * fine, facecolor="none", edgecolor=tone, linewidths=wide * fine,
            alpha=0.4 + 0.6 * fine, zorder=4,
        )  # fmt: skip


def legend(figure: Figure, rows: Classes, boundary: bool) -> None:
    """What colours, rings and lines mean, below the picture."""
    from matplotlib.lines import Line2D

    def mark(words: str, **style: Any) -> Line2D:
        return Line2D([], [], **({"ls": "none", "marker": "o"} | style), label=words)

    present = [k for k in range(len(rows.names)) if (rows.codes == k).any()][:MOST_NAMED]
    marks = [
        mark(short(rows.names[k]), color=colour(k), marker=MARKS[k // len(CLASSES) % len(MARKS)], ms=5) for k in present
    ]
    marks.append(mark(f"ambiguous: doubt above {rows.ambiguous:g}", mfc="none", mec=TORN, ms=8))
    if rows.strange is not None:
        marks.append(mark("of no class", mfc="none", mec=NONE, ms=8, mew=1.3))
    if rows.threshold is not None:
        marks.append(Line2D([], [], color=NONE, lw=1.1, ls=(0, (5, 3)), label="of no class beyond"))
    if boundary:
        marks.append(Line2D([], [], color=INK, lw=1.3, label="boundary of p(class | x)"))
        marks.append(Line2D([], [], color=MUTED, lw=0.9, label="log p(x): 50, 90, 99 % of the rows within"))
    title = f"colours: the {'true' if rows.known else 'likeliest'} class"
    figure.legend(
        handles=marks, loc="outside lower center", ncols=min(4 if boundary else 7, -(-len(marks) // 2)), frameon=False,
        fontsize=8, labelcolor=INK, handletextpad=0.4, columnspacing=1.2, title=title, title_fontsize=8,
    )  # fmt: skip


def _lowest(rows: Classes) -> float:
    """Where the axis of log p ends below: one strange row in a thousand would press the others into a line."""
    assert rows.log_p is not None
    high, low = np.quantile(rows.log_p, [0.95, 0.05])
    ends = [float(low - 3 * (high - low)), *([] if rows.threshold is None else [rows.threshold - (high - low)])]
    return max(float(rows.log_p.min()), min(ends))


def _reliability(axes: Any, judged: Judged) -> None:
    """Right against sure, by bins."""
    axes.plot([0, 1], [0, 1], color=BRANCH, lw=0.9)
    axes.plot(judged.confidence, judged.accuracy, "o-", color=ACCENT, ms=3.5, lw=1.1)
    low = max(0.0, min(judged.confidence.min(), judged.accuracy.min()) - 0.05)
    axes.set(xlim=(low, 1.01), ylim=(low, 1.02), xlabel="how sure, by bins of equal count", ylabel="how often right")
    plain(axes, f"calibration error {judged.error:.3f} (if perfect: {judged.floor:.3f})")


def _risk(axes: Any, judged: Judged) -> None:
    """Errors among the surest rows, for every number of them."""
    axes.plot(judged.coverage, 100 * judged.risk, color=ACCENT, lw=1.3)
    axes.fill_between(judged.coverage, 100 * judged.risk, color=ACCENT, alpha=0.12, linewidth=0)
    axes.set(xlim=(0, 1.01), xlabel="share of rows kept, surest first", ylabel="wrong, %")
    axes.set_ylim(0, 100 * max(judged.risk.max() * 1.15, 0.005))
    axes.grid(axis="y", color=LINE, lw=0.6)
    plain(axes, f"risk and coverage, area {100 * judged.area:.2f} %")
