"""How series and forecasts are judged: CRPS of a normal forecast, pinball loss, coverage, the discriminative score.

    CRPS(N(m, s^2), y) = s [ z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi) ],   z = (y - m) / s
    pinball_q(f, y)    = max(q (y - f), (q - 1) (y - f));      CRPS = 2 int_0^1 pinball_q(F^-1(q), y) dq
    discriminative     = |accuracy - 1/2| of a recurrent network that tells real windows from drawn ones, held out

Offers `crps_normal`, `pinball`, `coverage_of_draws`, `discriminative_score`. CRPS of draws is `scores.crps_sample`.

References: Gneiting and Raftery 2007; Yoon 2019 (TimeGAN: the discriminative score, with a GRU of C / 2 units).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from pofx.metrics.base import Array, ArrayLike, Metric, RngSource, proportion, to_numpy
from pofx.metrics.scores import interval_coverage
from pofx.randomness import Rng


def crps_normal(mean: ArrayLike, scale: ArrayLike, truth: ArrayLike) -> Array:
    """The score of a normal forecast, of any shape, in the truth's units; scale > 0."""
    from scipy.special import ndtr

    m, s, y = (to_numpy(v).astype(np.float64) for v in (mean, scale, truth))
    if not (s > 0).all():
        raise ValueError(f"crps_normal: got a scale of {s.min()}; expected numbers > 0.")
    z = (y - m) / s
    return s * (z * (2 * ndtr(z) - 1) + np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2) - 1 / np.sqrt(np.pi))


def pinball(forecast: ArrayLike, truth: ArrayLike, level: float) -> Array:
    """The loss of a quantile forecast at a level in (0, 1), of any shape, in the truth's units."""
    if not 0 < level < 1:
        raise ValueError(f"pinball: level is {level}; expected a number between 0 and 1.")
    error = to_numpy(truth).astype(np.float64) - to_numpy(forecast).astype(np.float64)
    return np.maximum(level * error, (level - 1) * error)


def coverage_of_draws(draws: ArrayLike, truth: ArrayLike, level: float = 0.8) -> Metric:
    """Share of truths (*batch) within the central interval of draws (m, *batch); best is the nominal level."""
    x = to_numpy(draws).astype(np.float64)
    low, high = np.quantile(x, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return interval_coverage(low.ravel(), high.ravel(), to_numpy(truth).ravel(), level)


def discriminative_score(
    real: ArrayLike, fake: ArrayLike, rng: RngSource = 0, steps: int = 2000, hidden: int | None = None
) -> Metric:
    """|accuracy - 1/2| of a GRU that was trained to tell real windows (N, L, C) from drawn ones (M, L, C).

    Args:
        real, fake: of which each gives 80 % to train on and 20 % to test, scaled to the range of the real ones.
        rng: of the split, the weights and the batches.
        steps: of Adam, 128 windows of each a step.
        hidden: units of the GRU; None: C / 2 as published, at least 2. More make a stricter judge.

    Bias in N: upwards, since an accuracy on few windows is never exactly 1/2; the interval is Wilson's.

    Raises:
        ValueError: shapes differ, NaN, or fewer than 20 windows of either.
    """
    a, b = (torch.as_tensor(np.asarray(to_numpy(v), dtype=np.float32)) for v in (real, fake))
    fits = a.ndim == b.ndim == 3 and a.shape[1:] == b.shape[1:] and min(len(a), len(b)) >= 20
    if not fits or not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError(f"discriminative_score: got {tuple(a.shape)} and {tuple(b.shape)}; expected finite (N, L, C).")
    rng, (low, high) = Rng(rng), (a.amin((0, 1)), a.amax((0, 1)))
    parts = [_split((v - low) / (high - low).clamp_min(1e-9), rng) for v in (a, b)]
    judge = _Judge(a.shape[2], hidden or max(2, a.shape[2] // 2), rng)
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3 if hidden is None else 3e-3)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(steps):
        x = torch.cat([train[rng.integers(len(train), (128,))] for train, _ in parts])
        optimiser.zero_grad()
        loss(judge(x), torch.cat([torch.ones(128), torch.zeros(128)])).backward()
        optimiser.step()
    with torch.no_grad():
        right = [(judge(test) > 0) == (k == 0) for k, (_, test) in enumerate(parts)]
    found = proportion("accuracy", float(torch.cat(right).sum()), sum(map(len, right)), "lower")
    value, ends = abs(found.value - 0.5), sorted((abs(found.low - 0.5), abs(found.high - 0.5)))
    inside = found.low <= 0.5 <= found.high
    return Metric(
        "discriminative score", value, 0.0 if inside else ends[0], ends[1], found.n, "lower", "0: not told apart"
    )


class _Judge(nn.Module):
    """A GRU and one output; its weights are a function of rng."""

    def __init__(self, channels: int, hidden: int, rng: Rng) -> None:
        super().__init__()
        self.body, self.out = nn.GRU(channels, hidden, batch_first=True), nn.Linear(hidden, 1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_((2 * rng.uniform(tuple(p.shape)) - 1) / math.sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)[1][-1]).squeeze(-1)


def _split(x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    order = rng.permutation(len(x))
    cut = int(0.8 * len(x))
    return x[order[:cut]], x[order[cut:]]
