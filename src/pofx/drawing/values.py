"""Values: the numbers of a row in the user's units, and the words on their axes.

A code that stands for a number is drawn as that number; a code that stands for a word stays a code, and its axis bears
the words. Offers `columnar`, `names`, `units`, `wordy`, `label_words`, `close_up` and `spread_out` (some of many).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from pofx.kinds.base import Space, Variable

Array = np.ndarray[Any, np.dtype[Any]]
LONGEST = 18  # letters of a name beside an axis
MOST_WORDS = 8  # on one axis


def columnar(space: Space) -> bool:
    """Whether x is a row of columns, each with a meaning of its own: a table, or an array of numbers."""
    return space.layout == "vector" and len(space.shape) == 1


def names(space: Space) -> list[str]:
    """What each entry is called, shortened; where all share one variable, by its place."""
    if space.shared and space.size > 1:
        return [f"{space.variables[0].name} {i}" for i in range(space.size)]
    return [short(space.variable(i).name) for i in range(space.size)]


def short(name: Any, longest: int = LONGEST) -> str:
    """A name of at most so many letters."""
    text = str(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def units(space: Space, x: Tensor) -> Array:
    """x `(..., *event)` flat, `(..., D)` float64, in the user's units; the code of a word stays a code."""
    flat = x.detach().cpu().double().reshape(*x.shape[: x.ndim - len(space.shape)], space.size).numpy().copy()
    for j in range(space.size):
        levels = _levels(space.variable(j))
        if levels is not None:
            flat[..., j] = np.interp(flat[..., j], np.arange(len(levels)), levels)
    return flat


def deviation(v: Variable) -> float:
    """One standard deviation in the units that `units` gives; of words 1."""
    levels = _levels(v)
    if levels is None:
        return 1.0 if wordy(v) else v.scale
    return v.scale * float(levels[-1] - levels[0]) / max(len(levels) - 1, 1) or 1.0


def wordy(v: Variable) -> bool:
    """Whether the codes of a variable stand for words."""
    return v.discrete and v.values is not None and _levels(v) is None


def label_words(axis: Any, v: Variable) -> None:
    """Write at most eight words of a variable on `axes.xaxis` or `axes.yaxis`; a number's axis stays as it is."""
    if wordy(v):
        shown = spread_out(v.levels, MOST_WORDS)
        axis.set_ticks(shown, [short((v.values or ())[k], 12) for k in shown])


def close_up(axis: Any, v: Variable, codes: Array) -> Callable[[Array], Array]:
    """Places on an axis for the codes of words, those that occur side by side, bearing their words; numbers stay.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        v: the variable.
        codes: those that occur, as `units` gives them.
    """
    if not wordy(v):
        return lambda x: x
    known = np.unique(codes.round())
    shown = spread_out(len(known), MOST_WORDS)
    axis.set_ticks(shown, [short((v.values or ())[int(known[k])], 12) for k in shown])
    return lambda x: np.searchsorted(known, x.round()).astype(float)


def spread_out(count: int, most: int) -> list[int]:
    """At most so many of 0 .. count - 1, both ends among them."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, most)).round()})


def _levels(v: Variable) -> Array | None:
    if not v.discrete or v.values is None or v.support in ("category", "binary"):
        return None
    if not all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in v.values):
        return None
    return np.array(v.values, dtype=np.float64)
