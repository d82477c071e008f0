"""Kernel: a normalised density near some rows of any Space, to hold a model's own density against.

    q(x) = mean_m prod_j k_j(x_j | c_mj)       discrete   k = (1 - e) [x = c] + e / K
                                               real       a normal of width h around c, cut at bounds, binned

For every density p and q, whatever their supports (Meng and Wong 1996, the bridge identity):

    E_p [ T q / (p + q) ]  =  E_q [ T p / (p + q) ]          for every bounded T

Both sides are bounded, so a z-score of their difference is trustworthy where importance weights would not be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng

EXCHANGE = 0.3  # share of a discrete entry that is drawn uniformly


class Kernel:
    """The density q around centres.

    Args:
        space: what one x is.
        centres: `(M, *event)`.
        width: h, in units of each variable's scale.
    """

    def __init__(self, space: Space, centres: Tensor, width: float) -> None:
        self.space, self.centres = space, centres.flatten(1).double()
        variables = [space.variable(i) for i in range(space.size)]
        self.discrete = [i for i, v in enumerate(variables) if v.discrete]
        self.smooth = [i for i, v in enumerate(variables) if not v.discrete]
        self.levels = torch.tensor([float(variables[i].levels) for i in self.discrete], dtype=torch.float64)
        numbers = [_numbers(variables[i], width) for i in self.smooth]
        self.h, self.step, self.low, self.high = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 4).T

    def sample(self, n: int, rng: Rng) -> Tensor:
        """Draws of q, `(n, *event)` in the Space's dtype."""
        x = self.centres[rng.integers(len(self.centres), (n,))].clone()
        d, s = self.discrete, self.smooth
        codes = (rng.uniform((n, len(d)), torch.float64) * self.levels).floor()
        x[:, d] = torch.where(rng.bernoulli(EXCHANGE, (n, len(d))), codes, x[:, d])
        centre = x[:, s]
        first, last = self._ends(centre)
        u = first + (last - first) * rng.uniform((n, len(s)), torch.float64)
        value = centre + self.h * torch.special.ndtri(u.clamp(1e-15, 1 - 1e-15))
        step = torch.where(self.step > 0, self.step, 1.0)
        rounded = torch.minimum(
            torch.maximum(torch.round(value / step) * step, self.low + step / 2), self.high - step / 2
        )
        x[:, s] = torch.where(self.step > 0, rounded, value)
        return x.reshape(n, *self.space.shape).to(self.space.torch_dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), `(B,)` float64."""
        flat = x.flatten(1).double().unsqueeze(1)
        same = flat[..., self.discrete] == self.centres[:, self.discrete]
        log_k = torch.where(same, 1 - EXCHANGE, 0.0).double().add(EXCHANGE / self.levels).log().sum(-1)
        centre, value = self.centres[:, self.smooth], flat[..., self.smooth]
        first, last = self._ends(centre)
        a, b = (torch.special.ndtr((value + sign * self.step / 2 - centre) / self.h) for sign in (-1, 1))
        z = (value - centre) / self.h
        density = -0.5 * z.square() - self.h.log() - 0.5 * math.log(2 * math.pi)
        part = torch.where(self.step > 0, (b - a).clamp_min(1e-300).log(), density)
        log_k = log_k + (part - (last - first).log()).sum(-1)
        return torch.logsumexp(log_k, 1) - math.log(len(self.centres))

    def _ends(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        return torch.special.ndtr((self.low - centre) / self.h), torch.special.ndtr((self.high - centre) / self.h)


def _numbers(v: Variable, width: float) -> tuple[float, float, float, float]:
    bounded = v.support == "bounded"
    low = float(v.low) - v.resolution / 2 if bounded else -math.inf  # type: ignore[arg-type]
    high = float(v.high) + v.resolution / 2 if bounded else math.inf  # type: ignore[arg-type]
    return max(width * v.scale, v.resolution), v.resolution, low, high


Logs = tuple[Tensor, Tensor]  # log p and log q at the same rows


def bridge_z(at_p: Logs, at_q: Logs, t_p: Tensor, t_q: Tensor) -> float:
    """The z-score of E_p [T q / (p + q)] - E_q [T p / (p + q)] that is farthest from 0, over bounded functions T.

    Args:
        at_p, at_q: log p and log q at draws of p and at draws of q, `(n,)` each.
        t_p, t_q: the functions there, `(n, k)`; with T = 1 a positive score says that p is too low at its own draws.
    """
    left = t_p * torch.sigmoid(at_p[1] - at_p[0]).unsqueeze(1)
    right = t_q * torch.sigmoid(at_q[0] - at_q[1]).unsqueeze(1)
    spread = (left.var(0) / len(left) + right.var(0) / len(right)).sqrt()
    z = (left.mean(0) - right.mean(0)) / spread.clamp_min(1e-9)
    return float(z[z.abs().argmax()])
