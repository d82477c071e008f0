"""Gains: whether other training rows make a predictor better on the same test rows.

    balanced accuracy = 1/K sum_k P(right | class k)          gain_i = w_i (right_i' - right_i),   w_i = N / (K N_y_i)

The mean of gain_i is the difference of two balanced accuracies; its interval is paired by test row, with what each row
got averaged over seeds first: the luck of the test rows is in it, that of the seeds is not, and `over_seeds` gives the
gain of each. Offers `balanced`, `paired_gain`, `over_seeds`, `verdict`, `predictor_of`.
References: Brodersen 2010 (balanced accuracy); Dietterich 1998 (paired tests of predictors).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, mean_metric, to_numpy

Predictor = Callable[[Array, Array, int], Any]
WORDS = {
    "real": "real rows alone",
    "drawn": "drawn rows",
    "smote": "SMOTE",
    "repeated": "rows repeated",
    "noise": "rows with noise",
    "shifted": "pictures shifted",
}


def balanced(y: ArrayLike, said: Sequence[ArrayLike]) -> float:
    """Mean over classes of the share of rows that are right, averaged over seeds: y (N,), said (S, N)."""
    right, weight = _right(y, said)
    return float((weight * right).mean())


def paired_gain(y: ArrayLike, before: Sequence[ArrayLike], after: Sequence[ArrayLike]) -> Metric:
    """Gain in balanced accuracy from the predictions before (S, N) to those after, Student's interval over rows.

    Bias in N: none in the value; the interval assumes a near-normal mean, so a class of fewer than ten rows needs care.
    """
    (a, weight), (b, _) = _right(y, before), _right(y, after)
    return mean_metric("gain in balanced accuracy", weight * (b - a), "higher", note="paired by test row")


def over_seeds(y: ArrayLike, before: Sequence[ArrayLike], after: Sequence[ArrayLike]) -> tuple[float, ...]:
    """The gain in balanced accuracy of each seed by itself, from its predictions before (S, N) to those after."""
    return tuple(balanced(y, [b]) - balanced(y, [a]) for a, b in zip(before, after, strict=True))


def verdict(gains: Mapping[str, Metric], beyond: Mapping[str, Metric], own: str = "drawn") -> str:
    """In words: does it help, and does it help more than what is simpler?

    Args:
        gains: way -> its gain over real rows alone; `own` is the one that is judged.
        beyond: each other way -> the gain of `own` over that way.
    """
    mine = gains[own]
    size = f"{mine.value:+.3f} balanced accuracy [{mine.low:+.3f}, {mine.high:+.3f}]"
    best = max(beyond, key=lambda k: gains[k].value, default="")
    mends = bool(best) and gains[best].low > 0
    if mine.high < 0:
        return f"It harms: {size}. Train on the real rows alone{f', or with {_said([best], gains)}' if mends else ''}."
    if mine.low <= 0:
        does = f" Of the simpler ways {_said([best], gains)} does." if mends else ""
        return f"It does not help: {size}, and 0 is within the interval.{does}"
    worse, alike = [k for k, m in beyond.items() if m.high < 0], [k for k, m in beyond.items() if m.low <= 0 <= m.high]
    less = [f"less than {_said(worse, gains)}"] if worse else []
    more = [f"no more than {_said(alike, gains)} as far as these rows tell"] if alike else []
    if less or more:
        return f"It helps: {size}, but {', and '.join(less + more)}; the simpler way will do."
    than = f", and more than each simpler way; the best of them: {_said([best], gains)}" if best else ""
    return f"It helps: {size}{than}."


def _said(ways: Sequence[str], gains: Mapping[str, Metric]) -> str:
    """Ways by their names, each with its gain: "a (+0.1), b (+0.2) and c (+0.3)"."""
    words = [f"{WORDS.get(k, k)} ({gains[k].value:+.3f})" for k in ways]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def predictor_of(name: str | Predictor) -> Predictor:
    """(z, y, seed) -> a fitted object with `predict`: "linear", "neighbours", "trees", or your own.

    Raises:
        ValueError: another name.
    """
    if not isinstance(name, str):
        return name
    if name not in PREDICTORS:
        raise ValueError(f"predictor is {name!r}; expected one of {', '.join(PREDICTORS)}, or a function.")
    return PREDICTORS[name]


def _linear(z: Array, y: Array, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500).fit(z, y)


def _neighbours(z: Array, y: Array, seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(5, len(y))).fit(z, y)


def _trees(z: Array, y: Array, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed).fit(z, y)


def _right(y: ArrayLike, said: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """The share of seeds that are right, and the weight, of each row."""
    y = to_numpy(y)
    codes, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    right = np.mean([to_numpy(s) == y for s in said], axis=0)
    return right, len(y) / (len(codes) * counts[place])


PREDICTORS: dict[str, Predictor] = {"linear": _linear, "neighbours": _neighbours, "trees": _trees}
