"""Marginal: every entry by itself to a normal distribution, from the quantiles of the first rows of a fit.

    z_i = f_i(u_i),   f_i the monotone rational-quadratic curve through the points (quantile of p_k, Phi^-1(p_k))
    beyond the last point   z = z_K + a log(1 + d (u - x_K) / a)

What is left to the layers after it is the dependence between entries; a heavy tail, a spike or a gap in one column is
no longer theirs to learn. The tails grow as a logarithm, so that a row far outside costs tens of nats, not thousands.
The points are measured on the first batches (while a learning rate warms up) and then moved by training.

References: Gaussianisation (Chen 2000); rational-quadratic interpolation (Gregory 1982; Durkan 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bijections import Bijection
from .splines import Bin, curve

BATCHES = 24  # that are measured
LEAST = 1e-4  # distance of two points
TAIL = 1.0  # a
REACH = 2.8  # the last points, in deviations


class Marginal(Bijection):
    """Entry-wise monotone curves through K + 1 points each; u and z `(B, *shape)`.

    Args:
        size: entries.
        bins: K.
    """

    levels: Tensor
    quantiles: Tensor
    batches: Tensor

    def __init__(self, size: int, bins: int = 24) -> None:
        super().__init__()
        self.bins = bins
        levels = torch.linspace(-REACH, REACH, bins + 1)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("quantiles", levels[:, None].repeat(1, size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.shift, self.log_scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))
        self.widths, self.heights = (nn.Parameter(torch.zeros(bins, size)) for _ in range(2))
        self.slopes = nn.Parameter(torch.zeros(bins + 1, size))

    def measure(self, u: Tensor) -> None:
        """Take the rows u `(B, size)` into account, while they are of the first batches."""
        if not self.training or int(self.batches) >= BATCHES:
            return
        rows = _all_rows(u.detach().flatten(1))
        p = torch.special.ndtr(self.levels.double()).to(rows.dtype)
        own = torch.quantile(rows, p, dim=0).to(self.quantiles.dtype)
        self.batches += 1
        self.quantiles.lerp_(own, 1 / float(self.batches))

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, z and slopes at the K + 1 points, each `(K + 1, size)`."""
        gaps = self.quantiles.diff(dim=0).clamp_min(LEAST)
        x = torch.cat([self.quantiles[:1], self.quantiles[:1] + (gaps * self.widths.exp()).cumsum(0)])
        rise = self.levels.diff()[:, None] * self.heights.exp()
        z = torch.cat([self.levels[:1, None].expand_as(x[:1]), self.levels[0] + rise.cumsum(0)])
        steep = (rise / (gaps * self.widths.exp())).log()
        between = torch.cat([steep[:1], (steep[1:] + steep[:-1]) / 2, steep[-1:]]) + self.slopes
        scale = self.log_scale.exp()
        return x, (z + self.shift) * scale, (between + self.log_scale).exp()

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self._map(u.flatten(1).t(), False)
        return z.t().reshape(u.shape), log_slope.sum(0)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._map(z.flatten(1).t(), True)[0].t().reshape(z.shape)

    def _map(self, t: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """t `(size, B)` and the log slope, of the inverse function where `inverse`."""
        x, z, slope = (a.t() for a in self.points())
        table = torch.stack([x[:, :-1], z[:, :-1], x.diff(), z.diff(), slope[:, :-1], slope[:, 1:]], 2)
        ends = (z if inverse else x).detach().contiguous()
        k = torch.searchsorted(ends[:, 1:-1].contiguous(), t.detach().contiguous(), right=True)
        rows = torch.arange(len(t), device=t.device)[:, None] * self.bins
        x0, z0, w, h, d0, d1 = table.flatten(0, 1)[rows + k].unbind(2)
        unit = Bin(x0, z0, w, h, d0, d1)
        first, last = ends[:, :1], ends[:, -1:]
        middle, log_slope, _ = curve(torch.minimum(torch.maximum(t, first), last), unit, inverse)
        edge = torch.where(t > last, slope[:, -1:], slope[:, :1])
        from_x, from_z = (torch.where(t > last, a[:, -1:], a[:, :1]) for a in (x, z))
        outer, log_outer = _tail(t, from_x, from_z, edge, inverse)
        outside = (t < first) | (t > last)
        return torch.where(outside, outer, middle), torch.where(outside, log_outer, log_slope)


def _tail(t: Tensor, x: Tensor, z: Tensor, slope: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """The curve beyond the point (x, z), with the slope it has there."""
    if inverse:
        far = (t - z).abs() / TAIL
        return x + (t - z).sign() * far.expm1() * TAIL / slope, far - slope.log()
    far = torch.log1p((t - x).abs() * slope / TAIL)
    return z + (t - x).sign() * far * TAIL, slope.log() - far


def _all_rows(rows: Tensor) -> Tensor:
    """The rows of all processes of a data-parallel fit."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
