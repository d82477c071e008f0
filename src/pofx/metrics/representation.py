"""How much a representation says about labels that it was not made for.

    probe        accuracy of logistic regression from z to y           what a line can read off
    neighbours   accuracy of the k nearest rows' vote                  what distances in z mean

Offers `probe_accuracy`, `neighbour_accuracy`, and `told_by`, which asks both; fitted on some rows, judged on others.
References: Alain & Bengio 2016 arXiv:1610.01644 (probes).
"""

from __future__ import annotations

import numpy as np

from pofx.metrics.base import ArrayLike, Metric, RngSource, matrix, proportion, to_numpy
from pofx.randomness import Rng


def probe_accuracy(z: ArrayLike, y: ArrayLike, z_test: ArrayLike, y_test: ArrayLike) -> Metric:
    """Accuracy on (z_test, y_test) of logistic regression fitted on z (N, L), y (N,). Wilson's interval."""
    from sklearn.linear_model import LogisticRegression

    a, b = _scaled(z, z_test)
    line = LogisticRegression(max_iter=500).fit(a, to_numpy(y))
    return _share("linear probe", line.predict(b), y_test)


def neighbour_accuracy(z: ArrayLike, y: ArrayLike, z_test: ArrayLike, y_test: ArrayLike, k: int = 5) -> Metric:
    """Accuracy on (z_test, y_test) of the vote of the k nearest of z (N, L), y (N,). Wilson's interval."""
    from sklearn.neighbors import KNeighborsClassifier

    a, b = _scaled(z, z_test)
    return _share(f"{k} nearest", KNeighborsClassifier(k).fit(a, to_numpy(y)).predict(b), y_test)


def told_by(z: ArrayLike, y: ArrayLike, x: ArrayLike | None = None, rng: RngSource = 0) -> dict[str, Metric]:
    """How well codes tell labels: both accuracies, fitted on one half of the rows and judged on the other.

    Args:
        z: codes (N, L).
        y: labels (N,).
        x: the rows themselves (N, D); where they have more numbers than z, as many principal components stand beside.
        rng: of the halves.

    Raises:
        ValueError: fewer than 20 rows, or one label only.
    """
    z, y = matrix(z, "z"), to_numpy(y)
    if len(z) < 20 or len(np.unique(y)) < 2:
        raise ValueError(f"told_by: got {len(z)} rows with {len(np.unique(y))} labels; expected 20 rows, 2 labels.")
    order = Rng(rng).permutation(len(z)).numpy()
    a, b = order[: len(z) // 2], order[len(z) // 2 :]
    ways = {"": z}
    if x is not None and matrix(x, "x").shape[1] > z.shape[1]:
        ways[f" of {z.shape[1]} principal components"] = _components(matrix(x, "x"), a, z.shape[1])
    found = {}
    for words, v in ways.items():
        for metric in (probe_accuracy(v[a], y[a], v[b], y[b]), neighbour_accuracy(v[a], y[a], v[b], y[b])):
            found[metric.name + words] = metric
    return found


def _components(x: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The main components of standardised x, learnt from some of the rows."""
    x, _ = _scaled(x, x)
    _, _, v = np.linalg.svd(x[rows] - x[rows].mean(0), full_matrices=False)
    return (x - x[rows].mean(0)) @ v[:count].T


def _scaled(z: ArrayLike, z_test: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = matrix(z, "z"), matrix(z_test, "z_test")
    scale = a.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return (a - a.mean(0)) / scale, (b - a.mean(0)) / scale


def _share(name: str, found: np.ndarray, y: ArrayLike) -> Metric:
    y = to_numpy(y)
    return proportion(name, float((found == y).sum()), len(y), "higher")
