"""Bodies of sets: points whose order says nothing.

    equivariant   f(x_p(1), ..., x_p(P)) = (f_p(1), ..., f_p(P))       attention among points without places
    invariant     f(x_p(1), ..., x_p(P)) = f(x)                        a network at each point, then mean and maximum

Offers `SetNet` (a point to a point, as a denoiser needs) and `SetEncoder` (all points to one vector).

References: DeepSets (Zaheer 2017, arXiv:1703.06114); PointNet (Qi 2016, arXiv:1612.00593); Set Transformer (Lee 2018,
arXiv:1810.00825); a transformer as the denoiser of points (Nichol 2022, arXiv:2212.08751).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mlp import MLP, zero_
from .transformer import Transformer

HEADS = 4


class SetNet(nn.Module):
    """(B, P, d_in), c (B, c_dim) -> (B, P, d_out), equivariant; the output starts at exactly 0.

    Args:
        d_in, d_out: numbers of a point in and out.
        width, depth: features of a point, a multiple of 8, and layers.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each layer.
    """

    def __init__(
        self, d_in: int, d_out: int, width: int = 64, depth: int = 4, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.inlet = nn.Linear(d_in, width)
        self.body = Transformer(width, depth, HEADS, c_dim, dropout, rotary=False)
        self.outlet = zero_(nn.Linear(width, d_out))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, P, d_in) -> (B, P, d_out)."""
        return self.outlet(self.body(self.inlet(x), c))


class SetEncoder(nn.Module):
    """(B, P, d_in), c (B, c_dim) -> (B, d_out), the same for every order of the points.

    Args:
        d_in, d_out: numbers of a point in, and numbers out.
        width, depth: features of a point, and residual blocks before and after the pooling.
        c_dim: size of the condition, 0 for none.
        dropout: in the blocks.
    """

    def __init__(
        self, d_in: int, d_out: int, width: int = 128, depth: int = 2, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.points = MLP(d_in, width, width, depth, 0, dropout)
        self.whole = MLP(2 * width, d_out, width, depth, c_dim, dropout)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, P, d_in) -> (B, d_out)."""
        h = self.points(x)
        return self.whole(torch.cat([h.mean(1), h.amax(1)], -1), c)
