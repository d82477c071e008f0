"""Couplings: some entries decide how the others are changed, so that both directions take one pass.

    z_a = u_a,   z_b = f(u_b; body(u_a, c)),     log_det = sum_b log f'

A vector gets a residual MLP, a picture residual convolutions.
References: NICE (Dinh 2014, arXiv:1410.8516); RealNVP (Dinh 2016, arXiv:1605.08803); neural spline flows (Durkan 2019,
arXiv:1906.04032).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bijections import Bijection, timid
from .convnet import ResBlock, group_norm
from .mlp import MLP
from .splines import Monotone


class VectorBody(nn.Module):
    """The kept entries of u `(B, d)` and c -> `(numbers, changed, B)`, by a residual MLP."""

    kept: Tensor

    def __init__(
        self, keep: Tensor, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("kept", keep.nonzero()[:, 0])
        self.numbers, alone = numbers, not keep.any()
        changed = keep.numel() - len(self.kept)
        # with nothing to look at, the numbers themselves are what is trained
        self.free = nn.Parameter(torch.zeros(changed * numbers)) if alone else None
        net = MLP(len(self.kept), changed * numbers, width, depth, c_dim, dropout) if c_dim or not alone else None
        self.net = net
        if net is not None:
            timid(net.outlet)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        raw = u.new_zeros(1, len(u))
        if self.net is not None:  # numbers first, as the monotone maps want them: the outlet times the features
            outlet, h = self.net.outlet, self.net.features(u[:, self.kept], c)
            raw = torch.addmm(outlet.bias[:, None], outlet.weight, h.t())
        raw = raw if self.free is None else raw + self.free[:, None]
        return raw.unflatten(0, (self.numbers, -1))


class PictureBody(nn.Module):
    """The kept entries of u `(B, C, H, W)` and c -> `(numbers, changed, B)`, by residual convolutions."""

    kept: Tensor
    changed: Tensor

    def __init__(
        self, keep: Tensor, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.numbers = numbers
        self.register_buffer("kept", keep.float()[None])
        self.register_buffer("changed", (~keep).flatten().nonzero()[:, 0])
        self.inlet = nn.Conv2d(2 * len(keep), width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width, c_dim, dropout=dropout) for _ in range(depth))
        self.norm = group_norm(width)
        self.outlet = nn.Conv2d(width, len(keep) * numbers, 3, padding=1)
        timid(self.outlet)

    def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        kept = self.kept.expand_as(u)
        h = self.inlet(torch.cat([u * kept, kept], 1))
        for block in self.blocks:
            h = block(h, c)
        raw = self.outlet(F.silu(self.norm(h))).unflatten(1, (self.numbers, -1))
        return raw.flatten(2).permute(1, 2, 0)[:, self.changed]


class Coupling(Bijection):
    """Entries that are kept decide how the others are changed.

    Args:
        keep: bool, of the event's shape; nothing kept makes it an unconditional map of every entry (given c).
        width, depth: of the body: an MLP for vectors, convolutions for pictures.
        monotone: the map of one entry.
        c_dim: size of the condition, 0 for none.
        dropout: in the body.
    """

    changed: Tensor

    def __init__(
        self,
        keep: Tensor,
        width: int,
        depth: int,
        monotone: Monotone,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.monotone = monotone
        self.register_buffer("changed", (~keep).flatten().nonzero()[:, 0])
        body = PictureBody if keep.ndim == 3 else VectorBody
        self.body = body(keep, monotone.numbers, width, depth, c_dim, dropout)

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self._map(u, c, inverse=False)
        return z, log_slope.sum(0)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._map(z, c, inverse=True)[0]

    def _map(self, u: Tensor, c: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        flat = u.flatten(1)
        f, log_slope = self.monotone(flat[:, self.changed].t(), self.body(u, c), inverse)
        return flat.index_copy(1, self.changed, f.t()).reshape(u.shape), log_slope
