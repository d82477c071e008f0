"""Residual multilayer perceptron with feature-wise modulation.

    h <- h + W2 silu(M_c(norm(h)) W1),    M_c(h) = h (1 + a(c)) + b(c)

Offers `Modulation`, the one way in which a condition vector enters every body of this folder, and `MLP`.
Without c (None) the modulation is the identity. Initial weights come from torch's global stream: seed it around
the construction (`torch.random.fork_rng`) where a run must be repeatable.

References: FiLM (Perez 2018, arXiv:1709.07871); pre-norm residual blocks (Xiong 2020, arXiv:2002.04745).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Modulation(nn.Module):
    """h (1 + a(c)) + b(c) over the features of h.

    Args:
        c_dim: size of the condition; 0 means that there is none, and the module is the identity.
        width: number of features.
        axis: where the features of h are: -1 (vectors, tokens) or 1 (pictures).
    """

    def __init__(self, c_dim: int, width: int, axis: int = -1) -> None:
        super().__init__()
        self.c_dim, self.width, self.axis = c_dim, width, axis
        self.affine = nn.Linear(c_dim, 2 * width) if c_dim else None

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """h of shape (B, ..., width) or (B, width, ...), c of shape (B, c_dim) or broadcastable to h."""
        if c is None:
            return h
        check_condition(c, self.c_dim)
        assert self.affine is not None
        scale, shift = self.affine(c).chunk(2, -1)
        return h * (1 + self._expand(scale, h)) + self._expand(shift, h)

    def _expand(self, a: Tensor, h: Tensor) -> Tensor:
        missing = h.ndim - a.ndim
        if self.axis == 1:
            return a.reshape(*a.shape, *(1,) * missing)
        return a.reshape(*a.shape[:1], *(1,) * missing, *a.shape[1:]) if missing > 0 else a


def check_condition(c: Tensor, c_dim: int) -> None:
    """Raise ValueError where c does not fit the body."""
    if c_dim == 0:
        raise ValueError(f"c: got shape {tuple(c.shape)}, but the body was built with c_dim=0; pass None.")
    if c.shape[-1] != c_dim:
        raise ValueError(f"c: got {c.shape[-1]} features, expected c_dim={c_dim}; check the conditioner's width.")


def zero_(layer: Layer) -> Layer:
    """Set weight and bias of a layer to zero, in place, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _Block(nn.Module):
    def __init__(self, width: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.modulate = nn.LayerNorm(width), Modulation(c_dim, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        g = self.modulate(self.norm(h), c)
        return h + self.drop(self.second(nn.functional.silu(self.first(g))))


class MLP(nn.Module):
    """(..., d_in), c (..., c_dim) -> (..., d_out).

    Args:
        d_in, d_out: features in and out; d_in may be 0 (the output is then a function of c alone).
        width, depth: features and number of residual blocks.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each block.
        zero: start with an output that is exactly 0.
    """

    start: nn.Parameter  # in place of an inlet, where d_in is 0

    def __init__(
        self, d_in: int, d_out: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0, zero: bool = False
    ) -> None:
        super().__init__()
        self.d_in, self.d_out, self.c_dim = d_in, d_out, c_dim
        self.inlet = nn.Linear(d_in, width) if d_in else None
        self.register_parameter("start", None if d_in else nn.Parameter(torch.zeros(width)))
        self.blocks = nn.ModuleList(_Block(width, c_dim, dropout) for _ in range(depth))
        self.norm, self.modulate = nn.LayerNorm(width), Modulation(c_dim, width)
        self.outlet = nn.Linear(width, d_out)
        if zero:
            zero_(self.outlet)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        return self.outlet(self.features(x, c))

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """What the outlet reads, (..., width)."""
        h = self.inlet(x) if self.inlet is not None else self.start.expand(*x.shape[:-1], -1)
        for block in self.blocks:
            h = block(h, c)
        return nn.functional.silu(self.modulate(self.norm(h), c))
