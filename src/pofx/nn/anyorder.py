"""Any-order body: the entries of a row in an order of the row's own, every entry seeing those before it.

    token_t = value(x_{s_{t-1}}) + target(s_t),    h = causal transformer(tokens),    y_{s_t} = W_{s_t} h_t + b_{s_t}

Each token says which entry comes next (Pannatier 2024), so one set of weights serves every order s and one pass gives
all D outputs of that order.

References: XLNet (Yang 2019, arXiv:1906.08237); sigma-GPT (Pannatier 2024, arXiv:2404.09562); any-order diffusion
(Hoogeboom 2021, arXiv:2110.02037).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .entries import Causal, Embedding, Entries, Outlets, Size, Walk
from .transformer import Cache, Transformer

SHORT = 512  # a discrete entry with at most this many levels has a vector for each of them


class AnyOrder(Causal):
    """Rows of D entries and an order each -> the outputs of every entry given those before it.

    Missing entries come last in a row's order, so that nothing that is used sees them.
    """

    free = True

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        self.width, depth, dropout, _ = size.over(width=64, depth=3, dropout=0.1)
        d = entries.size
        short = [k if k <= SHORT else 0 for k in entries.levels]
        self.embed = Embedding(short, entries.numeric, self.width, entries.shared)
        self.target = nn.Parameter(0.5 * torch.randn(d, self.width))
        self.start = nn.Parameter(torch.zeros(self.width))
        self.body = Transformer(self.width, depth, 4, size.c_dim, dropout, rotary=False)
        self.outlets = Outlets(entries, self.width)
        self.register_buffer("canonical", torch.tensor(entries.order), persistent=False)

    canonical: Tensor

    def tokens(self, e: Tensor, order: Tensor) -> Tensor:
        """Vectors e (B, D, width) as the tokens (B, D, width) of orders (B, D)."""
        moved = e.gather(1, order.unsqueeze(-1).expand_as(e))
        past = torch.cat([self.start.expand(len(e), 1, -1), moved[:, :-1]], 1)
        return past + self.target[order]

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, sum over groups) of every entry, from the entries before it in its row's order."""
        order = self.canonical.expand(len(x), -1) if order is None else order
        h = self.body(self.tokens(self.embed(x, z), order), c, causal=True)
        return self.outlets(torch.zeros_like(h).scatter(1, order.unsqueeze(-1).expand_as(h), h))

    def walk(self, rows: int, c: Tensor | None = None) -> AnyWalk:
        """A walk in the canonical order."""
        return AnyWalk(self, self.canonical.expand(rows, -1), c)


class AnyWalk(Walk):
    """Walks through the entries of B rows, each in its own order, with the transformer's cache.

    Args:
        net: the body.
        order: (B, D).
        c: the condition (B, c_dim) or None.
    """

    def __init__(self, net: AnyOrder, order: Tensor, c: Tensor | None = None) -> None:
        self.net, self.order, self.c, self.t = net, order, c, 0
        self.cache = Cache(order.shape[1])
        self.past = net.start.expand(len(order), -1)

    def skip(self, x: Tensor, z: Tensor, count: int) -> None:
        """Take the first `count` entries of each order as known from x and z (B, D); only at the start."""
        if count:
            e = self.net.embed(x, z)
            self.net.body(self.net.tokens(e, self.order)[:, :count], self.c, causal=True, cache=self.cache)
            self.past = e.gather(1, self.order[:, count - 1, None, None].expand(-1, 1, e.shape[2]))[:, 0]
        self.t = count

    def hidden(self) -> Tensor:
        """The vector (B, width) of the next entry of each row; to be asked for once."""
        token = (self.past + self.net.target[self.order[:, self.t]]).unsqueeze(1)
        return self.net.body(token, self.c, causal=True, cache=self.cache)[:, 0]

    def outputs(self) -> Tensor:
        """Of the next entry, which all rows must share."""
        return self.net.outlets.one(self.hidden(), int(self.order[0, self.t]))

    def put(self, x: Tensor, z: Tensor) -> None:
        """Take the next entry of each row as x and z (B,)."""
        self.past = self.net.embed.each(x, z, self.order[:, self.t])
        self.t += 1

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the cache, in this order."""
        self.order, self.past, self.c = self.order[rows], self.past[rows], None if self.c is None else self.c[rows]
        self.cache.reorder(rows)
