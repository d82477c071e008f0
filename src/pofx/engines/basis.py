"""Basis: the normal density from which chains start, against which an energy is learnt, and from which annealing goes.

q(v) = N(0, s^2 I)      or, fitted,      q(v) = N(0, C),   C = E v v^T + w I    over the first rows that were seen
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..randomness import Rng
from .mcmc import Sloped

LOG_2PI = math.log(2 * math.pi)


class Basis(nn.Module):
    """A normal density of v (B, *shape).

    Args:
        shape: of one v.
        std: s.
        fitted: whether C follows the rows that `measure` is shown; until then it is s^2 I.
        wider: w.
    """

    second: Tensor
    factor: Tensor
    precision: Tensor

    def __init__(self, shape: Sequence[int], std: float, fitted: bool = False, wider: float = 0.05) -> None:
        super().__init__()
        self.shape, self.std, self.fitted, self.wider = tuple(shape), std, fitted, wider
        self.size = math.prod(self.shape)
        if fitted:
            self.register_buffer("second", torch.eye(self.size))  # the mean of v v^T
            self.register_buffer("factor", std * torch.eye(self.size))  # of C
            self.register_buffer("precision", torch.eye(self.size) / std**2)

    def measure(self, v: Tensor, batches: int) -> None:
        """Take v (B, *shape) into account, the batch of that number (the first is 1)."""
        flat = v.flatten(1)
        self.second.lerp_(flat.T @ flat / len(v), 1 / batches)
        self.factor.copy_(torch.linalg.cholesky(self.second + self.wider * torch.eye(self.size, device=v.device)))
        self.precision.copy_(torch.cholesky_inverse(self.factor))

    def log_prob(self, v: Tensor) -> Tensor:
        """log q of v (B, *shape), (B,)."""
        flat = v.flatten(1)
        if not self.fitted:
            return -0.5 / self.std**2 * flat.square().sum(1) - self.size * (math.log(self.std) + 0.5 * LOG_2PI)
        e = torch.linalg.solve_triangular(self.factor, flat.T, upper=False)
        return -0.5 * e.square().sum(0) - self.factor.diagonal().log().sum() - 0.5 * self.size * LOG_2PI

    def slope(self, v: Tensor) -> Tensor:
        """The gradient of log q at v."""
        return -(v.flatten(1) @ self.precision).reshape(v.shape) if self.fitted else v * (-1 / self.std**2)

    def sample(self, count: int, rng: Rng) -> Tensor:
        """Draws (count, *shape)."""
        e = rng.normal((count, *self.shape))
        return (e.flatten(1) @ self.factor.T).reshape(e.shape) if self.fitted else self.std * e

    @property
    def density(self) -> Sloped:
        """log q for chains."""
        return Sloped(lambda v: (self.log_prob(v), self.slope(v)), self.log_prob)
