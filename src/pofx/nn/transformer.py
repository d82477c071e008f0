"""Pre-norm transformer over tokens, causal or not, with a cache of keys and values.

    h <- h + A(M_c(norm(h))),   h <- h + W2 gelu(W1 M_c(norm(h)))

Where things are enters by rotation of queries and keys (`rotary=True`, sequences) or is added to the tokens by the
caller (sets, columns of a table). A token that may look at no other token receives zeros from the attention.

References: attention (Vaswani 2017, arXiv:1706.03762); rotary positions (Su 2021, arXiv:2104.09864).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import Modulation


class Cache:
    """Keys and values (B, heads, L, width / heads) of the tokens so far, one pair a layer; `forward` fills it.

    Args:
        room: tokens for which memory is taken at once; it doubles where they are more.
    """

    def __init__(self, room: int = 16) -> None:
        self.room, self.length = room, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of one layer, the new ones included; `length` counts once the last layer is done."""
        end = self.length + k.shape[2]
        for held, new in ((self.keys, k), (self.values, v)):
            if layer == len(held):
                held.append(new.new_empty(*new.shape[:2], max(self.room, end), new.shape[3]))
            elif end > held[layer].shape[2]:
                held[layer] = torch.cat([held[layer], torch.empty_like(held[layer]), torch.empty_like(new)], 2)
            held[layer][:, :, self.length : end] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.keys, self.values = ([t[rows] for t in held] for held in (self.keys, self.values))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, c_dim: int, dropout: float, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.modulate1, self.modulate2 = Modulation(c_dim, width), Modulation(c_dim, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, c: Tensor | None, may: Tensor | None, triangle: bool, cache: Cache | None, layer: int
    ) -> Tensor:
        h = h + self.drop(self.attend(self.modulate1(self.norm1(h), c), may, triangle, cache, layer))
        return h + self.drop(self.second(F.gelu(self.first(self.modulate2(self.norm2(h), c)))))

    def attend(self, h: Tensor, may: Tensor | None, triangle: bool, cache: Cache | None, layer: int) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotary:
            past = cache.length if cache is not None else 0
            q, k = _rotate(q, past), _rotate(k, past)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=may, is_causal=triangle)
        if may is not None:  # softmax over nothing is not a number
            a = torch.where(may.any(-1, keepdim=True), a, torch.zeros_like(a))
        return self.out(a.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, past: int) -> Tensor:
    """Turn the pairs of features of token i by angles i w, x (B, heads, L, d)."""
    half = x.shape[-1] // 2
    w = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = (torch.arange(x.shape[2], device=x.device) + past)[:, None] * w
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Transformer(nn.Module):
    """(B, L, width), c (B, c_dim) or (B, L, c_dim) -> (B, L, width).

    Args:
        width: features of a token, a multiple of 2 * heads.
        depth: layers.
        heads: attention heads.
        c_dim: size of the condition, 0 for none.
        dropout: probability after attention and after the feed-forward part.
        rotary: relative positions by rotation; False for sets.
    """

    def __init__(
        self, width: int, depth: int, heads: int = 4, c_dim: int = 0, dropout: float = 0.0, rotary: bool = True
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width: got {width}, expected a multiple of 2 * heads = {2 * heads}.")
        self.width, self.depth, self.c_dim = width, depth, c_dim
        self.blocks = nn.ModuleList(_Block(width, heads, c_dim, dropout, rotary) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        h: Tensor,
        c: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """Tokens h (B, L, width) -> (B, L, width).

        Args:
            h: the tokens; with a cache, the new tokens only.
            c: the condition of the row, or of every token.
            mask: bool, True where a token may be looked at: keys (B, K), or queries and keys (B, L, K), where K counts
                the cached tokens too.
            causal: a token looks at itself and at earlier tokens only.
            cache: keys and values of the tokens before h, filled in place; it needs causal=True.
        """
        if cache is not None and not causal:
            raise ValueError("cache: got causal=False; a cache holds the past only, so pass causal=True.")
        past = cache.length if cache is not None else 0
        triangle = causal and mask is None and past == 0 and h.shape[1] > 1
        single = causal and mask is None and h.shape[1] == 1
        may = None if triangle or single else _allowed(h, mask, causal, past)
        for layer, block in enumerate(self.blocks):
            h = block(h, c, may, triangle, cache, layer)
        if cache is not None:
            cache.length += h.shape[1]
        return self.norm(h)


def _allowed(h: Tensor, mask: Tensor | None, causal: bool, past: int) -> Tensor | None:
    """Which keys each query may see, broadcastable to (B, heads, L, past + L), or None for all."""
    may = None
    if mask is not None:
        may = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    if causal:
        n = h.shape[1]
        seen = torch.ones(n, past + n, dtype=torch.bool, device=h.device).tril(past)
        may = seen[None, None] if may is None else may & seen
    return may
