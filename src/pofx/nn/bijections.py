"""Invertible layers: u -> z with the log of the Jacobian's determinant, and back.

    chain      z = f_n(... f_1(u)),   log_det = the sum
    inverted   z = f^-1(u),           log_det = -log_det of f at z
    actnorm    z = u e^s + t, for every channel
    mixing     z = P L U u over the channels                               log_det = pixels * sum log |diag U|

Every layer has `forward(u, c) -> (z, log_det)` with log_det `(B,)` and `inverse(z, c) -> u`; c `(B, c_dim)` or None.
Maps of single numbers are in `splines`, couplings in `couplings`, autoregressive maps in `triangular`, what pictures
need in `images`, what adapts to each column's own distribution in `marginals`.
References: inverse autoregressive flow (Kingma 2016, arXiv:1606.04934); Glow (Kingma 2018, arXiv:1807.03039).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """u -> z and back."""

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z, and log |det dz/du| `(B,)`."""
        raise NotImplementedError

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The u that forward maps to z."""
        raise NotImplementedError


class Chain(Bijection):
    """One layer after the other."""

    def __init__(self, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = u.new_zeros(len(u))
        for layer in self.layers:
            u, step = layer(u, c)
            log_det = log_det + step
        return u, log_det

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        for layer in reversed(typed(self.layers)):
            z = layer.inverse(z, c)
        return z


class Inverted(Bijection):
    """The inverse of a layer: where that is slow one way (autoregressive), this is slow the other way.

    Args:
        layer: its own `inverse` must be differentiable where this layer is to be trained.
    """

    def __init__(self, layer: Bijection) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = self.layer.inverse(u, c)
        return z, -self.layer(z, c)[1]

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.layer(z, c)[0]


class Reverse(Bijection):
    """The entries of a vector in the opposite order."""

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u.flip(1), u.new_zeros(len(u))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return z.flip(1)


class ActNorm(Bijection):
    """A scale and a shift for every channel (axis 1), trained; what enters is standardised, so both start neutral."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = (_along(p, u) for p in (self.log_scale, self.shift))
        return torch.addcmul(shift, u, log_scale.exp()), (self.log_scale.sum() * _pixels(u)).expand(len(u))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        log_scale, shift = (_along(p, z) for p in (self.log_scale, self.shift))
        return (z - shift) * (-log_scale).exp()


class Mixing(Bijection):
    """A linear map P L U over the channels (axis 1) that starts as a permutation.

    Args:
        channels: features, or channels of a picture (a 1 x 1 convolution).
        learned: False keeps it the fixed permutation P.
    """

    order: Tensor

    def __init__(self, channels: int, learned: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("order", torch.randperm(channels))
        self.learned = learned
        if learned:
            self.lower, self.upper = (nn.Parameter(torch.zeros(channels, channels)) for _ in range(2))
            self.log_diagonal = nn.Parameter(torch.zeros(channels))

    def _factors(self) -> tuple[Tensor, Tensor]:
        L = self.lower.tril(-1) + torch.eye(self.channels, device=self.lower.device, dtype=self.lower.dtype)
        return L, self.upper.triu(1) + torch.diag(self.log_diagonal.exp())

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = u[:, self.order]
        if not self.learned:
            return z, u.new_zeros(len(u))
        L, U = self._factors()
        z = torch.einsum("ij,bj...->bi...", L @ U, z)
        return z, (self.log_diagonal.sum() * _pixels(u)).expand(len(u))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        if self.learned:
            L, U = self._factors()
            flat = z.transpose(0, 1).flatten(1)
            flat = torch.linalg.solve_triangular(L, flat, upper=False, unitriangular=True)
            flat = torch.linalg.solve_triangular(U, flat, upper=True)
            z = flat.reshape(self.channels, len(z), *z.shape[2:]).transpose(0, 1)
        return z[:, self.order.argsort()]


def timid(outlet: nn.Linear | nn.Conv2d) -> None:
    """Make a body start close to the identity (not at it: every weight has a gradient from the first step)."""
    with torch.no_grad():
        outlet.weight.mul_(0.1)
        if outlet.bias is not None:
            outlet.bias.zero_()


def typed(layers: nn.ModuleList) -> list[Bijection]:
    """The layers of a list, for the type checker."""
    return cast("list[Bijection]", list(layers))


def _along(p: Tensor, u: Tensor) -> Tensor:
    return p if u.ndim == 2 else p.reshape(-1, *(1,) * (u.ndim - 2))


def _pixels(u: Tensor) -> int:
    return math.prod(u.shape[2:])
