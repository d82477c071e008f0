"""How much a representation says about labels that it was not made for.

    probe        accuracy of logistic regression from z to y           what a line can read off
    neighbours   accuracy of the k nearest rows' vote                  what distances in z mean

Offers `probe_accuracy` and `neighbour_accuracy`; both are fitted on training rows and judged on others.
References: Alain & Bengio 2016 arXiv:1610.01644 (probes).
"""

from __future__ import annotations

import numpy as np

from pofx.metrics.base import ArrayLike, Metric, matrix, proportion, to_numpy


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


def _scaled(z: ArrayLike, z_test: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = matrix(z, "z"), matrix(z_test, "z_test")
    scale = a.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return (a - a.mean(0)) / scale, (b - a.mean(0)) / scale


def _share(name: str, found: np.ndarray, y: ArrayLike) -> Metric:
    y = to_numpy(y)
    return proportion(name, float((found == y).sum()), len(y), "higher")
