"""Lesson: p(y | x) beside p(x, y) on two classes of the data, in a plane.

    discriminative   p(y | x) = sigmoid(w x + b)                              logistic regression
    generative       p(x, y) = p(y) N(x; m_y, S)                              and so p(x) = sum_y p(x, y)

Both are fitted here on the first two principal components of two classes (or on the plane itself). Where there is no
such x, the first is surer than ever, and the second says so: p(x) is almost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pofx.data import Data, open_data
from pofx.drawing.style import INK, MUTED, blank, plain
from pofx.families import family
from pofx.kinds.relax import Chart
from pofx.model import Model
from pofx.randomness import Rng
from pofx.reporting.style import escape, figure, missing, plot

BLUE, ORANGE, LIMIT = "#2f6db5", "#c8691c", 2000


@dataclass(frozen=True)
class Plane:
    """Rows of two classes in a plane: x `(N, 2)`, y `(N,)` in {0, 1}, what the classes and the axes are called."""

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, str]
    axes: tuple[str, str]


def lesson(data: Data) -> str:
    """The figure and its words; a sentence where the data has no two classes."""
    plane = plane_of(data)
    if plane is None:
        return missing("The data has no label with two classes, so there is nothing to contrast p(x, y) with.")
    from sklearn.linear_model import LogisticRegression

    sure = LogisticRegression().fit(plane.x, plane.y)
    joint = _generative(plane)
    far = _far(plane, sure.coef_[0])
    return figure(
        plot(_drawn(plane, sure, joint, far), "p(y|x) beside p(x, y)", vector=False), _words(plane, sure, joint, far)
    )


def plane_of(data: Data) -> Plane | None:
    """Two classes of the training rows in a plane: the label beside the data, what it is given, or a category in it."""
    label = _label(data)
    if label is None:
        return None
    codes, names, entry = label
    train = data.split.get("train", torch.arange(len(data)))
    codes = codes[train]
    counts = torch.bincount(codes.long())
    if int((counts > 2).sum()) < 2:
        return None
    two = counts.argsort(descending=True, stable=True)[:2].sort().values.tolist()
    rows = torch.cat([(codes == c).nonzero().squeeze(1)[: LIMIT // 2] for c in two])
    x, axes = _flat(data, train[rows], entry)
    if x.shape[1] < 2:
        return None
    y = (codes[rows] == two[1]).numpy().astype(int)
    return Plane(_projected(x), y, (names[two[0]], names[two[1]]), axes)


def _label(data: Data) -> tuple[torch.Tensor, list[str], int | None] | None:
    """Codes of all rows, the classes' names, and which entry of x it is (None: beside x)."""
    beside = {**data.aside, **{k: (data.given[k], s) for k, s in data.given_spaces.items()}}
    for values, space in beside.values():
        if space.shape == () and space.discrete and space.variables[0].levels > 1:
            return values, _names(space.variables[0]), None
    flat = data.x.flatten(1)
    for j in range(data.space.size if data.space.layout == "vector" else 0):
        v = data.space.variable(j)
        if v.support in ("category", "binary") and v.levels > 1:
            return flat[:, j].long(), _names(v), j
    return None


def _names(v: Any) -> list[str]:
    return [str(w) for w in (v.values or range(v.levels))]


def _flat(data: Data, rows: torch.Tensor, entry: int | None) -> tuple[np.ndarray, tuple[str, str]]:
    space = data.space
    if space.layout == "grid":
        return data.x[rows].flatten(1).double().numpy(), ("first principal component", "second")
    keep = [j for j in range(space.size) if j != entry and not space.variable(j).discrete]
    if len(keep) < 2:
        return np.zeros((len(rows), 0)), ("", "")
    x = Chart(space.sub(keep)).encode(data.x[rows].flatten(1)[:, keep]).flatten(1).double().numpy()
    if len(keep) == 2:
        return x, (space.variable(keep[0]).name, space.variable(keep[1]).name)
    return x, ("first principal component", "second")


def _projected(x: np.ndarray) -> np.ndarray:
    """Two columns as they are, more on their first two principal components; in standard deviations."""
    x = np.nan_to_num(x)
    if x.shape[1] > 2:
        centred = x - x.mean(0)
        x = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return (x - x.mean(0)) / x.std(0).clip(1e-9)


def _generative(plane: Plane) -> Model:
    data = open_data(plane.x, given={"y": plane.y}, test=0.05, valid=0.05)
    joint = family("gaussian")().build(data.space, data.given_spaces)
    joint.fit_closed(data, Rng(0))
    return joint


def _far(plane: Plane, direction: np.ndarray) -> np.ndarray:
    """A point far beyond the second class, straight away from the border, where no row is."""
    w = direction / np.linalg.norm(direction)
    return plane.x.mean(0) + 6 * w


def _log_joint(joint: Model, x: np.ndarray, plane: Plane) -> np.ndarray:
    """log p(x, y) for y = 0, 1: `(2, N)`."""
    rows, prior = torch.from_numpy(x), np.bincount(plane.y, minlength=2) / len(plane.y)
    kept = [joint.log_prob(rows, {"y": torch.full((len(x),), k)}).value.numpy() for k in (0, 1)]
    return np.stack(kept) + np.log(prior)[:, None]


def _log_x(joint: Model, x: np.ndarray, plane: Plane) -> np.ndarray:
    both = _log_joint(joint, x, plane)
    return np.logaddexp(both[0], both[1])


def _drawn(plane: Plane, sure: Any, joint: Model, far: np.ndarray) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    reach = float(max(np.abs(plane.x).max(), np.abs(far).max())) + 0.9
    line = np.linspace(-reach, reach, 141)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    sketch = blank(11.8, 4.4, "compressed")
    left, middle, right = sketch.subplots(1, 3, sharex=True, sharey=True)
    diverging = LinearSegmentedColormap.from_list("two", [BLUE, "#ffffff", ORANGE])
    share = sure.predict_proba(grid)[:, 1].reshape(141, 141)
    left.imshow(share, extent=(-reach, reach) * 2, origin="lower", cmap=diverging, vmin=0, vmax=1, alpha=0.75)
    left.contour(line, line, share, [0.5], colors=[INK], linewidths=1.2)
    both = _log_joint(joint, grid, plane).reshape(2, 141, 141)
    peak = both.max()
    for k, colour in enumerate((BLUE, ORANGE)):
        middle.contour(
            line,
            line,
            both[k],
            peak - np.array([12.0, 6.0, 3.0, 1.0]),
            colors=[colour],
            linewidths=1.1,
            linestyles="solid",
        )
    log_x = np.logaddexp(both[0], both[1])
    right.imshow(
        np.clip(log_x - log_x.max(), -14, 0),
        extent=(-reach, reach) * 2,
        origin="lower",
        cmap="Greens",
        vmin=-14,
        vmax=2,
    )
    titles = ("p(y | x): logistic regression", "p(x, y): a Gaussian for each class", "p(x) = p(x, 0) + p(x, 1)")
    for axes, title in zip((left, middle, right), titles, strict=True):
        _points(axes, plane, far)
        plain(axes, title)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=plane.axes[0][:40])
    left.set_ylabel(plane.axes[1][:40])
    return sketch


def _points(axes: Any, plane: Plane, far: np.ndarray) -> None:
    for k, colour in enumerate((BLUE, ORANGE)):
        some = plane.x[plane.y == k][:250]
        axes.scatter(some[:, 0], some[:, 1], s=6, color=colour, alpha=0.6, linewidths=0)
    axes.scatter(*far, marker="*", s=130, color="#fff", edgecolors=INK, linewidths=1.1, zorder=5)
    axes.annotate(
        "x*", far, xytext=(-16, 6), textcoords="offset points", fontsize=10, color=INK, fontweight="bold", zorder=6
    )


def _words(plane: Plane, sure: Any, joint: Model, far: np.ndarray) -> str:
    chance = float(sure.predict_proba(far[None])[0].max())
    winner = escape(plane.classes[int(sure.predict(far[None])[0])])
    here, rows = float(_log_x(joint, far[None], plane)[0]), _log_x(joint, plane.x, plane)
    usual = float(np.quantile(rows, 0.01))
    one, two = (escape(c) for c in plane.classes)
    return (
        f"Class <b style='color:{BLUE}'>{one}</b> against <b style='color:{ORANGE}'>{two}</b>. Left: logistic "
        "regression learns only where the border runs, and grows surer with distance from it. At the star x*, where no "
        f"row ever was, it says {winner} with probability {_percent(chance)}. Middle and right: the generative model "
        f"gives the star log p(x*) = {here:.1f} nats, while 99 % of the rows have more than {usual:.1f}: it is "
        f"e<sup>{usual - here:.0f}</sup> times less likely than the strangest hundredth of the data. It gives the same "
        "kind of p(y | x) by Bayes' rule, and beyond that it can say <b>“no such x”</b>. "
        f"<span style='color:{MUTED}'>Axes in standard deviations.</span>"
    )


def _percent(p: float) -> str:
    if p >= 1 - 1e-8:
        return "above 99.999999 %"
    return f"{100 * p:.{max(1, math.ceil(-math.log10(1 - p)) - 1)}f} %"
