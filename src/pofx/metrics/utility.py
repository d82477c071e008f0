"""Utility: what drawn rows are good for. A predictor is trained on them and tested on real rows (TSTR).

    fake -> f = boosted trees for the target given the other columns -> score of f on real rows it has not seen
    two classes: AUC (DeLong's interval)    more: accuracy (Wilson's)    a number: R^2 = 1 - MSE / variance (bootstrap)

Read it beside the same number for real training rows (TRTR): drawn rows that know nothing of the target have AUC 1/2,
the majority's accuracy or R^2 of 0, and no honest ones are better than as many real rows.

Offers `utility`. References: Esteban et al. 2017 (arXiv:1706.02633, train on synthetic, test on real); Zhang et al.
2024 (arXiv:2310.09656, where it is called machine learning efficiency).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.metrics.base import Array, Metric, RngSource, bootstrap, proportion
from pofx.metrics.scores import auroc
from pofx.randomness import Rng

if TYPE_CHECKING:
    import pandas as pd

MOST = 254  # categories that the trees tell apart; rarer ones share a code


def utility(train: pd.DataFrame, test: pd.DataFrame, target: str, rng: RngSource = 0) -> Metric:
    """How well a predictor of `target` that was trained on drawn (or real) rows does on real rows.

    Args:
        train: drawn rows, or real ones for comparison; blanks are allowed outside the target.
        test: real rows that neither the generator nor `train` has seen.
        target: the column to predict: two or more classes, or a number with more than ten distinct values in test.
        rng: of the trees, and of the bootstrap.

    Returns:
        AUC of the last of two classes, accuracy, or R^2. The interval is of the test rows alone: it does not cover
        the draw of `train`; repeat with other draws for that. Where train holds one value of the target only, the
        prediction is constant.

    Bias in N: downwards in the rows of `train`, so give as many drawn rows as there are real ones to compare with.

    Raises:
        ValueError: a column of test is lacking in train, or the target is not there, or test knows only one class.
    """
    lacking = [c for c in test.columns if c not in train.columns]
    if lacking or target not in test.columns:
        raise ValueError(
            f"utility: train lacks {lacking}, target {target!r}; expected the columns {list(test.columns)}."
        )
    train, test = train[train[target].notna()], test[test[target].notna()]
    z, held, categories = _features(train.drop(columns=target), test.drop(columns=target))
    y, held_y = train[target], test[target]
    stream = Rng(rng)
    if held_y.nunique() > 10 and _is_number(held_y):
        return _regression(z, np.asarray(y, dtype=float), held, np.asarray(held_y, dtype=float), categories, stream)
    words = sorted(set(held_y) | set(y), key=str)
    codes = [np.array([words.index(v) for v in column]) for column in (y, held_y)]
    if len(np.unique(codes[1])) < 2:
        raise ValueError(f"utility: the target {target!r} of test has one class only; expected at least two.")
    p = _shares(z, codes[0], held, categories, len(words), stream)
    note = f"trained on {len(z)} rows"
    if len(words) == 2:
        a = auroc(p[codes[1] == 0, 1], p[codes[1] == 1, 1])
        return Metric("utility (AUC)", a.value, a.low, a.high, len(held), "higher", note)
    hits = float((p.argmax(1) == codes[1]).sum())
    return proportion("utility (accuracy)", hits, len(held), "higher", note=note)


def _shares(z: Array, y: Array, held: Array, categories: list[int], classes: int, rng: Rng) -> Array:
    from sklearn.ensemble import HistGradientBoostingClassifier

    p = np.zeros((len(held), classes))
    if len(np.unique(y)) < 2:
        p[:, y[:1]] = 1.0
        return p
    trees = HistGradientBoostingClassifier(categorical_features=categories or None, random_state=rng.seed() % 2**31)
    trees.fit(z, y)
    p[:, trees.classes_] = trees.predict_proba(held)
    return p


def _regression(z: Array, y: Array, held: Array, held_y: Array, categories: list[int], rng: Rng) -> Metric:
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(categorical_features=categories or None, random_state=rng.seed() % 2**31)
    pairs = np.stack([trees.fit(z, y).predict(held), held_y], 1)
    low, high = bootstrap(_explained, [pairs], rng)
    return Metric("utility (R^2)", _explained(pairs), low, high, len(held), "higher", f"trained on {len(z)} rows")


def _explained(pairs: Array) -> float:
    return float(1 - np.square(pairs[:, 0] - pairs[:, 1]).mean() / max(pairs[:, 1].var(), 1e-300))


def _features(train: pd.DataFrame, test: pd.DataFrame) -> tuple[Array, Array, list[int]]:
    """Both tables as numbers (NaN = blank), and which columns are categories; the codes come from both."""
    import pandas as pd

    parts: list[Array] = []
    held: list[Array] = []
    categories = []
    for k, name in enumerate(test.columns):
        if _is_number(test[name]):
            for out, table in ((parts, train), (held, test)):
                out.append(pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan))
            continue
        categories.append(k)
        both = pd.concat([train[name], test[name]], ignore_index=True).astype(object)
        words = both.value_counts().index[:MOST]
        codes = np.asarray(pd.Index(words).get_indexer(pd.Index(both)), dtype=float)
        codes[codes < 0] = len(words)
        codes[both.isna().to_numpy()] = np.nan
        parts.append(codes[: len(train)])
        held.append(codes[len(train) :])
    return np.stack(parts, 1), np.stack(held, 1), categories


def _is_number(column: Any) -> bool:
    import pandas as pd

    kinds = pd.api.types
    return bool(kinds.is_numeric_dtype(column) and not kinds.is_bool_dtype(column))
