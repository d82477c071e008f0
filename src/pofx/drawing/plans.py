"""Plans: what to do, how sure that is, and what should come of it.

Offers `Plan` and `plan_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.style import ACCENT, BRANCH, INK, MUTED, blank, plain
from pofx.drawing.values import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
ENTRIES = 6  # of actions and of states that are drawn
LINES = ("#0b5cad", "#b8722c", "#117733", "#aa4499", "#5b6169", "#88ccee")


@dataclass(frozen=True)
class Plan:
    """A sequence of actions.

    Attributes:
        actions: `(H, A)` numbers, or `(H,)` codes.
        spread: `(H, A)`, deviation of numbers.
        shares: `(H, K)`, of codes: how likely each would have been taken.
        words: of the K codes.
        states: `(H + 1, S)`, the mean states on the way.
        names: of the actions, then of the states.
        trace: score of the best candidates, by round of the search.
        earned: expected return, and its deviation over the ways that it may go.
    """

    actions: Array
    spread: Array | None = None
    shares: Array | None = None
    words: Sequence[str] = ()
    states: Array | None = None
    names: tuple[Sequence[str], Sequence[str]] = ((), ())
    trace: Sequence[float] = ()
    earned: tuple[float, float] | None = None


def plan_figure(plan: Plan) -> Figure:
    """Actions over the steps, the states that they should lead to, and how the search went."""
    parts = [_actions] + [_states] * (plan.states is not None) + [_search] * (len(plan.trace) > 1)
    drawing = blank(3.7 * len(parts) + 0.6, 3.0)
    for axes, draw in zip(drawing.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        draw(axes, plan)
    return drawing


def _actions(axes: Any, plan: Plan) -> None:
    steps = np.arange(1, len(plan.actions) + 1)
    title = "what to do"
    if plan.actions.ndim == 1:
        levels = max(len(plan.words), int(plan.actions.max()) + 1)
        if plan.shares is not None:
            box = (0.5, len(steps) + 0.5, -0.5, plan.shares.shape[1] - 0.5)
            shades = {"cmap": "Blues", "vmin": 0, "vmax": 1, "origin": "lower", "aspect": "auto", "extent": box}
            image = axes.imshow(plan.shares.T, interpolation="nearest", **shades)
            bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
            bar.set_label("probability", size=8.5, color=MUTED)
            bar.ax.tick_params(labelsize=8, colors=MUTED)
            title += ", and how settled that is"
        axes.plot(steps, plan.actions, "o", color="#ddaa33", markeredgecolor=INK, markersize=7)  # on white and on blue
        axes.set_yticks(range(levels), [short(w, 12) for w in plan.words] or None)
        axes.set_ylim(-0.5, levels - 0.5)
    else:
        for a in range(min(plan.actions.shape[1], ENTRIES)):
            own, y = LINES[a], plan.actions[:, a]
            axes.plot(steps, y, "o-", color=own, markersize=3.5, linewidth=1.4, label=short(plan.names[0][a]))
            if plan.spread is not None:
                low, high = y - plan.spread[:, a], y + plan.spread[:, a]
                axes.fill_between(steps, low, high, color=own, alpha=0.2, linewidth=0)
                title = "what to do, and one deviation"
        if plan.actions.shape[1] > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set(xlabel="step", ylabel="action", xlim=(0.5, len(steps) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    plain(axes, title)


def _states(axes: Any, plan: Plan) -> None:
    assert plan.states is not None
    for s in range(min(plan.states.shape[1], ENTRIES)):
        axes.plot(plan.states[:, s], ".-", color=LINES[s], markersize=4, linewidth=1.3, label=short(plan.names[1][s]))
    axes.set(xlabel="step", ylabel="state, in its own units")
    axes.xaxis.get_major_locator().set_params(integer=True)
    plain(axes, "what should come of it, on average")
    if plan.states.shape[1] > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _search(axes: Any, plan: Plan) -> None:
    axes.plot(range(1, len(plan.trace) + 1), plan.trace, "o-", color=BRANCH, markersize=5, linewidth=1.2)
    axes.plot([len(plan.trace)], [plan.trace[-1]], "o", color=ACCENT, markersize=8)
    axes.set(xlabel="round of the search", ylabel="score of its best candidates")
    axes.xaxis.get_major_locator().set_params(integer=True)
    title = "how the search went"
    if plan.earned is not None:
        title = f"expected return {plan.earned[0]:.3g} ± {plan.earned[1]:.2g} over the ways"
    plain(axes, title)
