"""The variational bound on log p(u) of a denoiser, in continuous time.

    log p(u) >= E log N(u; u_0, s_0^2 I) - 1/2 int d(1/s^2) E |u - D(u + s e, s)|^2
                - KL( N(u, S^2 I) | N(0, (S^2 + c^2) I) )

with s from s_0 (smallest) to S (largest), u_0 = u + s_0 e and c the standard deviation of the data. In the variable
v = log(1 + c^2 / s^2) the integral is 1/2 int dv |r|^2 where r = (u - D) sqrt(1/s^2 + 1/c^2) has unit variance for
unpredictable noise: v uniform spreads the work evenly. The levels are stratified, and what |r|^2 would be without a
network, whose mean is known, is subtracted with a weight from the neighbouring levels only, which keeps it unbiased.

Offers `variational_bound`; `Range`, the levels and the constant of the bound, for the loss that trains it; `Schedule`,
the learned spacing of the levels.

References: VDM (Kingma 2021, arXiv:2107.00630); EDM (Karras 2022, arXiv:2206.00364).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..randomness import Rng

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Bound:
    """A lower bound on log p (B,) in nats of the chart, in expectation, with its standard error (B,)."""

    value: Tensor
    stderr: Tensor


@dataclass(frozen=True)
class Range:
    """The noise levels of a bound: from sigma_min to sigma_max, for data of standard deviation `data_std`."""

    sigma_min: float
    sigma_max: float
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"Range: got {self.sigma_min} .. {self.sigma_max}; expected 0 < sigma_min < sigma_max.")

    @property
    def ends(self) -> tuple[float, float]:
        """v at sigma_max and at sigma_min."""
        low, high = (math.log1p((self.data_std / s) ** 2) for s in (self.sigma_max, self.sigma_min))
        return low, high

    @property
    def width(self) -> float:
        """The length of the range of v."""
        return self.ends[1] - self.ends[0]

    def sigma(self, position: Tensor) -> Tensor:
        """The noise level at a position in [0, 1], even in v: 0 is sigma_max, 1 is sigma_min."""
        low, high = self.ends
        return self.data_std / torch.expm1(low + (high - low) * position.double()).sqrt()

    def constant(self, u: Tensor, observed: Tensor | None = None, points: Tensor | None = None) -> Tensor:
        """The first and the last term of the bound, which no network enters, (B,), of the observed entries.

        Entries that are points of a list (`points`, bool (D,)) have a probability, not a density: no first term.
        """
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64, device=u.device)
        return _constant(ends, u, observed, points, self.data_std)


def _constant(ends: Tensor, u: Tensor, observed: Tensor | None, points: Tensor | None, data_std: float) -> Tensor:
    seen = torch.ones_like(u, dtype=torch.float64) if observed is None else observed.double()
    seen, low, high = seen.flatten(1), ends[0], ends[1]
    dense = seen if points is None else seen * ~points
    first = -0.5 * dense.sum(1) * ((2 * math.pi * low.square()).log() + 1)
    total = high.square() + data_std**2
    ratio = high.square() / total
    square = (u.flatten(1).double().square() * seen).sum(1)
    return first - 0.5 * (seen.sum(1) * (ratio - 1 - ratio.log()) + square / total)


class Schedule(nn.Module):
    """Learned levels: the ends of the range, and the spacing of the levels between them, monotone in the position.

    The range of v is cut into even cells, and cell k gets a share p_k of the levels: a monotone, piecewise linear map.
    The ends are where the bound is highest; since the bound does not depend on the spacing, that is where the variance
    of its estimate, int dv f(v)^2 / q(v), is least (Kingma 2021, arXiv:2107.00630, sections 5 and 4.1).

    Args:
        sigma_min, sigma_max: the ends to start from.
        cells: pieces of the map.
        free: whether the ends are learned; not where rows hold points, whose term log p(x | u_0) is not seen here.
    """

    log_ends: Tensor

    def __init__(self, sigma_min: float, sigma_max: float, cells: int = 24, free: bool = True) -> None:
        super().__init__()
        self.start, self.free = (sigma_min, sigma_max), free
        ends = torch.zeros(2)  # relative to where they started
        self.log_ends = nn.Parameter(ends) if free else nn.Buffer(ends)
        self.shares = nn.Parameter(torch.zeros(cells))

    @property
    def ends(self) -> Tensor:
        """sigma_min and sigma_max, (2,): within factors of 30 and 4 of the start, since draws start at the latter."""
        start = torch.tensor(self.start, dtype=torch.float64, device=self.log_ends.device)
        reach = float(self.free) * torch.tensor([30.0, 4.0], dtype=torch.float64, device=start.device).log()
        return start * (reach * torch.tanh(self.log_ends.double())).exp()

    @property
    def range(self) -> Range:
        """The range as plain numbers."""
        low, high = self.ends.tolist()
        return Range(low, high)

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Even positions in [0, 1) -> places in [0, 1), even in v, and what a level there weighs (dplace/dposition)."""
        cells = len(self.shares)
        p = 0.9 * self.shares.double().softmax(0) + 0.1 / cells  # no cell is forgotten
        edges = torch.cat([p.new_zeros(1), p.cumsum(0)])
        k = (torch.searchsorted(edges.detach(), position, right=True) - 1).clamp(0, cells - 1)
        weight = 1 / (cells * p[k])
        return ((k + (position - edges[k]) / p[k]) / cells).clamp(0, 1), weight

    def sigma(self, place: Tensor) -> Tensor:
        """The noise level at a place; gradients reach the ends."""
        v = torch.log1p(1 / self.ends.square())
        return 1 / torch.expm1(v[1] + (v[0] - v[1]) * place.double()).sqrt()

    def loss(self, r2: Tensor, weight: Tensor, u: Tensor, observed: Tensor | None, points: Tensor | None) -> Tensor:
        """The negative bound as a function of the ends, plus the log of the variance as one of the spacing.

        Args:
            r2: |r|^2 (B,) at levels drawn by this schedule, differentiable in the ends.
            weight: of these levels, differentiable in the shares.
            u, observed, points: the rows.
        """
        v = torch.log1p(1 / self.ends.square())
        half = 0.5 * (v[0] - v[1]) * weight.detach() * r2.double()
        cost = (half - _constant(self.ends, u, observed, points, 1.0)).mean() / u[0].numel()
        spread = (half.detach().square() / weight.detach() * weight).mean()
        return (cost + spread.log()).float()


def variational_bound(
    denoise: Denoiser,
    u: Tensor,
    rng: Rng | torch.Generator | int | None = None,
    *,
    draws: int = 32,
    sigma_min: float = 1e-3,
    sigma_max: float = 80.0,
    data_std: float = 1.0,
    place: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    points: Tensor | None = None,
) -> Bound:
    """A lower bound on log p(u) for u (B, *event) by asking the denoiser at `draws` noise levels a row.

    Args:
        denoise: (u_t (B, *event), alpha (B,), sigma (B,)) -> E[u | u_t].
        u: points in the chart.
        rng: of noise and levels.
        draws: noise levels for each row, at least 2, one from each of as many strata.
        sigma_min, sigma_max: the range of noise; the bound is the tighter the wider it is.
        data_std: standard deviation of the data.
        place: even positions in [0, 1) -> places in the range and weights, as a `Schedule` has them.
        points: which entries are points of a list, bool (D,); their term log p(x | u_0) is the caller's to add.

    Raises ValueError for fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"draws: got {draws}, expected at least 2 noise levels.")
    rng = rng if isinstance(rng, Rng) else Rng(rng, u.device)
    span = Range(sigma_min, sigma_max, data_std)
    positions = (torch.arange(draws, device=u.device)[:, None] + rng.uniform((draws, len(u)), torch.float64)) / draws
    places, weights = (positions, torch.ones_like(positions)) if place is None else place(positions)
    pairs = [_residuals(denoise, u, span, span.sigma(at), rng) for at in places]
    terms = weights * _reduced(*(torch.stack(part) for part in zip(*pairs, strict=True)))
    half = 0.5 * span.width
    # differences of neighbours: the spread within the strata, not the trend across them
    spread = (terms[1:] - terms[:-1]).square().sum(0) / (2 * (draws - 1))
    return Bound(span.constant(u, None, points) - half * terms.mean(0), half * (spread / draws).sqrt())


def _residuals(denoise: Denoiser, u: Tensor, span: Range, sigma: Tensor, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
    """r^2, r^2 without a network, and the mean of the latter, each (B, D), at one level sigma (B,) for each row."""
    noise = rng.normal(tuple(u.shape), u.dtype)
    u_t = u + sigma.to(u.dtype).reshape(-1, *[1] * (u.ndim - 1)) * noise
    d = denoise(u_t, torch.ones_like(sigma, dtype=u.dtype), sigma.to(u.dtype))
    s, flat, e = sigma[:, None], u.flatten(1).double(), noise.flatten(1).double()
    c2 = span.data_std**2
    r = (flat - d.flatten(1).double()) * (1 / s**2 + 1 / c2).sqrt()
    alone = (s * flat / span.data_std - span.data_std * e).square() / (s**2 + c2)
    return r.square(), alone, ((s * flat / span.data_std) ** 2 + c2) / (s**2 + c2)


def _reduced(r2: Tensor, alone: Tensor, mean: Tensor) -> Tensor:
    """|r|^2 of each level (draws, B) with less noise; the weight of a level comes from the levels beside it only."""
    weight = (_beside(r2) / _beside(alone).clamp_min(1e-12)).clamp_max(1)
    return (r2 - weight * (alone - mean)).sum(-1)


def _beside(a: Tensor) -> Tensor:
    """The sum of the neighbours along the first axis, without the entry itself."""
    zero = torch.zeros_like(a[:1])
    return torch.cat([zero, a[:-1]]) + torch.cat([a[1:], zero])
