"""Causal transformer over the entries in one fixed order, with a cache of keys and values.

    token_t = value(x_{s_{t-1}}) + place_t,      h = causal transformer(tokens),      y_{s_t} = W h_t + b

Where entries stand in a fixed event (a table, a picture) each place has a vector of its own. In a stream (text), only
the distance between two tokens counts: queries and keys are rotated, nothing depends on the length, and weights serve
other lengths.

References: attention (Vaswani 2017, arXiv:1706.03762); Image GPT (Chen 2020); rotary positions (Su 2021,
arXiv:2104.09864).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .entries import Causal, Embedding, Entries, Outlets, Size, Walk
from .transformer import Cache, Transformer

SHORT = 65536  # a discrete entry with at most this many levels has a vector for each of them


class CausalTransformer(Causal):
    """Pre-norm blocks of `width` features with 4 heads."""

    order: Tensor
    rank: Tensor

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        width, depth, dropout, _ = size.over(width=64, depth=3, dropout=0.1)
        short = [k if k <= SHORT else 0 for k in entries.levels]
        numeric = entries.numeric if not entries.stream else [n and not k for n, k in zip(entries.numeric, short)]
        self.embed = Embedding(short, numeric, width, entries.shared, missing=True, source=False)
        self.place = None if entries.stream else nn.Parameter(0.5 * torch.randn(entries.size, width))
        self.start = nn.Parameter(torch.zeros(width))
        self.body = Transformer(width, depth, 4, size.c_dim, dropout, rotary=entries.stream)
        self.outlets = Outlets(entries, width)
        order = torch.tensor(entries.order)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("rank", order.argsort(), persistent=False)

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, sum over groups) of every entry."""
        e = self.embed(x, z, observed)[:, self.order[:-1]]
        tokens = torch.cat([self.start.expand(len(x), 1, -1), e], 1)
        h = self.body(tokens if self.place is None else tokens + self.place, c, causal=True)
        return self.outlets(h[:, self.rank])

    def walk(self, rows: int, c: Tensor | None = None) -> TokenWalk:
        """A walk in the canonical order."""
        return TokenWalk(self, rows, c)


class TokenWalk(Walk):
    """Keys and values of all tokens so far."""

    def __init__(self, net: CausalTransformer, rows: int, c: Tensor | None) -> None:
        self.net, self.c, self.t, self.order = net, c, 0, net.order.tolist()
        self.cache, self.past = Cache(len(self.order)), net.start.expand(rows, -1)

    def outputs(self) -> Tensor:
        """Of the next entry, (B, k); to be asked for once."""
        token = self.past if self.net.place is None else self.past + self.net.place[self.t]
        h = self.net.body(token.unsqueeze(1), self.c, causal=True, cache=self.cache)
        return self.net.outlets.one(h[:, 0], self.order[self.t])

    def put(self, x: Tensor, z: Tensor) -> None:
        """Take the next entry as x and z (B,)."""
        self.past = self.net.embed.one(x, z, self.order[self.t])
        self.t += 1

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the cache, in this order."""
        self.past, self.c = self.past[rows], None if self.c is None else self.c[rows]
        self.cache.reorder(rows)
