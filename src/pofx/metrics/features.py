"""Features without downloads: what pictures and vectors look like to the metrics.

    f(x) = diag(1 / sqrt(lambda)) V^T clip_5((x - m) / s)      whitened principal components
    f(x) = standardised ReLU(W clip_5((x - m) / s) + b)        hidden layer of a small classifier, if labels are given

Offers `Features.fit(x, y=None, rng=0)`, then `features(x)` for real and fake alike. Fitted on *training* rows:
components by the eigenvectors of the correlation matrix; the classifier by scikit-learn's `MLPClassifier` with one
hidden layer. The seed is 0 for everyone unless asked otherwise, so that two people who judge two models on the same
training rows see the same numbers. Values of a Frechet distance over other features must not be compared.

References: Heusel 2017 arXiv:1706.08500 (distances in a classifier's features); Kynkaanniemi 2023 arXiv:2203.06026
(why such features favour what the classifier's labels show).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pofx.metrics.base import Array, ArrayLike, RngSource, matrix, subset, to_numpy
from pofx.randomness import Rng


@dataclass(frozen=True)
class Features:
    """A fixed map (N, *event) -> (N, d): f(x) = (act(clip((x - mean) / scale) @ weight + bias) - centre) / spread."""

    kind: str
    mean: Array
    scale: Array
    weight: Array
    bias: Array
    centre: Array
    spread: Array

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        y: ArrayLike | None = None,
        rng: RngSource = 0,
        dim: int = 64,
        keep: float = 0.999,
        limit: int = 5000,
    ) -> Features:
        """Learn the map from training rows x (N, *event), and labels y (N,) if there are any.

        Args:
            dim: components kept at most, or hidden units.
            keep: share of the variance that the components must hold; whitening would blow the rest up.
            limit: rows used by the classifier at most.

        Bias in N: whitening divides by estimated deviations, so fresh rows have a variance above 1 by about d / N.

        Raises:
            ValueError: NaN, fewer than two rows, every column constant, or labels that do not fit.
        """
        x = matrix(x, "x")
        if len(x) < 2 or not np.ptp(x, axis=0).any():
            raise ValueError(f"Features.fit: got {len(x)} rows that do not differ; expected at least 2 different rows.")
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-9 * max(scale.max(), 1e-300), scale, np.inf)  # a constant column carries nothing
        if y is None:
            return cls("whitened components", mean, scale, *_components(_clipped(x, mean, scale), dim, keep))
        labels = to_numpy(y).reshape(-1)
        if len(labels) != len(x) or len(np.unique(labels)) < 2:
            raise ValueError(
                f"Features.fit: got {len(labels)} labels for {len(x)} rows; expected one each, 2 classes or more."
            )
        return cls("classifier", mean, scale, *_hidden(_clipped(x, mean, scale), labels, Rng(rng), dim, limit))

    def __call__(self, x: ArrayLike) -> Array:
        """Features (N, d) of x (N, *event). Raises ValueError if the event has another size."""
        x = matrix(x, "x")
        if x.shape[1] != len(self.mean):
            raise ValueError(f"Features: got {x.shape[1]} numbers per event; expected {len(self.mean)} as in fit.")
        a = _clipped(x, self.mean, self.scale) @ self.weight + self.bias
        a = np.maximum(a, 0.0) if self.kind == "classifier" else a
        return (a - self.centre) / self.spread


def _clipped(x: Array, mean: Array, scale: Array) -> Array:
    """Standardised, within 5 deviations: else one row with ink on a nearly constant pixel outweighs all others."""
    return ((x - mean) / scale).clip(-5, 5)


def _components(z: Array, dim: int, keep: float) -> tuple[Array, Array, Array, Array]:
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True).reshape(z.shape[1], -1))
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values) / values.sum(), min(keep, 1 - 1e-9))) + 1
    d = min(enough, dim, len(values))
    return vectors[:, :d], np.zeros(d), z.mean(0) @ vectors[:, :d], np.sqrt(values[:d])


def _hidden(z: Array, labels: Array, rng: Rng, dim: int, limit: int) -> tuple[Array, Array, Array, Array]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    rows = subset(np.arange(len(z)), limit, rng)
    net = MLPClassifier((dim,), max_iter=20, batch_size=min(64, len(rows)), alpha=1e-3, random_state=rng.seed() % 2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # twenty passes are the recipe, not a failure
        net.fit(z[rows], labels[rows])
    a = np.maximum(z @ net.coefs_[0] + net.intercepts_[0], 0.0)
    alive = a.std(0) > 1e-9
    return net.coefs_[0][:, alive], net.intercepts_[0][alive], a[:, alive].mean(0), a[:, alive].std(0)
