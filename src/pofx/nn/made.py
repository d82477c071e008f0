"""MADE: a masked perceptron; the hidden units are shared out among the entries, and each looks back only.

    h_0 = W x,      h_{l+1} = h_l + W_2 silu(W_1 silu(h_l)),      y = V silu(h_L) + U x,      weights masked by degree

A unit of degree m sees the entries of rank <= m. So once entry t is known, the units of degree t are final in every
layer and no other unit has changed: `MADEWalk` computes just those, and a whole x costs one `forward`.

References: MADE (Germain 2015, arXiv:1502.03509); ResMADE (Nash 2019, arXiv:1904.05626).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .entries import Causal, Entries, Size, Walk, features
from .masked import MaskedBlock, MaskedMLP
from .mlp import Modulation

SHORT = 512  # a discrete entry with at most this many levels is told as one of K


class MADE(Causal):
    """A residual masked perceptron over the features of all entries."""

    source: Tensor
    target: Tensor

    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__(entries, size)
        width, depth, dropout, _ = size.over(width=512 if entries.size > 64 else 256, depth=2, dropout=0.1)
        self.entries, self.kinds = entries, self._kinds(entries)
        told = [0] * entries.size
        for (levels, _), inside in self.kinds.items():
            for e in inside:
                told[e] = _told(torch.zeros(1, 1), torch.zeros(1, 1), levels, None).shape[-1]
        wanted = [0] * entries.size
        for inside, k in entries.groups:
            for e in inside:
                wanted[e] = k
        self.net = MaskedMLP(told, wanted, width, depth, entries.order, size.c_dim, dropout)
        by_kind = [e for inside in self.kinds.values() for e in inside]
        by_group = [e for inside, _ in entries.groups for e in inside]
        self.register_buffer("source", _places(by_kind, told, range(entries.size)), persistent=False)
        self.register_buffer("target", _places(range(entries.size), wanted, by_group), persistent=False)
        self.sizes = told

    @staticmethod
    def _kinds(entries: Entries) -> dict[tuple[int, bool], list[int]]:
        """Entries that are told alike."""
        kinds: dict[tuple[int, bool], list[int]] = {}
        for e, (levels, numeric) in enumerate(zip(entries.levels, entries.numeric, strict=True)):
            kinds.setdefault((levels if levels <= SHORT else 0, numeric), []).append(e)
        return kinds

    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, sum over groups) of every entry."""
        parts = []
        for (levels, _), inside in self.kinds.items():
            whole = len(inside) == self.entries.size
            a, b, seen = (t if t is None or whole else t[:, inside] for t in (x, z, observed))
            assert a is not None and b is not None
            parts.append(_told(a, b, levels, seen).flatten(1).to(self.net.inlet.weight.dtype))
        told = parts[0] if len(parts) == 1 else torch.cat(parts, 1)[:, self.source]
        y = self.net(told, c)
        return y if len(self.entries.groups) == 1 else y[:, self.target]

    def walk(self, rows: int, c: Tensor | None = None) -> MADEWalk:
        """A walk in the canonical order."""
        return MADEWalk(self, rows, c)


def _told(x: Tensor, z: Tensor, levels: int, observed: Tensor | None) -> Tensor:
    return features(x, z, levels, observed, rich=True)


def _places(order: list[int] | range, sizes: list[int], wanted: list[int] | range) -> Tensor:
    """Where the numbers of each wanted entry are, in a vector that holds `sizes` numbers an entry in this order."""
    start, place = {}, 0
    for e in order:
        start[e] = place
        place += sizes[e]
    return torch.tensor([start[e] + k for e in wanted for k in range(sizes[e])], dtype=torch.long)


class MADEWalk(Walk):
    """Keeps every hidden layer, of which each entry makes a few more units final."""

    def __init__(self, body: MADE, rows: int, c: Tensor | None) -> None:
        net = body.net
        self.body, self.net, self.t, self.final = body, net, -1, 0
        self.order, self.degree = list(body.entries.order), net.degree.tolist()
        new, width = net.inlet.weight.new_zeros, len(self.degree)
        self.x = new(rows, net.inlet.weight.shape[1])
        self.starts = torch.tensor([0, *body.sizes]).cumsum(0).tolist()
        self.outs = torch.tensor([0, *net.sizes_out]).cumsum(0).tolist()
        self.inlet, self.outlet = net.inlet.masked, net.outlet.masked
        self.direct = None if net.direct is None else net.direct.masked
        self.blocks = [(b, b.first.masked, b.second.masked) for b in cast(list[MaskedBlock], list(net.blocks))]
        self.h = net.inlet.bias.expand(rows, -1).clone()
        self.units = [new(rows, width) for _ in range(2 * len(self.blocks) + 1)]  # after each curve
        self.affine = [_affine(b.modulate, c) for b, _, _ in self.blocks] + [_affine(net.modulate, c)]
        self._advance()

    def _advance(self) -> None:
        """Make the units of degree t final, in every layer."""
        start, end = self.final, self.final
        while end < len(self.degree) and self.degree[end] <= self.t:
            end += 1
        self.t, self.final, new = self.t + 1, end, slice(start, end)
        if start == end:
            return
        h = self.h[:, new]
        for k, (block, first, second) in enumerate(self.blocks):
            a, b = self.units[2 * k], self.units[2 * k + 1]
            a[:, new] = F.silu(_modulated(h, self.affine[k], new))
            b[:, new] = F.silu(F.linear(a[:, :end], first[new, :end], block.first.bias[new]))
            h = h + F.linear(b[:, :end], second[new, :end], block.second.bias[new])
        self.units[-1][:, new] = F.silu(_modulated(h, self.affine[-1], new))

    def outputs(self) -> Tensor:
        """Of the next entry, (B, k)."""
        entry = self.order[self.t]
        rows = slice(self.outs[entry], self.outs[entry + 1])
        y = F.linear(self.units[-1][:, : self.final], self.outlet[rows, : self.final], self.net.outlet.bias[rows])
        if self.direct is None or self.net.direct is None:
            return y
        return y + F.linear(self.x, self.direct[rows], self.net.direct.bias[rows])

    def put(self, x: Tensor, z: Tensor) -> None:
        """Take the next entry as x and z (B,)."""
        entry = self.order[self.t]
        columns = slice(self.starts[entry], self.starts[entry + 1])
        levels = self.body.entries.levels[entry]
        told = _told(x, z, levels if levels <= SHORT else 0, None).to(self.x.dtype)
        self.x[:, columns] = told
        self.h[:, self.final :] += F.linear(told, self.inlet[self.final :, columns])
        self._advance()

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""
        self.x, self.h, self.units = self.x[rows], self.h[rows], [u[rows] for u in self.units]
        self.affine = [None if a is None else (a[0][rows], a[1][rows]) for a in self.affine]


def _affine(modulate: Modulation, c: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if c is None or modulate.affine is None:
        return None
    scale, shift = modulate.affine(c).chunk(2, -1)
    return scale, shift


def _modulated(h: Tensor, affine: tuple[Tensor, Tensor] | None, units: slice) -> Tensor:
    return h if affine is None else h * (1 + affine[0][:, units]) + affine[1][:, units]
