"""Any-order body: the entries of a row in an order of the row's own, every entry seeing those before it.

    token_t = value(x_{s_{t-1}}) + target(s_t),    h = causal transformer(tokens),    y_{s_t} = W_{s_t} h_t + b_{s_t}

Each token says which entry comes next (Pannatier 2024), so one set of weights serves every order s and one pass gives
all D outputs of that order. Values enter richly: a learnt vector for each code of a short discrete entry, and waves of
several lengths for a number, so that spikes and rules ("this level, hence that number") can be learnt.

References: XLNet (Yang 2019, arXiv:1906.08237); sigma-GPT (Pannatier 2024, arXiv:2404.09562); any-order diffusion
(Hoogeboom 2021, arXiv:2110.02037).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .transformer import Cache, Transformer

WAVES = 8  # wave lengths 8, 4, ..., 1/16 of the entry's spread


def waves(z: Tensor) -> Tensor:
    """Features (..., 2 + 2 WAVES) of standardised numbers z (...)."""
    z = z.double()
    angle = z.unsqueeze(-1) * (2 * math.pi * 2.0 ** torch.arange(-3, WAVES - 3, device=z.device, dtype=z.dtype))
    plain = torch.stack([z.clamp(-8, 8), torch.asinh(4 * z)], -1)
    return torch.cat([plain, angle.sin(), angle.cos()], -1).float()


class PerEntry(nn.Module):
    """A linear map for each of n entries, (B, n, d_in) -> (B, n, d_out); one for all of them where `shared`."""

    def __init__(self, n: int, d_in: int, d_out: int, shared: bool, scale: float = 1.0) -> None:
        super().__init__()
        copies = 1 if shared else n
        self.weight = nn.Parameter(torch.randn(copies, d_in, d_out) * scale / d_in**0.5)
        self.bias = nn.Parameter(torch.zeros(copies, d_out))

    def forward(self, h: Tensor) -> Tensor:
        """Every entry by its own map."""
        if len(self.weight) == 1:
            return h @ self.weight[0] + self.bias[0]
        return torch.baddbmm(self.bias[:, None], h.transpose(0, 1), self.weight).transpose(0, 1)

    def each(self, h: Tensor, entry: Tensor) -> Tensor:
        """Row b by the map of entry[b], (B, d_in) -> (B, d_out)."""
        if len(self.weight) == 1:
            return h @ self.weight[0] + self.bias[0]
        return torch.einsum("bi,bio->bo", h, self.weight[entry]) + self.bias[entry]

    def one(self, h: Tensor, k: int) -> Tensor:
        """Entry k alone, (B, d_in) -> (B, d_out)."""
        k = min(k, len(self.weight) - 1)
        return h @ self.weight[k] + self.bias[k]


class AnyOrder(nn.Module):
    """Rows of D entries and an order each -> the outputs of every entry given those before it.

    Args:
        levels: for each entry the number of codes that get a vector of their own, or 0.
        numeric: for each entry whether its size means something (else its code is only a name).
        groups: (entries, outputs per entry), a partition of the entries; outputs are concatenated in this order.
        width, depth, heads: of the transformer.
        shared: all entries are of one sort (pixels of one picture, say) and share their maps.
        c_dim: size of the condition, 0 for none.
        dropout: probability inside the transformer.
    """

    offset: Tensor
    coded: Tensor
    numbers: Tensor
    slot: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        numeric: Sequence[bool],
        groups: Sequence[tuple[Sequence[int], int]],
        width: int,
        depth: int,
        heads: int = 4,
        shared: bool = False,
        c_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d = len(levels)
        self.size, self.width, self.groups = d, width, [(list(e), k) for e, k in groups]
        self.place = {e: (g, k) for g, (entries, _) in enumerate(self.groups) for k, e in enumerate(entries)}
        sizes = [levels[0]] if shared else list(levels)
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1] + 1  # vector 0 stands for "no code"
        self.register_buffer("offset", starts.expand(d).clone(), persistent=False)
        self.register_buffer("coded", torch.tensor([k > 0 for k in levels]), persistent=False)
        numbers = torch.tensor([j for j in range(d) if numeric[j]], dtype=torch.long)
        slot = torch.full((d,), -1).scatter(0, numbers, torch.arange(len(numbers)))
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("slot", slot, persistent=False)
        self.codes = nn.Embedding(sum(sizes) + 1, width)
        self.values = PerEntry(len(numbers), 2 + 2 * WAVES, width, shared) if len(numbers) else None
        self.source, self.target = (nn.Parameter(0.5 * torch.randn(d, width)) for _ in range(2))
        self.start = nn.Parameter(torch.zeros(width))
        self.body = Transformer(width, depth, heads, c_dim, dropout, rotary=False)
        self.outlets = nn.ModuleList(PerEntry(len(e), width, k, shared, 0.3) for e, k in self.groups)

    def embed(self, x: Tensor, z: Tensor) -> Tensor:
        """Codes x and standardised numbers z, (B, D) each, as vectors (B, D, width)."""
        code = torch.where(self.coded, x.long() + self.offset, torch.zeros_like(self.offset))
        e = self.codes(code) + self.source
        if self.values is None:
            return e
        v = self.values(waves(z[:, self.numbers])).to(e.dtype)
        return e + v if len(self.numbers) == self.size else e.index_add(1, self.numbers, v)

    def embed_one(self, x_i: Tensor, z_i: Tensor, entry: Tensor) -> Tensor:
        """One entry of each row: x_i, z_i and its number `entry`, all (B,), as vectors (B, width)."""
        code = torch.where(self.coded[entry], x_i.long() + self.offset[entry], torch.zeros_like(entry))
        e = self.codes(code) + self.source[entry]
        if self.values is None:
            return e
        slot = self.slot[entry]
        v = self.values.each(waves(z_i), slot.clamp_min(0))
        return e + torch.where(slot[:, None] >= 0, v, torch.zeros_like(v))

    def tokens(self, e: Tensor, order: Tensor) -> Tensor:
        """Vectors e (B, D, width) as the tokens (B, D, width) of orders (B, D)."""
        moved = e.gather(1, order.unsqueeze(-1).expand_as(e))
        past = torch.cat([self.start.expand(len(e), 1, -1), moved[:, :-1]], 1)
        return past + self.target[order]

    def forward(self, x: Tensor, z: Tensor, order: Tensor, c: Tensor | None = None) -> Tensor:
        """Outputs (B, sum over groups) of every entry, from the entries before it in `order` (B, D)."""
        h = self.body(self.tokens(self.embed(x, z), order), c, causal=True)
        h = torch.zeros_like(h).scatter(1, order.unsqueeze(-1).expand_as(h), h)
        parts = [
            outlet(h if len(entries) == self.size else h[:, entries]).flatten(1)
            for outlet, (entries, _) in zip(self.outlets, self.groups, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def head(self, h: Tensor, entry: int) -> Tensor:
        """Outputs (B, k) of one entry from its hidden vector (B, width)."""
        group, k = self.place[entry]
        return cast(PerEntry, self.outlets[group]).one(h, k)


class Walk:
    """Walks through the entries of B rows, each in its own order, with the transformer's cache.

    Args:
        net: the body.
        order: (B, D).
        c: the condition (B, c_dim) or None.
    """

    def __init__(self, net: AnyOrder, order: Tensor, c: Tensor | None = None) -> None:
        self.net, self.order, self.c, self.cache, self.t = net, order, c, Cache(), 0

    def skip(self, x: Tensor, z: Tensor, count: int) -> None:
        """Take the first `count` entries of the order as known from x and z (B, D); only at the start."""
        tokens = self.net.tokens(self.net.embed(x, z), self.order)
        if count:
            self.net.body(tokens[:, :count], self.c, causal=True, cache=self.cache)
        self.t = count

    def hidden(self, x: Tensor, z: Tensor) -> Tensor:
        """The vector (B, width) of the next entry; x and z (B, D) hold what is known so far."""
        if self.t:
            last = self.order[:, self.t - 1 : self.t]
            past = self.net.embed_one(x.gather(1, last)[:, 0], z.gather(1, last)[:, 0], last[:, 0])
        else:
            past = self.net.start.expand(len(self.order), -1)
        token = (past + self.net.target[self.order[:, self.t]]).unsqueeze(1)
        self.t += 1
        return self.net.body(token, self.c, causal=True, cache=self.cache)[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the cache, in this order."""
        self.order, self.c = self.order[rows], None if self.c is None else self.c[rows]
        self.cache.keys = [k[rows] for k in self.cache.keys]
        self.cache.values = [v[rows] for v in self.cache.values]
