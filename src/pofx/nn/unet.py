"""U-Net: a picture to a picture of the same size, conditioned by one vector.

    h_0 = K x,  h_{l+1} = down(blocks(h_l)),  g_l = blocks([up(g_{l+1}), h_l]),  y = K' g_0

Time and labels arrive in one vector c, a text in tokens that the coarsest pixels attend to. Any height and width work:
the picture is padded with zeros to a multiple of the coarsest cell and cut back. A patch of p x p pixels may enter as
channels: a p^2 times cheaper net for the same width.
Offers `UNet`, `Translator`, which turns one picture into another, and the time features `fourier`.

References: U-Net (Ronneberger 2015, arXiv:1505.04597); DDPM (Ho 2020, arXiv:2006.11239); ADM (Dhariwal 2021,
arXiv:2105.05233).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convnet import Chain, ResBlock, group_norm
from .mlp import zero_


def fourier(t: Tensor, width: int, lowest: float = 0.5, highest: float = 1000.0) -> Tensor:
    """Features (B, width) of times t (B,): sines and cosines of angular frequencies on a geometric grid.

    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"width: got {width}, expected an even number (sines and cosines).")
    w = torch.logspace(math.log10(lowest), math.log10(highest), width // 2, device=t.device, dtype=torch.float64)
    angle = t.double()[:, None] * w
    features = torch.cat([angle.sin(), angle.cos()], -1)
    return features.to(t.dtype if t.is_floating_point() else torch.float32)


class SelfAttention2d(nn.Module):
    """Residual attention among the pixels of one picture (B, C, H, W)."""

    def __init__(self, channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads or max((h for h in (1, 2, 4, 8) if channels % h == 0 and channels // h >= 16), default=1)
        self.norm, self.qkv = group_norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, C, H, W) -> the same shape."""
        qkv = self.qkv(self.norm(h)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        a = F.scaled_dot_product_attention(*qkv.unbind(1))
        return h + self.out(a.transpose(-1, -2).flatten(1, 2).unflatten(2, h.shape[2:]))


class CrossAttention2d(nn.Module):
    """Residual attention of the pixels of a picture (B, C, H, W) to tokens (B, T, c_dim)."""

    def __init__(self, channels: int, c_dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = next(h for h in (heads, 2, 1) if channels % h == 0)
        self.norm, self.q = group_norm(channels), nn.Conv2d(channels, channels, 1)
        self.norm_tokens, self.kv = nn.LayerNorm(c_dim), nn.Linear(c_dim, 2 * channels)
        self.out = zero_(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """h (B, C, H, W) -> the same shape."""
        q = self.q(self.norm(h)).flatten(2).unflatten(1, (self.heads, -1)).transpose(-1, -2)
        kv = self.kv(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, *kv.unbind(0))
        return h + self.out(a.transpose(-1, -2).flatten(1, 2).unflatten(2, h.shape[2:]))


class _Stage(nn.Module):
    """A residual block, with attention to the picture or to tokens after it where it is asked for."""

    def __init__(self, c_in: int, c_out: int, c_dim: int, attention: bool, dropout: float, tokens: bool) -> None:
        super().__init__()
        self.block = ResBlock(c_in, c_out, c_dim, dropout=dropout)
        self.attention = SelfAttention2d(c_out) if attention else None
        self.reading = CrossAttention2d(c_out, c_dim) if tokens else None

    def forward(self, h: Tensor, c: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        h = self.block(h, c)
        h = h if self.attention is None else self.attention(h)
        return h if self.reading is None or tokens is None else self.reading(h, tokens)


class UNet(nn.Module):
    """(B, channels_in, H, W), c (B, c_dim) -> (B, channels_out, H, W); the output starts at exactly 0.

    Args:
        channels_in, channels_out: channels of the picture in and out.
        width: channels at full size; doubled at each halving, at most 4 times.
        depth: number of sizes (1: no halving).
        blocks: residual blocks at each size.
        c_dim: size of the condition, 0 for none.
        attention: self-attention at the coarsest size.
        dropout: probability inside each block.
        patch: side of the squares of pixels that enter, and leave, as channels.
        tokens: attention to tokens (B, T, c_dim) at the coarsest size.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int = 32,
        depth: int = 3,
        blocks: int = 1,
        c_dim: int = 0,
        attention: bool = False,
        dropout: float = 0.0,
        patch: int = 1,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.blocks, self.patch = depth, blocks, patch
        channels_in, channels_out = channels_in * patch**2, channels_out * patch**2
        widths = [width * min(2**i, 4) for i in range(depth)]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))

        def stages(first: int, w: int, level: int) -> Chain:
            here = level == depth - 1
            made = (w, c_dim, attention and here, dropout, tokens and here)
            return Chain(_Stage(w if i else first, *made) for i in range(blocks))

        self.inlet = nn.Conv2d(channels_in, width, 3, padding=1)
        self.going = nn.ModuleList(stages(w, w, i) for i, w in enumerate(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.middle = _Stage(widths[-1], widths[-1], c_dim, attention, dropout, tokens)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 3, padding=1) for a, b in pairs)
        self.coming = nn.ModuleList(stages(2 * w, w, i) for i, w in enumerate(widths))
        self.norm, self.outlet = group_norm(width), zero_(nn.Conv2d(width, channels_out, 3, padding=1))
        for p in self.parameters():
            if p.ndim == 4:  # a tenth faster on the CPU, more on a GPU in half precision
                p.data = p.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, c: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """x (B, channels_in, H, W) -> (B, channels_out, H, W)."""
        height, width = x.shape[2:]
        cell = self.patch * 2 ** (self.depth - 1)
        h = self.inlet(F.pixel_unshuffle(F.pad(x, (0, -width % cell, 0, -height % cell)), self.patch))
        kept = []
        for i, stages in enumerate(self.going):
            h = stages(self.down[i - 1](h) if i else h, c, tokens)
            kept.append(h)
        h = self.middle(h, c, tokens)
        for i in reversed(range(self.depth)):
            h = self.coming[i](torch.cat([h, kept[i]], 1), c, tokens)
            h = F.pixel_shuffle(self.up[i - 1](h), 2) if i else h
        return F.pixel_shuffle(self.outlet(F.silu(self.norm(h))), self.patch)[:, :, :height, :width]


class Translator(nn.Module):
    """z (B, d_in) and a map (B, maps, H, W) to a picture (B, C, H, W): a U-Net of the map that z and c modulate.

    Args:
        d_in: numbers of z.
        shape: (C, H, W) of the output.
        maps: channels of the map.
        width: channels at full size.
        c_dim: size of the condition, and of what z becomes.
    """

    def __init__(self, d_in: int, shape: Sequence[int], maps: int, width: int = 32, c_dim: int = 64) -> None:
        super().__init__()
        self.inlet = nn.Linear(d_in, c_dim)
        patch = 2 if max(shape[1:]) >= 24 else 1  # four times as many steps in the same time
        depth = max(1, min(4, round(math.log2(max(shape[1:]) / patch / 4)) + 1))
        self.net = UNet(maps, shape[0], width, depth, c_dim=c_dim, patch=patch)

    def forward(self, z: Tensor, c: Tensor, given: Tensor) -> Tensor:
        """A picture for each row."""
        return self.net(given, c + self.inlet(z))
