"""Donors: the law of a number y given what was said of it, from the rows about which nearly the same was said.

    p(y | f, v) = sum_i w_i delta(y - y_i)                  w_i: Epanechnikov in the distance from (f, v) to (f_i, v_i)
    y_i + (f - f_i) in place of y_i                         where y has no values that repeat

f is a prediction and v its stated spread, both made without row i. So the law keeps the skew, the atoms and the bounds
of y, and is as wide as the predictions were wrong. The k-th of n donors stands at the level k / (n + 1), below which
the next number falls with just that probability; beyond the outermost the law goes on as an exponential. Offers
`Donors`: fit, and quantiles at any level.
References: Rubin 1986 and Little 1988 (predictive mean matching); Meinshausen 2006 (weights on rows as a law);
Hyndman and Fan 1996 (positions of order statistics).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.engines.regressors import Regressor
from pofx.randomness import Rng

MOST = 4000  # donors kept
FEW = 20  # different values, which are lent as they are
ATOM, AMONG, BESIDE = 0.02, 4, 4  # so are they where one has that share, so many times that of those beside it
STRETCH = 2.0  # how much a factor e in the stated spread counts, in standard deviations of the errors
TAIL = 5  # donors at either end that say how the law goes on beyond them
BLOCK = 2**23


class Donors(Regressor):
    """The donors of one column.

    Args:
        near: how many rows lend their values.
    """

    value: Tensor
    said: Tensor
    spread: Tensor
    weight: Tensor
    facts: Tensor

    def __init__(self, near: int = 40) -> None:
        super().__init__()
        self.near = near
        for name in ("value", "said", "spread", "weight"):
            self._keep(**{name: torch.zeros(0, dtype=torch.float64)})
        self._keep(
            facts=torch.zeros(4, dtype=torch.float64)
        )  # standard deviation of the errors, lends as is, low, high

    def learn(self, value: Tensor, said: Tensor, spread: Tensor, weight: Tensor, discrete: bool, rng: Rng) -> None:
        """Take rows: value, prediction and its spread `(N,)` each, in the same units."""
        keep = rng.permutation(len(value))[:MOST]
        self.value, self.said, self.weight = value[keep], said[keep], weight[keep]
        self.spread = spread[keep].clamp_min(1e-6)
        error = float(((value - said).square() * weight).sum() / weight.sum()) ** 0.5
        as_is = float(discrete or _repeats(value))
        self.facts = torch.tensor([max(error, 1e-9), as_is, float(value.min()), float(value.max())]).double()

    def quantiles(self, said: Tensor, spread: Tensor, level: Tensor) -> Tensor:
        """The quantiles at `level` `(N, L)` in (0, 1) for rows with predictions `(N,)`; `(N, L)`."""
        out = torch.empty_like(level)
        for rows in torch.arange(len(said)).split(max(1, BLOCK // max(len(self.value), 1))):
            out[rows] = self._quantiles(said[rows], spread[rows].clamp_min(1e-6), level[rows])
        return out

    def _quantiles(self, said: Tensor, spread: Tensor, level: Tensor) -> Tensor:
        error, as_is, low, high = self.facts.tolist()
        apart = ((said.unsqueeze(1) - self.said) / error).square()
        apart += (STRETCH * (spread.log().unsqueeze(1) - self.spread.log())).square()
        near = apart.topk(min(self.near, len(self.value)), dim=1, largest=False)
        reach = near.values[:, -1:] * 1.05 + 1e-12
        weight = (1 - near.values / reach) * self.weight[near.indices]
        value = self.value[near.indices]
        if not as_is:
            value = (value + said.unsqueeze(1) - self.said[near.indices]).clamp(low, high)
        value, order = value.sort(1)
        weight = weight.gather(1, order)
        weight = weight / weight.sum(1, keepdim=True)
        alike = 1 / weight.square().sum(1, keepdim=True)  # as many donors of equal weight know as much
        mass = weight.cumsum(1)
        if as_is:
            at = torch.searchsorted(_position(mass, alike), level.contiguous()).clamp_max(value.shape[1] - 1)
            return value.gather(1, at)
        return _between(_position(mass - weight / 2, alike), value, level).clamp(low, high)


def _repeats(value: Tensor) -> bool:
    """Whether values are few, or one is common beyond what rounding does: then nothing but them may be lent."""
    counts = torch.unique(value, return_counts=True)[1].double()
    if len(counts) <= max(BESIDE, min(FEW, len(value) / 2)):
        return True
    common = (counts > max(1, ATOM * len(value))).nonzero()[:, 0]
    starts = (common - BESIDE // 2).clamp(0, len(counts) - BESIDE - 1)
    around = counts[starts.unsqueeze(1) + torch.arange(BESIDE + 1)].sum(1) - counts[common]
    return bool((counts[common] > AMONG * around / BESIDE).any())


def _position(mass: Tensor, alike: Tensor) -> Tensor:
    """The level at which a donor stands: the k-th of n exchangeable numbers is above the next with k / (n + 1)."""
    return (mass * alike + 0.5) / (alike + 1)


def _between(position: Tensor, value: Tensor, level: Tensor) -> Tensor:
    """The inverse of the piecewise linear law with these values `(N, K)` at these levels, its tails exponential."""
    count = value.shape[1]
    if count == 1:
        return value.expand(-1, level.shape[1]).clone()
    right = torch.searchsorted(position, level.contiguous()).clamp(1, count - 1)
    left = right - 1
    a, b = position.gather(1, left), position.gather(1, right)
    t = ((level - a) / (b - a).clamp_min(1e-12)).clamp(0, 1)
    k = min(TAIL, count - 1)
    below = value[:, k : k + 1] - value[:, :k].mean(1, keepdim=True)  # the mean excess, as of an exponential law
    above = value[:, -k:].mean(1, keepdim=True) - value[:, -k - 1 : -k]
    out = torch.lerp(value.gather(1, left), value.gather(1, right), t)
    out -= below * (position[:, :1] / level).clamp_min(1).log()
    return out + above * ((1 - position[:, -1:]) / (1 - level)).clamp_min(1).log()
