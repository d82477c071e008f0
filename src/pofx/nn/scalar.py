"""Plain networks without normalisation: a vector to one number (an energy), and one for both sides of a GAN.

    ScalarMLP    h <- h + W2 silu(W1 silu(h)),    f = w . silu(h) + (W c) . silu(h) / sqrt(width)
    LeakyMLP     h <- leaky(W h) from [x, c]

Without normalisation rows do not see each other and f grows at most linearly, so that exp(-f) times a normal density
can be normalised. On small data a game of two plain leaky networks is learnt several times faster than one of
normalised residual ones. `convnet.ConvCritic` is the scalar body for pictures.

References: residual branches without normalisation (Zhang 2019, arXiv:1901.09321); projection of the condition (Miyato
2018, arXiv:1802.05637).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import check_condition


class ScalarMLP(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B,).

    Args:
        d_in: numbers in.
        width, depth: features and number of residual blocks.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, d_in: int, width: int, depth: int, c_dim: int = 0) -> None:
        super().__init__()
        self.c_dim, self.width = c_dim, width
        self.inlet = nn.Linear(d_in, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        second = [nn.Linear(width, width) for _ in range(depth)]
        self.second = nn.ModuleList(second)
        self.outlet = nn.Linear(width, 1)
        self.project = nn.Linear(c_dim, width) if c_dim else None
        with torch.no_grad():
            for layer in second:
                layer.weight.mul_(0.3)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, d_in) -> (B,)."""
        h = self.inlet(x)
        for first, second in zip(self.first, self.second, strict=True):
            h = h + second(F.silu(first(F.silu(h))))
        h = F.silu(h)
        f = self.outlet(h)[:, 0]
        if c is None:
            return f
        check_condition(c, self.c_dim)
        assert self.project is not None
        return f + (self.project(c) * h).sum(1) / self.width**0.5


class LeakyMLP(nn.Module):
    """(B, d_in), c (B, c_dim) -> (B, d_out), with leaky rectifiers.

    Args:
        d_in, d_out: numbers in and out.
        width, depth: features and number of layers after the first.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, d_in: int, d_out: int, width: int, depth: int, c_dim: int = 0) -> None:
        super().__init__()
        self.c_dim = c_dim
        sizes = [d_in + c_dim, *[width] * (depth + 1), d_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, d_in) -> (B, d_out)."""
        if c is not None:
            check_condition(c, self.c_dim)
            x = torch.cat([x, c], -1)
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        return self.layers[-1](x)
