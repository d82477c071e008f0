"""Bins: the normal distribution on intervals, and columns of numbers as normal coordinates.

    u(x) = (x - mean) / scale            or logit((x - low) / (high - low)) where the column is bounded
    P(bin of x) = Phi((b - m) / s) - Phi((a - m) / s),     (a, b) = u(x -+ step / 2)

The first and the last bin of a bounded column reach to infinity, so the bins of a column always sum to one. Knows no
data types. Reference for the tails: the Mills ratio, as in scipy.special.log_ndtr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Columns:
    """What turns some columns into normal coordinates; every field is `(J,)` float64.

    Args:
        step: the width of a bin; 0 for a density.
        mean, scale: of the standardised coordinate.
        low, high: where a bin edge counts as the end (-inf, inf for a column without ends).
        logit: whether u is the logit of the position between low and high (1.0) or standardised x (0.0).
    """

    step: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    logit: Tensor

    @classmethod
    def of(cls, numbers: Any) -> Columns:
        """The columns of anything that has step, mean, scale, low, high and bounded, such as a chart."""
        return cls(*(getattr(numbers, k) for k in ("step", "mean", "scale", "low", "high", "bounded")))

    def take(self, index: list[int]) -> Columns:
        """Some of the columns."""
        return Columns(*(getattr(self, k)[index] for k in ("step", "mean", "scale", "low", "high", "logit")))

    def to(self, device: torch.device) -> Columns:
        """The same numbers on another device."""
        return Columns(*(getattr(self, k).to(device) for k in ("step", "mean", "scale", "low", "high", "logit")))

    def coordinates(self, x: Tensor) -> Tensor:
        """u of x `(..., J)`."""
        u = (x - self.mean) / self.scale
        if self.logit.any():
            position = ((x - self.low) / (self.high - self.low)).clamp(1e-12, 1 - 1e-12)
            u = torch.where(self.logit > 0, torch.logit(position), u)
        return u

    def log_slope(self, u: Tensor) -> Tensor:
        """log |du / dx| at u `(..., J)`."""
        slope = -self.scale.log().expand_as(u)
        if self.logit.any():
            inside = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
            slope = torch.where(self.logit > 0, -(self.high - self.low).log() - inside, slope)
        return slope

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The edges of the bin around x `(..., J)`, in u; an end of the column is at infinity."""
        a, b, slack = x - self.step / 2, x + self.step / 2, 1e-6 * self.step
        first, last = a <= self.low + slack, b >= self.high - slack
        a, b = self.coordinates(a), self.coordinates(b)
        return a.masked_fill(first, -math.inf), b.masked_fill(last, math.inf)

    def inside(self, x: Tensor) -> Tensor:
        """Whether x lies between the ends."""
        return (x > self.low) & (x < self.high)

    def restore(self, u: Tensor) -> Tensor:
        """x of u `(..., J)`, rounded to the step and kept between the ends."""
        x = u * self.scale + self.mean
        if self.logit.any():
            x = torch.where(self.logit > 0, self.low + (self.high - self.low) * torch.sigmoid(u), x)
        step = torch.where(self.step > 0, self.step, torch.ones_like(self.step))
        rounded = torch.round(x / step) * step
        first, last = self.low + step / 2, self.high - step / 2
        return torch.where(self.step > 0, torch.minimum(torch.maximum(rounded, first), last), x)


def log_interval(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)) for a < b, without cancellation: by tails, or by the midpoint of a narrow one."""
    flip = a + b > 0  # work in the left tail, where log Phi keeps its digits
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    top = torch.special.log_ndtr(b)
    wide = top + torch.log(-torch.expm1((torch.special.log_ndtr(a) - top).clamp_max(-1e-300)))
    width, middle = b - a, (a + b) / 2
    # the integral of the density over a narrow interval to fourth order in width * (1 + |middle|)
    narrow = -0.5 * (middle.square() + LOG_2PI) + width.log() + torch.log1p((middle.square() - 1) * width.square() / 24)
    return torch.where(width * (1 + middle.abs()) < 3e-3, narrow, wide)


def interval_moments(a: Tensor, b: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """E[z | a < z < b] and E[z^2 | a < z < b] of a standard normal z, given log(Phi(b) - Phi(a))."""
    low, high = ((-0.5 * (e.square() + LOG_2PI) - log_mass).exp() for e in (a, b))
    first = low - high
    second = 1 + torch.where(a.isinf(), 0.0, a * low) - torch.where(b.isinf(), 0.0, b * high)
    first = torch.minimum(torch.maximum(first, a), b)  # rounding of a narrow bin must not leave it
    return first, torch.maximum(second, first.square())
