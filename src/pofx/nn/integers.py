"""Integer couplings: rounded shifts, which are bijections of whole numbers.

    z_a = x_a,    z_b = x_b + round(s_b t(x_a, c))    (mod K_b, where an entry has K_b levels that wrap)

Gradients pass the rounding as if it were not there. `Body` is the network of a coupling, and of anything else that is
said of some entries by others; `lattice` arranges a picture so that each level's entries lie between the next one's.

References: integer discrete flows (Hoogeboom 2019, arXiv:1905.07376); residues (Tran 2019, arXiv:1905.10347);
straight-through gradients (Bengio 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import ResBlock, group_norm
from .mlp import MLP


class Body(nn.Module):
    """Standardised entries (B, D) and c -> numbers (B, n, numbers) for n of them, from others.

    Args:
        kept, changed: which entries are read and spoken of: flat numbers (n,), or maps (C, H, W) of them for
            convolutions. kept may be empty.
        numbers: for each changed entry.
        width, depth: features and residual blocks.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside each block.
    """

    kept: Tensor
    changed: Tensor

    def __init__(
        self, kept: Tensor, changed: Tensor, numbers: int, width: int, depth: int, c_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("kept", kept.flatten(), persistent=False)
        self.register_buffer("changed", changed.flatten(), persistent=False)
        self.shape, self.numbers = tuple(kept.shape), numbers
        self.convolve = kept.ndim == 3 and kept.numel() > 0
        self.free = nn.Parameter(torch.zeros(changed.numel(), numbers))
        self.net: nn.Module | None = None
        if self.convolve:
            self.net = _Convolutions(len(kept), len(changed) * numbers, width, depth, c_dim, dropout)
        elif kept.numel() or c_dim:
            self.net = MLP(kept.numel(), changed.numel() * numbers, width, depth, c_dim, dropout)
            _timid(self.net.outlet)  # type: ignore[arg-type]

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        if self.net is None:
            return self.free.expand(len(z), -1, -1)
        u = z[:, self.kept]
        if not self.convolve:
            return self.net(u, c).unflatten(1, (-1, self.numbers)) + self.free
        raw = self.net(u.unflatten(1, self.shape), c).unflatten(1, (-1, self.numbers))
        return raw.movedim(2, -1).flatten(1, 3) + self.free


class _Convolutions(nn.Module):
    def __init__(self, c_in: int, c_out: int, width: int, depth: int, c_dim: int, dropout: float) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(c_in, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width, c_dim, dropout=dropout) for _ in range(depth))
        self.norm, self.outlet = group_norm(width), nn.Conv2d(width, c_out, 3, padding=1)
        _timid(self.outlet)

    def forward(self, u: Tensor, c: Tensor | None) -> Tensor:
        h = self.inlet(u)
        for block in self.blocks:
            h = block(h, c)
        return self.outlet(F.silu(self.norm(h)))


def _timid(outlet: nn.Linear | nn.Conv2d) -> None:
    """Start close to no shift, but with a gradient in every weight."""
    with torch.no_grad():
        outlet.weight.mul_(0.1)
        if outlet.bias is not None:
            outlet.bias.zero_()


class Shift(nn.Module):
    """Whole numbers (B, D) -> whole numbers, invertible exactly.

    Args:
        body: what says the shift of its changed entries, in units of `scale`.
        mean, scale: (D,), which standardise what the body reads.
        levels: (D,), K where an entry wraps around, 0 where it is a whole number of any size.
    """

    mean: Tensor
    scale: Tensor
    levels: Tensor

    def __init__(self, body: Body, mean: Tensor, scale: Tensor, levels: Tensor) -> None:
        super().__init__()
        self.body = body
        for name, value in (("mean", mean), ("scale", scale), ("levels", levels)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """z for x (B, D), whole numbers in float64."""
        return self._moved(x, self._shift(x, c))

    def inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The x that forward maps to z."""
        return self._moved(z, -self._shift(z, c))

    def _shift(self, x: Tensor, c: Tensor | None) -> Tensor:
        t = self.body(((x - self.mean) / self.scale).float(), c).squeeze(-1).double() * self.scale[self.body.changed]
        return t + (t.round() - t).detach()

    def _moved(self, x: Tensor, shift: Tensor) -> Tensor:
        b = self.body.changed
        levels = self.levels[b]
        moved = x[:, b] + shift
        moved = torch.where(levels > 0, torch.remainder(moved, levels.clamp_min(1)), moved)
        return x.index_copy(1, b, moved)


def lattice(units: Tensor, levels: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Levels of an event from fine to coarse: all entries of the level, those that end there, those that go on.

    Args:
        units: flat numbers of the entries, (D,), or maps (C, H, W) of them. Maps are cut into their four sublattices
            while both sides are even, and the two that lie between the others end; vectors are halved.
        levels: at most this many cuts; None: until one entry is left.
    """
    count = 0
    while units.numel() > 1 and (levels is None or count < levels):
        if units.ndim == 3 and (min(units.shape[1:]) < 2 or units.shape[1] % 2 or units.shape[2] % 2):
            units = units.flatten()
        if units.ndim == 3:
            C, H, W = units.shape
            units = units.reshape(C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3).reshape(4 * C, H // 2, W // 2)
            between = torch.tensor([False, True, True, False]).repeat(C)
        else:
            between = torch.arange(len(units)) % 2 == 1
        yield units, units[between], units[~between]
        units, count = units[~between], count + 1
    units = units.flatten()
    yield units, units, units[:0]


def sides(units: Tensor, layers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each of a level's couplings: kept and changed units, halves and alternate ones in turn."""
    n = len(units)
    place = torch.arange(n)
    for i in range(layers if n > 1 else 0):
        changed = (place < n // 2 if i % 4 < 2 else place % 2 == 1) ^ (i % 2 == 1)
        yield units[~changed], units[changed]
