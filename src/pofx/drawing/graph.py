"""Graph: which columns say something about which, as a heat map and as a graph.

An edge is as thick as the information in nats and as dark as the correlation; weak ones are left out, and of many only
the strongest are drawn. Columns that go together stand together on the circle (average linkage, leaves in the best
order). Offers `dependence_figure` and `strongest`.

Reference: Bar-Joseph 2001 (optimal leaf ordering).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.style import BRANCH, INK, LINE, MUTED, blank, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
WEAK = 0.15  # correlation, below which an edge is left out: about a hundredth of a nat
EACH = 2  # edges drawn for each column, at most
THICK = 7.0  # points, of the most informative pair


def strongest(information: Array, correlation: Array, error: Array | None = None) -> list[tuple[int, int]]:
    """Pairs i < j worth an edge, the weakest first: correlated by 0.15 or more, and by three standard errors."""
    count = len(information)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    real = [p for p in pairs if correlation[p] >= WEAK and (error is None or information[p] >= 3 * error[p])]
    return sorted(sorted(real, key=lambda p: -information[p])[: EACH * count], key=lambda p: information[p])


def dependence_figure(
    information: Array, correlation: Array, names: Sequence[str], error: Array | None = None
) -> Figure:
    """A heat map of every pair, beside the graph of the strong ones.

    Args:
        information: `(D, D)` nats.
        correlation: the same as informational correlation, in [0, 1].
        names: of the columns.
        error: `(D, D)`, standard errors of the information.
    """
    from matplotlib import colormaps

    count = len(names)
    side = float(np.clip(3.6 + 0.1 * count, 3.8, 8.0))
    drawing = blank(2.3 * side, side + 0.2)
    # each half is laid out by itself: long names below the map leave the circle its height
    halves: Any = drawing.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = (half.subplots() for half in halves)
    colours = colormaps["Blues"]
    _map(left, correlation, names, colours, side)
    edges = strongest(information, correlation, error)
    _circle(right, information, correlation, names, edges, colours, side)
    return drawing


def _map(axes: Any, correlation: Array, names: Sequence[str], colours: Any, side: float) -> None:
    image = axes.imshow(correlation, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    for k in range(len(names)):  # a column tells all of itself: nothing to see
        axes.fill([k - 0.5, k + 0.5, k + 0.5, k - 0.5], [k - 0.5, k - 0.5, k + 0.5, k + 0.5], color=LINE, linewidth=0)
    size = _letters(len(names), side)
    axes.set_xticks(range(len(names)), list(names), rotation=90)
    axes.set_yticks(range(len(names)), list(names))
    plain(axes, "what one column says of another")
    axes.tick_params(length=0, labelsize=size, labelcolor=INK)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02, ticks=(0, 0.5, 1))
    bar.ax.set_yticklabels(["0: nothing", "0.5", "1: all"])
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    bar.outline.set_visible(False)
    bar.set_label("informational correlation", size=8.5, color=MUTED)


def _circle(
    axes: Any,
    information: Array,
    correlation: Array,
    names: Sequence[str],
    edges: Sequence[tuple[int, int]],
    colours: Any,
    side: float,
) -> None:
    count, most = len(names), float(max((information[p] for p in edges), default=1.0))
    angle = np.zeros(count)
    angle[_round(correlation)] = np.pi / 2 - 2 * np.pi * np.arange(count) / max(count, 1)
    at = np.stack([np.cos(angle), np.sin(angle)], 1)
    for i, j in edges:
        own = colours(max(0.3, float(correlation[i, j])))  # the lightest blue is lost on paper
        axes.add_patch(_bow(at[i], at[j], max(0.5, THICK * float(information[i, j]) / most), own))
    joined = {k for pair in edges for k in pair}
    own = [INK if k in joined else BRANCH for k in range(count)]
    axes.scatter(*at.T, s=float(np.clip(900 / max(count, 1), 10, 50)), zorder=3, color=own)
    for k, name in enumerate(names):
        turn = float(np.degrees(angle[k]) % 360)
        over = 90 < turn < 270
        axes.text(
            *(1.06 * at[k]), name, rotation=turn - 180 if over else turn, rotation_mode="anchor",
            ha="right" if over else "left", va="center", fontsize=_letters(count, side),
            color=INK if k in joined else MUTED,
        )  # fmt: skip
    # names fit into a square a little narrower than `side` inches
    longest = 0.6 / 72 * _letters(count, side) * max(map(len, names))
    room = 1.08 / max(0.3, 1 - 2 * longest / (side - 0.7))
    axes.set(xlim=(-room, room), ylim=(-room, room), aspect="equal")
    axes.set_axis_off()
    total = count * (count - 1) // 2
    title = f"the graph: the strongest {len(edges)} of {total} pairs" if edges else "no two columns go together"
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    if edges:
        words = f"thickest: {most:.2g} nats; thickness is information, shade as on the left"
        axes.text(0.5, -0.03, words, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=MUTED)


def _bow(start: Array, end: Array, width: float, own: Any) -> Any:
    """An edge, bent towards the middle of the circle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    path = Path([tuple(start), tuple(0.35 * (start + end)), tuple(end)], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    return PathPatch(path, facecolor="none", edgecolor=own, linewidth=width, capstyle="butt")


def _round(correlation: Array) -> Array:
    """Columns in an order in which those that go together are neighbours."""
    if len(correlation) < 3:
        return np.arange(len(correlation))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    far = 1 - (correlation + correlation.T) / 2
    np.fill_diagonal(far, 0)
    return leaves_list(linkage(squareform(far, checks=False), "average", optimal_ordering=True))


def _letters(count: int, side: float) -> float:
    """The size of names that fit beside so many cells."""
    return float(np.clip(52 * side / max(count, 1), 4.5, 8.5))
