"""The two halves of an autoencoder: entries with gaps to numbers, and latent numbers to the parameters of each entry.

    encoder   h = MLP(W u + B A m), convolutions of (u, m), or a set of (u_p, m_p)
                                                                          u with its gaps at zero, m = 1 where observed
    decoder   MLP or convolutions, one block of numbers for every entry, in the order of the entries

The mask of a vector passes a narrow waist (A): it costs nothing where rows are complete. A softmax over two codes needs
the difference of its two numbers alone, so such a decoder makes one number for each entry (`halved`).

`GridEncoder` and `GridDecoder` keep a picture's places apart: their latent is a small grid of vectors.

References: gaps at zero (Mattei and Frellsen 2019, arXiv:1812.02633).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import Chain, ConvDecoder, ConvEncoder, ResBlock, group_norm, halvings
from .mlp import MLP
from .sets import SetEncoder

WAIST = 32  # features of a mask


class Encoder(nn.Module):
    """Charted x `(B, *shape)` with its mask, c `(B, c_dim)` -> `(B, d_out)`.

    Args:
        shape: (C, H, W) of a picture that convolutions read; anything else is read as a vector.
        d_out: numbers out.
        width, depth: features and residual blocks of the MLP; of convolutions, channels at full size.
        conv: read by convolutions.
        c_dim: size of the condition, 0 for none.
        dropout: in the MLP.
        points: (P, d) is a set of P points, and h the same for every order of them.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        d_out: int,
        width: int,
        depth: int,
        conv: bool = False,
        c_dim: int = 0,
        dropout: float = 0.0,
        points: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.points, size = conv, points, math.prod(shape)
        if points:
            self.body: nn.Module = SetEncoder(2 * shape[1], d_out, width, max(1, depth), c_dim, dropout)
            return
        if conv:
            channels, *sides = shape
            self.body = ConvEncoder((2 * channels, *sides), d_out, width, c_dim)
            return
        self.values = nn.Linear(size, width)
        self.waist = nn.Linear(size, min(size, WAIST), bias=False)
        self.widen = nn.Linear(min(size, WAIST), width, bias=False)
        self.body = MLP(width, d_out, width, depth, c_dim, dropout)
        self.body.inlet = nn.Identity()  # type: ignore[assignment]

    def forward(self, u: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """u `(B, *shape)`, mask of the same shape or None for all observed -> `(B, d_out)`."""
        if mask is not None:
            u = torch.where(mask > 0, u, torch.zeros_like(u))
        if self.conv:
            return self.body(torch.cat([u, torch.ones_like(u) if mask is None else mask], 1), c)
        if self.points:
            return self.body(torch.cat([u, torch.ones_like(u) if mask is None else mask], 2), c)
        # complete rows share one mask, so it is read once
        seen = torch.ones_like(u[:1]) if mask is None else mask
        return self.body(self.values(u.flatten(1)) + self.widen(self.waist(seen.flatten(1))), c)


class Decoder(nn.Module):
    """z `(B, d_in)`, c `(B, c_dim)` -> `(B, numbers)`, the parameters of all entries.

    Args:
        d_in: latent numbers.
        numbers: parameters of one x; a picture's are in the order (H, W, C), each entry's together.
        sides: (H, W) of a picture that convolutions make; None for an MLP.
        width, depth: features and residual blocks of the MLP; of convolutions, channels at full size.
        c_dim: size of the condition, 0 for none.
        dropout: in the MLP.
        halved: every entry has two numbers, and the first of them is 0.
    """

    def __init__(
        self,
        d_in: int,
        numbers: int,
        width: int,
        depth: int,
        sides: tuple[int, int] | None = None,
        c_dim: int = 0,
        dropout: float = 0.0,
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.halved, self.sides = halved, sides
        made = numbers // 2 if halved else numbers
        if sides is None:
            self.body: nn.Module = MLP(d_in, made, width, depth, c_dim, dropout)
        else:
            self.body = ConvDecoder(d_in, (made // math.prod(sides), *sides), width, c_dim)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z `(B, d_in)` -> `(B, numbers)`."""
        y = self.body(z, c)
        y = y if self.sides is None else y.permute(0, 2, 3, 1).flatten(1)
        return torch.stack([torch.zeros_like(y), y], -1).flatten(1) if self.halved else y


class GridEncoder(nn.Module):
    """A picture `(B, C, H, W)` with its mask, c `(B, c_dim)` -> `(B, h w, d)`, places in raster order.

    Args:
        shape: (C, H, W).
        d: numbers of one place.
        width: channels at full size, doubled once.
        smallest: sides are halved until the longer is at most this.
        c_dim: size of the condition, 0 for none.
    """

    def __init__(self, shape: tuple[int, ...], d: int, width: int, smallest: int = 8, c_dim: int = 0) -> None:
        super().__init__()
        channels, height, wide = shape
        self.sizes = halvings(height, wide, smallest)
        widths = [width * min(2, 2**i) for i in range(len(self.sizes))]
        self.inlet = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.levels = nn.ModuleList(Chain([ResBlock(w, w, c_dim)]) for w in widths)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.norm, self.outlet = group_norm(widths[-1]), nn.Conv2d(widths[-1], d, 1)

    def forward(self, u: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """u `(B, C, H, W)`, mask of the same shape or None for all observed -> `(B, h w, d)`."""
        mask = torch.ones_like(u) if mask is None else mask
        h = self.inlet(torch.cat([torch.where(mask > 0, u, torch.zeros_like(u)), mask], 1))
        for i, level in enumerate(self.levels):
            h = level(self.down[i - 1](h) if i else h, c)
        return self.outlet(F.silu(self.norm(h))).flatten(2).transpose(1, 2)


class GridDecoder(nn.Module):
    """`(B, h w, d)`, c `(B, c_dim)` -> `(B, numbers)`: the way back, with pixel shuffles.

    Args:
        d: numbers of one place.
        sizes: of `GridEncoder`, from the full size down.
        channels: numbers of one pixel out.
        width: channels at full size.
        c_dim: size of the condition, 0 for none.
        halved: every entry has two numbers, and the first of them is 0.
    """

    def __init__(
        self, d: int, sizes: list[tuple[int, int]], channels: int, width: int, c_dim: int = 0, halved: bool = False
    ) -> None:
        super().__init__()
        self.sizes, self.halved = sizes[::-1], halved
        widths = [width * min(2, 2**i) for i in range(len(sizes))][::-1]
        self.inlet = nn.Conv2d(d, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(Chain([ResBlock(w, w, c_dim)]) for w in widths)
        self.up = nn.ModuleList(nn.Conv2d(a, 4 * b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        made = channels // 2 if halved else channels
        self.norm, self.outlet = group_norm(widths[-1]), nn.Conv2d(widths[-1], made, 3, padding=1)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z `(B, h w, d)` -> `(B, numbers)`."""
        h = self.inlet(z.transpose(1, 2).unflatten(2, self.sizes[0]))
        for i, (level, size) in enumerate(zip(self.levels, self.sizes, strict=True)):
            h = F.pixel_shuffle(self.up[i - 1](h), 2)[:, :, : size[0], : size[1]] if i else h
            h = level(h, c)
        y = self.outlet(F.silu(self.norm(h))).permute(0, 2, 3, 1).flatten(1)
        return torch.stack([torch.zeros_like(y), y], -1).flatten(1) if self.halved else y
