"""NADE: one hidden layer whose sum grows by one entry at a time.

    a_1 = b + c,      a_{t+1} = a_t + W_{s_t}(x_{s_t}),      h_t = sigmoid(a_t),      y_{s_t} = V_{s_t} h_t + b_{s_t}

W(x) is a vector for each code of a short discrete entry, and linear in waves of several lengths for a number. The sums
of all entries are one cumulative sum; one entry after the other, a is the whole memory.

References: NADE (Larochelle 2011, JMLR W&CP 15; Uria 2016, arXiv:1605.02226).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .entries import Causal, Embedding, Entries, Outlets, Size, Walk
from .mlp import check_condition

SHORT = 512  # a discrete entry with at most this many levels has a vector for each of them


class NADE(Causal):
    """One hidden layer of `width` units."""

    order: Tensor
    rank: Tensor

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        if size.depth not in (None, 1):
            raise ValueError(f"depth: got {size.depth}; nade has one hidden layer, so pass depth=1 or None.")
        width, _, dropout, _ = size.over(width=512, depth=1, dropout=0.1)
        self.c_dim = size.c_dim
        short = [k if k <= SHORT else 0 for k in entries.levels]
        numeric = [n and not k for n, k in zip(entries.numeric, short, strict=True)]  # a code tells all there is
        scale = max(entries.size, 4) ** -0.5
        self.embed = Embedding(short, numeric, width, missing=True, source=False, scale=scale)
        self.bias = nn.Parameter(0.1 * torch.randn(width))
        self.drop = nn.Dropout(dropout)
        self.condition = nn.Linear(size.c_dim, width) if size.c_dim else None
        self.outlets = Outlets(replaced(entries), width)
        order = torch.tensor(entries.order)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("rank", order.argsort(), persistent=False)

    def start(self, rows: int, c: Tensor | None) -> Tensor:
        """a of the first entry, (B, width)."""
        if c is None or self.condition is None:
            if c is not None:
                check_condition(c, self.c_dim)
            return self.bias.expand(rows, -1)
        return self.bias + self.condition(c)

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, sum over groups) of every entry."""
        e = self.embed(x, z, observed)[:, self.order[:-1]]
        a = torch.cat([self.start(len(x), c).unsqueeze(1), e], 1).cumsum(1)
        return self.outlets(self.drop(torch.sigmoid(a))[:, self.rank])

    def walk(self, rows: int, c: Tensor | None = None) -> NADEWalk:
        """A walk in the canonical order."""
        return NADEWalk(self, self.start(rows, c))


def replaced(entries: Entries) -> Entries:
    """The same entries, each with maps of its own: where an entry stands is all that tells it from the others."""
    return Entries(entries.shape, entries.levels, entries.numeric, entries.groups, False, entries.order)


class NADEWalk(Walk):
    """a, and nothing else."""

    def __init__(self, net: NADE, a: Tensor) -> None:
        self.net, self.a, self.t, self.order = net, a, 0, net.order.tolist()

    def outputs(self) -> Tensor:
        """Of the next entry, (B, k)."""
        return self.net.outlets.one(torch.sigmoid(self.a), self.order[self.t])

    def put(self, x: Tensor, z: Tensor) -> None:
        """Take the next entry as x and z (B,)."""
        self.a = self.a + self.net.embed.one(x, z, self.order[self.t])
        self.t += 1

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.a = self.a[rows]
