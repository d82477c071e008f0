"""Towers: bottom-up features of x, and a top-down trunk into which groups of latent numbers are merged one by one.

    r_1 = f_1(x),  r_{l+1} = r_l + f(r_l)                                     bottom-up, r of the top group last
    h_1 = a learnt start,  h_{l+1} = merge_l(h_l, z_l)                        top-down
    (mu_l, raw_l) = posterior_l(h_l, r of that group),  params = out(h_end)

`VectorTower` is made of MLPs, `GridTower` of convolutions with one or more groups at each size of a picture, from the
smallest up. Groups are numbered from the top; their latents are flat.

References: ladder VAE (Sonderby 2016, arXiv:1602.02282); NVAE (Vahdat and Kautz 2020, arXiv:2007.03898); VD-VAE (Child
2020, arXiv:2011.10650).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencode import Encoder
from .convnet import ResBlock, group_norm, halvings
from .mlp import MLP


class VectorTower(nn.Module):
    """Both ways for vectors.

    Args:
        shape: of x on its chart; it is read as a vector.
        numbers: out.
        groups: of latents.
        latents: numbers in each group.
        width: features of both ways.
        c_dim: size of the condition, 0 for none.
        dropout: inside the blocks.
        halved: every entry has two numbers out, and the first of them is 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        numbers: int,
        groups: int,
        latents: int,
        width: int,
        c_dim: int = 0,
        dropout: float = 0.0,
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.sizes, self.halved = [latents] * groups, halved
        self.start = nn.Parameter(torch.zeros(width))
        self.inlet = Encoder(shape, width, width, 1, c_dim=c_dim, dropout=dropout)
        self.ups = nn.ModuleList(MLP(width, width, width, 1, c_dim, dropout) for _ in range(groups - 1))
        self.heads = nn.ModuleList(MLP(2 * width, 2 * latents, width, 0, c_dim) for _ in range(groups))
        self.merges = nn.ModuleList(MLP(width + latents, width, width, 1, c_dim, dropout) for _ in range(groups))
        self.outlet = MLP(width, numbers // 2 if halved else numbers, width, 0, c_dim)

    def up(self, u: Tensor, mask: Tensor | None, c: Tensor | None) -> list[Tensor]:
        """Features for every group, the top one's first."""
        features = [self.inlet(u, mask, c)]
        for block in self.ups:
            features.append(features[-1] + block(features[-1], c))
        return features[::-1]

    def begin(self, rows: int) -> Tensor:
        """The trunk before any latent."""
        return self.start.expand(rows, -1)

    def posterior(self, group: int, h: Tensor, r: Tensor, c: Tensor | None) -> Tensor:
        """Means and raw spreads `(B, 2 L)` of a group."""
        return self.heads[group](torch.cat([h, r], -1), c)

    def merge(self, group: int, h: Tensor, z: Tensor, c: Tensor | None) -> Tensor:
        """The trunk after a group's z `(B, L)`."""
        return h + self.merges[group](torch.cat([h, z], -1), c)

    def out(self, h: Tensor, c: Tensor | None) -> Tensor:
        """`(B, numbers)`."""
        return _doubled(self.outlet(h, c), self.halved)


class GridTower(nn.Module):
    """Both ways for pictures.

    Args:
        shape: (C, H, W).
        channels: numbers of one pixel out.
        groups: at each size.
        latents: channels of z at each place of its size.
        width: channels at full size, doubled once.
        c_dim: size of the condition, 0 for none.
        dropout: inside the blocks.
        halved: every entry has two numbers out, and the first of them is 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int,
        groups: int,
        latents: int,
        width: int,
        c_dim: int = 0,
        dropout: float = 0.0,
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.halved, self.latents = halved, latents
        sides = halvings(*shape[1:])
        wide = [width * min(2, 2**i) for i in range(len(sides))]
        self.inlet = nn.Conv2d(2 * shape[0], width, 3, padding=1)
        self.levels = nn.ModuleList(ResBlock(w, w, c_dim, dropout=dropout) for w in wide)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(wide[:-1], wide[1:], strict=True)
        )
        low = list(zip(sides, wide, strict=True))[:0:-1] or [(sides[0], wide[0])]  # no latents at full size
        self.places = [side for side, _ in low for _ in range(groups)]
        each = [w for _, w in low for _ in range(groups)]
        self.sizes = [latents * math.prod(side) for side in self.places]
        self.start = nn.Parameter(torch.zeros(each[0], *self.places[0]))
        self.heads = nn.ModuleList(ResBlock(2 * w, 2 * latents, c_dim) for w in each)
        self.merges = nn.ModuleList(ResBlock(w + latents, w, c_dim, dropout=dropout) for w in each)
        self.sides = [*self.places, sides[0]]
        pairs = zip([*each], [*each[1:], wide[0]], self.sides[:-1], self.sides[1:], strict=True)
        self.ups = nn.ModuleList(nn.Identity() if s == t else nn.Conv2d(a, 4 * b, 3, padding=1) for a, b, s, t in pairs)
        self.last, self.norm = ResBlock(wide[0], wide[0], c_dim, dropout=dropout), group_norm(wide[0])
        self.outlet = nn.Conv2d(wide[0], channels // 2 if halved else channels, 3, padding=1)

    def up(self, u: Tensor, mask: Tensor | None, c: Tensor | None) -> list[Tensor]:
        """Features for every group, the top one's first."""
        mask = torch.ones_like(u) if mask is None else mask
        r = self.inlet(torch.cat([torch.where(mask > 0, u, torch.zeros_like(u)), mask], 1))
        found: dict[tuple[int, ...], Tensor] = {}
        for i, level in enumerate(self.levels):
            r = level(self.downs[i - 1](r) if i else r, c)
            found[tuple(r.shape[2:])] = r
        return [found[side] for side in self.places]

    def begin(self, rows: int) -> Tensor:
        """The trunk before any latent."""
        return self.start.expand(rows, -1, -1, -1)

    def posterior(self, group: int, h: Tensor, r: Tensor, c: Tensor | None) -> Tensor:
        """Means and raw spreads `(B, 2 L)` of a group."""
        return self.heads[group](torch.cat([h, r], 1), c).flatten(1)

    def merge(self, group: int, h: Tensor, z: Tensor, c: Tensor | None) -> Tensor:
        """The trunk after a group's z `(B, L)`, at the size of the next."""
        grid = z.unflatten(1, (self.latents, *self.places[group]))
        h = self.merges[group](torch.cat([h, grid], 1), c)
        side = self.sides[group + 1]
        if side == self.places[group]:
            return h
        return F.pixel_shuffle(self.ups[group](h), 2)[:, :, : side[0], : side[1]]

    def out(self, h: Tensor, c: Tensor | None) -> Tensor:
        """`(B, numbers)`, in the order (H, W, C)."""
        y = self.outlet(F.silu(self.norm(self.last(h, c))))
        return _doubled(y.permute(0, 2, 3, 1).flatten(1), self.halved)


def _doubled(y: Tensor, halved: bool) -> Tensor:
    return torch.stack([torch.zeros_like(y), y], -1).flatten(1) if halved else y
