"""Planes: rows as dots on the two main axes of their codes, and what is known of them.

    z -> (z - m) V,     V: the two directions along which z varies most (principal components)

Offers `Plane`, `main_plane`, `codes_figure` (where rows lie, and how sure that is) and `clusters_figure` (which groups
they form, and how many groups there are). Colours tell nine classes apart to colour-blind eyes (Tol 2021, "muted");
further ones differ by their mark, and each class bears its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.pixels import hang
from pofx.drawing.style import ACCENT, BRANCH, INK, LINE, MUTED, PAPER, blank, plain
from pofx.drawing.values import short, spread_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
CLASSES = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33", "#aa4499", "#44aa99", "#882255", "#999933")
MARKS = ("o", "^", "s", "D", "v")
DOTS, ELLIPSES, LEARNT = 4000, 200, 2000  # rows drawn; rows with an ellipse each; rows that tell the axes
POINT = 0.003  # share of the width of the plane, below which an ellipse is not seen
BLUE = (0.043, 0.361, 0.678)  # ACCENT, to be mixed with paper
MOST = len(CLASSES) * len(MARKS)  # classes, beyond which labels must be numbers
ABREAST, THUMB, MEMBERS = 13, 21, 8  # thumbnails across the plane, and their points; members of a cluster


@dataclass(frozen=True)
class Plane:
    """Rows on two axes, or on one.

    Attributes:
        at: `(N, 2)`, or `(N, 1)` of codes of one number.
        directions: `(L, 2)` or `(L, 1)`, of the axes in the codes.
        labels: of the axes.
    """

    at: Array
    directions: Array
    labels: tuple[str, ...]


def main_plane(z: Array) -> Plane:
    """Codes `(N, L)` on their two main axes, with the share of the variance on each; one number stays as it is."""
    if z.shape[1] == 1:
        return Plane(z, np.ones((1, 1)), ("code",))
    some = z[spread_out(len(z), LEARNT)]
    v = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:2]
    if len(v) < 2:  # one row has no axes: its first two numbers serve
        v = np.eye(2, z.shape[1])
    v = v * np.sign(v[np.arange(2), np.abs(v).argmax(1)])[:, None]  # either sign is right: the same on every machine
    at, total = (z - z.mean(0)) @ v.T, z.var(0).sum()
    shares = at.var(0) / total if total > 1e-12 else np.zeros(2)
    return Plane(at, v.T, tuple(f"main axis {k + 1}: {s:.0%} of the variance" for k, s in enumerate(shares)))


def codes_figure(
    plane: Plane, spread: Array | None = None, labels: Sequence[Any] | None = None, pictures: Array | None = None
) -> Figure:
    """Where rows lie.

    Args:
        plane: of the codes.
        spread: `(N, L)`, the posterior's deviation of each code; up to 200 rows show it as an ellipse each, more rows
            as the typical one.
        labels: N classes, or numbers, that colour the dots.
        pictures: `(N, H, W, 3)` bytes, some of which are shown at their place.

    Raises:
        ValueError: another number of labels than of rows, or too many classes.
    """
    count, flat = len(plane.at), plane.at.shape[1] == 2
    if labels is not None and len(labels) != count:
        raise ValueError(f"figure: got {len(labels)} labels for {count} rows; expected one for each.")
    drawing = blank(9.6 if pictures is not None and flat else 5.4, 4.8 if flat else 3.4, "compressed")
    panels = drawing.subplots(1, 2 if pictures is not None and flat else 1, squeeze=False)[0]
    if not flat:
        _heap(panels[0], plane, spread, labels)
        return drawing
    shown = np.array(spread_out(count, DOTS))
    room = _ellipses(panels[0], plane, spread)
    _dots(panels[0], plane.at, labels, shown)
    _framed(panels[0], plane, f"{count} {'row' if count == 1 else 'rows'}, each a dot at its code", room)
    if pictures is not None:
        few = _thumbnails(panels[1], plane.at, pictures)
        _framed(panels[1], plane, f"the same plane: {few} of the rows, at their place", room)
    return drawing


def clusters_figure(
    plane: Plane, found: Array, sure: Array, tried: Mapping[int, float], pictures: Array | None = None
) -> Figure:
    """Which groups there are.

    Args:
        plane: of the rows.
        found: `(N,)`, the cluster of each row.
        sure: `(N,)`, the probability of that cluster.
        tried: K -> mean log likelihood of rows held out, nats; a curve where there are several.
        pictures: `(N, H, W, 3)` bytes; a few members of each cluster are shown.
    """
    several = len(tried) > 1
    widths = [4.6] + [3.2] * several + [3.6] * (pictures is not None)
    drawing = blank(sum(widths) + 0.4, 4.4)
    panels = drawing.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    count, shown = len(set(found.tolist())), np.array(spread_out(len(found), DOTS))
    title = f"{len(found)} rows in {count} {'cluster' if count == 1 else 'clusters'}"
    if plane.at.shape[1] == 2:
        _dots(panels[0], plane.at, [f"{k}" for k in found.tolist()], shown, 3 + 17 * sure**4)
        _framed(panels[0], plane, f"{title}\nlarge: sure, small: between two")
    else:
        _heap(panels[0], plane, None, [f"{k}" for k in found.tolist()])
        panels[0].set_title(title, fontsize=10, loc="left", color=INK)
    if several:
        _choice(panels[1], tried)
    if pictures is not None:
        _members(panels[-1], found, sure, pictures)
    return drawing


def colour(k: int) -> str:
    """Of the k-th class."""
    return CLASSES[k % len(CLASSES)]


def _size(at: Array) -> Array:
    """Width and height of the dots, with some air; a line of dots gets some height."""
    size = np.ptp(at, axis=0)
    return 1.14 * np.maximum(size, 0.6 * max(size.max(), 1e-3))


def _framed(axes: Any, plane: Plane, title: str, room: float = 0.0) -> None:
    axes.set(xlabel=plane.labels[0], ylabel=plane.labels[1])
    plain(axes, title)
    middle, half = (plane.at.min(0) + plane.at.max(0)) / 2, _size(plane.at) / 2 + room
    (left, low), (right, high) = middle - half, middle + half
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.5)


def _dots(axes: Any, at: Array, labels: Any, shown: Array, sizes: Array | None = None) -> None:
    size = np.full(len(at), float(np.clip(9000 / len(at), 6, 26))) if sizes is None else sizes
    if labels is None:
        axes.scatter(*at[shown].T, s=size[shown], color=ACCENT, alpha=0.75, linewidths=0)
        return
    groups = _groups(labels)
    if groups is None:
        number = np.asarray(labels, dtype=float)
        dots = axes.scatter(*at[shown].T, s=size[shown], c=number[shown], cmap="viridis", alpha=0.85, linewidths=0)
        bar = axes.figure.colorbar(dots, ax=axes, shrink=0.7, pad=0.02)
        bar.set_label("label", size=8.5, color=MUTED)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
        return
    inside = np.isin(np.arange(len(at)), shown)
    for k, (name, rows) in enumerate(groups.items()):
        some = rows & inside
        mark = MARKS[k // len(CLASSES)]
        axes.scatter(*at[some].T, s=size[some], color=colour(k), marker=mark, alpha=0.75, linewidths=0, label=name)
    for k, (name, rows) in enumerate(groups.items()):
        if len(groups) > 1:
            _named(axes, np.median(at[rows], axis=0), name, colour(k))


def _named(axes: Any, at: Array, name: str, own: str) -> None:
    """The name of a class, amid its dots."""
    from matplotlib.patheffects import withStroke

    bold = {"fontsize": 11, "fontweight": "bold", "ha": "center", "va": "center", "zorder": 5}
    axes.text(*at, short(name), color=own, path_effects=[withStroke(linewidth=3, foreground=PAPER)], **bold)


def _groups(labels: Any) -> dict[str, Array] | None:
    """Class -> which rows, `(N,)` bool; None where labels are numbers that vary too much to be classes."""
    values = [getattr(v, "item", lambda v=v: v)() for v in labels]
    kinds = sorted(set(values), key=lambda v: (0, v, "") if isinstance(v, (int, float)) else (1, len(str(v)), str(v)))
    numbers = all(isinstance(v, (int, float)) for v in kinds)
    if len(kinds) > (len(CLASSES) + 3 if numbers else MOST):
        if not numbers:
            raise ValueError(f"figure: got {len(kinds)} classes; expected at most {MOST}, or numbers.")
        return None
    return {str(kind): np.array([v == kind for v in values]) for kind in kinds}


def _ellipses(axes: Any, plane: Plane, spread: Array | None) -> float:
    """One deviation of the posterior, as it falls on the plane; how much room that wants beyond the dots."""
    if spread is None:
        return 0.0
    many = len(plane.at) > ELLIPSES
    point = float(spread.mean()) < POINT * float(_size(plane.at).max())
    words = "p(z | x) is nearly a point" if point else "ellipse: one standard deviation of p(z | x)"
    words = f"black {words}, typical" if many and not point else words
    axes.text(0, -0.14, words, transform=axes.transAxes, **_small())
    if point:
        return 0.0
    if not many:
        sides, angles = _shapes(spread, plane.directions)
        faint = {"facecolors": (*BLUE, min(0.08, 2 / len(plane.at))), "edgecolors": (*BLUE, 0.25), "linewidths": 0.4}
        _drawn(axes, plane.at, sides, angles, faint)
        return 0.8 * float(sides.max())
    # all of them would hide the dots: the typical one stands in a corner, on the scale of the axes
    sides, angles = _shapes(np.sqrt((spread**2).mean(0, keepdims=True)), plane.directions)
    corner = np.array([[plane.at[:, 0].min() + sides[0, 0], plane.at[:, 1].max() - sides[0, 0]]])
    _drawn(axes, corner, sides, angles, {"facecolors": PAPER, "edgecolors": INK, "linewidths": 1.2, "zorder": 6})
    return 0.0


def _drawn(axes: Any, at: Array, sides: Array, angles: Array, look: Mapping[str, Any]) -> None:
    from matplotlib.collections import EllipseCollection

    wide, high = 2 * sides.T
    axes.add_collection(
        EllipseCollection(wide, high, angles, units="xy", offsets=at, offset_transform=axes.transData, **look)
    )


def _small() -> dict[str, Any]:
    return {"fontsize": 8, "color": MUTED, "va": "top"}


def _shapes(spread: Array, directions: Array) -> tuple[Array, Array]:
    """Half axes `(N, 2)` and angles in degrees `(N,)` of diag(spread^2) seen along two directions `(L, 2)`."""
    covariance = np.einsum("la,nl,lb->nab", directions, spread**2, directions)
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(values.clip(0)), np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))


def _heap(axes: Any, plane: Plane, spread: Array | None, labels: Any) -> None:
    """A histogram, of codes of one number."""
    z = plane.at[:, 0]
    width = max(float(np.ptp(z)), 1e-6 * max(abs(float(z[0])), 1.0))
    edges = np.linspace(z.min() - width / 50, z.max() + width / 50, int(np.clip(len(z) / 8, 8, 50)))
    groups = None if labels is None else _groups(labels)
    if groups is None:
        axes.hist(z, edges, color=ACCENT)
    else:
        parts, own = [z[rows] for rows in groups.values()], [colour(k) for k in range(len(groups))]
        axes.hist(parts, edges, stacked=True, color=own, label=list(groups))
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    title = (
        "codes of one number" if spread is None else f"codes of one number; p(z | x) deviates by {spread.mean():.2g}"
    )
    axes.set(xlabel=plane.labels[0], ylabel="rows")
    plain(axes, title)


def _thumbnails(axes: Any, at: Array, pictures: Array) -> int:
    """Rows at their place, as many as stand apart; how many those are."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    apart, chosen = _size(at).max() / ABREAST, np.zeros((0, 2))
    for row in range(min(len(at), DOTS)):
        if len(chosen) and np.abs(chosen - at[row]).max(1).min() < apart:
            continue
        chosen = np.concatenate([chosen, at[row : row + 1]])
        image = OffsetImage(pictures[row], zoom=THUMB / max(pictures.shape[1:3]), interpolation="nearest")
        axes.add_artist(AnnotationBbox(image, tuple(at[row]), frameon=False, pad=0))
    return len(chosen)


def _choice(axes: Any, tried: Mapping[int, float]) -> None:
    """Held-out log likelihood against the number of clusters."""
    ks = sorted(tried)
    best = max(ks, key=lambda k: tried[k])
    axes.plot(ks, [tried[k] for k in ks], "o-", color=BRANCH, markersize=4, linewidth=1.2)
    axes.plot([best], [tried[best]], "o", color=ACCENT, markersize=9)
    axes.set(xlabel="clusters", ylabel="log likelihood of rows held out, nats a row")
    axes.set_xticks([ks[k] for k in spread_out(len(ks), 8)])
    most = ", the most tried" if best == ks[-1] else ""
    plain(axes, f"how many? {best} {'is' if best == 1 else 'are'} likeliest{most}")


def _members(axes: Any, found: Array, sure: Array, pictures: Array) -> None:
    """A line of members for each cluster, from the surest to the least sure."""
    kinds = sorted(set(found.tolist()))
    lines = np.full((len(kinds), MEMBERS, *pictures.shape[1:]), 255, dtype=np.uint8)
    for line, kind in zip(lines, kinds, strict=True):
        rows = np.flatnonzero(found == kind)
        rows = rows[np.argsort(-sure[rows], kind="stable")]
        for k, row in enumerate(rows[spread_out(len(rows), MEMBERS)]):
            line[k] = pictures[row]
    hang(axes, lines, [f"{kind}  ({(found == kind).sum()})" for kind in kinds])
    for text, kind in zip(axes.get_yticklabels(), kinds, strict=True):
        text.set(color=colour(kind), fontweight="bold")
    axes.set_title("members, surest first", fontsize=10, loc="left", color=INK)
