"""Entries: what a causal body is told of one x, and the two ways in which every causal body answers.

    forward    y_{s_t} = f(x_{s_1}, ..., x_{s_{t-1}}, c)      all entries of a known x at once
    walk       the same numbers one entry after the other, from a cache, while x is being made

`Causal` is the protocol: a body is one class that fills `forward` and `walk`, and one line in bodies.py. `Embedding`
and `features` are what bodies make of the entries: a learnt vector for each code of a short discrete entry and waves of
several lengths for a number, so that spikes and rules ("this level, hence that number") can be learnt.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVES = 8  # wave lengths 8, 4, ..., 1/16 of the entry's spread
ONE_OF = 32  # an ordinal with at most this many levels is told as one of K, too, and a longer one by hats


@dataclass(frozen=True)
class Entries:
    """What a body is told of one x.

    Args:
        shape: of the event; (H, W, C) for a picture.
        levels: for each entry the number of codes, or 0.
        numeric: for each entry whether its size means something (else its code is only a name).
        groups: (entries, outputs per entry), a partition of the entries; outputs are concatenated in this order.
        shared: all entries are of one sort (pixels of one picture, say) and share their maps.
        order: the canonical order of the entries.
        stream: where an entry stands says nothing by itself (text), so that positions are relative.
        pixel: outputs for a whole pixel at once in place of `groups`; 0 for outputs by entry.
        mean, scale: by which a shared variable was standardised.
        pitches: how many codes are pitches, a semitone apart; the codes after them are names.
        pad: the code after the end of a sequence, -1 where there is none.
    """

    shape: tuple[int, ...]
    levels: tuple[int, ...]
    numeric: tuple[bool, ...]
    groups: tuple[tuple[tuple[int, ...], int], ...]
    shared: bool
    order: tuple[int, ...]
    stream: bool = False
    pixel: int = 0
    mean: float = 0.0
    scale: float = 1.0
    pitches: int = 0
    pad: int = -1

    @property
    def size(self) -> int:
        """D, the number of entries."""
        return len(self.levels)


@dataclass(frozen=True)
class Size:
    """How big a body is; None leaves it to the body. kernel: of its convolutions; c_dim: of the condition, 0: none."""

    width: int | None = None
    depth: int | None = None
    kernel: int | None = None
    dropout: float | None = None
    c_dim: int = 0

    def over(self, width: int, depth: int, dropout: float, kernel: int = 3) -> tuple[int, int, float, int]:
        """(width, depth, dropout, kernel), with these where nothing was asked for."""
        return (
            width if self.width is None else self.width,
            depth if self.depth is None else self.depth,
            dropout if self.dropout is None else self.dropout,
            kernel if self.kernel is None else self.kernel,
        )


class Walk(ABC):
    """Goes through the entries of B rows in order, keeping what the body has computed."""

    @abstractmethod
    def outputs(self) -> Tensor:
        """What `forward` gives for the next entry, (B, k); of its whole pixel, where outputs are by pixel."""

    @abstractmethod
    def put(self, x: Tensor, z: Tensor) -> None:
        """Take that entry as known, x and z (B,), and go on to the one after it."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of everything that is remembered, in this order."""


class Causal(nn.Module, ABC):
    """A body that computes each entry's outputs from the entries before it."""

    grid: ClassVar[bool] = False  # it reads pictures (H, W, C) in raster order and nothing else
    free: ClassVar[bool] = False  # `forward` takes an order for each row, and `missing` needs no input

    @abstractmethod
    def __init__(self, entries: Entries, size: Size) -> None:
        super().__init__()

    @abstractmethod
    def forward(
        self, x: Tensor, z: Tensor, c: Tensor | None = None, observed: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, sum over groups) of every entry.

        Args:
            x: the entries as stored (codes or numbers), (B, D).
            z: the same, standardised.
            c: the condition (B, c_dim) or None.
            observed: bool (B, D); what is missing enters as such and x there is ignored. None: all is known.
            order: of each row, (B, D), where the body is `free`; None: the canonical one.
        """

    @abstractmethod
    def walk(self, rows: int, c: Tensor | None = None) -> Walk:
        """A walk in the canonical order for this many rows."""


def waves(z: Tensor) -> Tensor:
    """Features (..., 2 + 2 WAVES) of standardised numbers z (...)."""
    z = z.double()
    angle = z.unsqueeze(-1) * (2 * math.pi * 2.0 ** torch.arange(-3, WAVES - 3, device=z.device, dtype=z.dtype))
    plain = torch.stack([z.clamp(-8, 8), torch.asinh(4 * z)], -1)
    return torch.cat([plain, angle.sin(), angle.cos()], -1).float()


def hats(x: Tensor, levels: int) -> Tensor:
    """Codes (...) by the two knots beside them, (..., knots) that sum to 1: linear splines are products with these.

    Knots stand 0, 1, 2, 4, ... from both ends, where pictures have their spikes: black is not nearly black.
    """
    far = [0.0, *(2.0**k for k in range(int(math.log2(levels - 1))))]
    knots = torch.tensor(sorted({*far, *(levels - 1 - f for f in far)}), device=x.device)
    x = x.float().clamp(0, levels - 1).contiguous()
    right = torch.bucketize(x, knots, right=True).clamp_max(len(knots) - 1)
    share = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).unsqueeze(-1)
    left, right = F.one_hot(right - 1, len(knots)), F.one_hot(right, len(knots))
    return left * (1 - share) + right * share


def features(x: Tensor, z: Tensor, levels: int, observed: Tensor | None = None, rich: bool = False) -> Tensor:
    """Entries of one sort (...) as features (..., F): standardised, one of K (hats where K is large), missing.

    `rich` entries are told as waves where they are numbers, and as one of K however large K is.
    """
    number = z.float().unsqueeze(-1) if levels or not rich else waves(z)
    parts = [number, torch.zeros_like(number[..., :1])]
    if levels > 2:
        one = rich or levels <= ONE_OF
        parts.insert(1, (F.one_hot(x.long().clamp(0, levels - 1), levels) if one else hats(x, levels)).to(number.dtype))
    told = torch.cat(parts, -1)
    if observed is None:
        return told
    missing = torch.zeros_like(told)
    missing[..., -1] = 1.0
    return torch.where(observed.unsqueeze(-1), told, missing)


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
        return torch.addmm(self.bias[k], h, self.weight[k])


class Outlets(nn.Module):
    """Vectors (B, D, width) to the outputs of every entry, group by group."""

    def __init__(self, entries: Entries, width: int) -> None:
        super().__init__()
        self.size, self.groups = entries.size, [(list(e), k) for e, k in entries.groups]
        self.place = {e: (g, k) for g, (inside, _) in enumerate(self.groups) for k, e in enumerate(inside)}
        maps = [PerEntry(len(e), width, k, entries.shared, 0.3) for e, k in self.groups]
        self.maps = nn.ModuleList(maps)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, D, width), in the entries' own numbering -> (B, sum over groups)."""
        parts = [
            outlet(h if len(inside) == self.size else h[:, inside]).flatten(1)
            for outlet, (inside, _) in zip(self.maps, self.groups, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def one(self, h: Tensor, entry: int) -> Tensor:
        """Outputs (B, k) of one entry from its vector (B, width)."""
        group, k = self.place[entry]
        outlet = self.maps[group]
        assert isinstance(outlet, PerEntry)
        return outlet.one(h, k)


class Embedding(nn.Module):
    """Entries as vectors (B, D, width).

    Args:
        levels: for each entry the number of codes that get a vector of their own, or 0.
        numeric: for each entry whether its size means something (else its code is only a name).
        width: of the vectors.
        shared: the entries share their maps, and differ by where they stand.
        missing: there is a vector for what is missing.
        source: each entry adds a vector of its own.
        scale: of the vectors at the start.
    """

    offset: Tensor
    coded: Tensor
    numbers: Tensor
    slot: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        numeric: Sequence[bool],
        width: int,
        shared: bool = False,
        missing: bool = False,
        source: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        d = len(levels)
        self.size = d
        sizes = [levels[0]] if shared else list(levels)
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1] + 1  # vector 0 stands for "no code"
        self.register_buffer("offset", starts.expand(d).clone(), persistent=False)
        self.register_buffer("coded", torch.tensor([k > 0 for k in levels]), persistent=False)
        numbers = torch.tensor([j for j in range(d) if numeric[j]], dtype=torch.long)
        slot = torch.full((d,), -1).scatter(0, numbers, torch.arange(len(numbers)))
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("slot", slot, persistent=False)
        self.gone = sum(sizes) + 1 if missing else 0
        self.codes = nn.Embedding(sum(sizes) + 1 + missing, width)
        self.values = PerEntry(len(numbers), 2 + 2 * WAVES, width, shared, scale) if len(numbers) else None
        self.source = nn.Parameter(0.5 * scale * torch.randn(d, width)) if source else None
        if scale != 1.0:
            with torch.no_grad():
                self.codes.weight.mul_(scale)

    def forward(self, x: Tensor, z: Tensor, observed: Tensor | None = None) -> Tensor:
        """x and standardised z (B, D) -> (B, D, width)."""
        code = torch.where(self.coded, x.long() + self.offset, torch.zeros_like(self.offset))
        if observed is not None:
            code = torch.where(observed, code, torch.full_like(code, self.gone))
        e = self.codes(code)
        e = e if self.source is None else e + self.source
        if self.values is None:
            return e
        v = self.values(waves(z[:, self.numbers]).to(self.codes.weight.dtype)).to(e.dtype)
        if observed is not None:
            v = torch.where(observed[:, self.numbers].unsqueeze(-1), v, torch.zeros_like(v))
        return e + v if len(self.numbers) == self.size else e.index_add(1, self.numbers, v)

    def one(self, x: Tensor, z: Tensor, entry: int) -> Tensor:
        """One entry of all rows, x and z (B,) -> (B, width)."""
        return self.each(x, z, torch.full((len(x),), entry, device=x.device))

    def each(self, x: Tensor, z: Tensor, entry: Tensor) -> Tensor:
        """Entry[b] of row b, all (B,) -> (B, width)."""
        code = torch.where(self.coded[entry], x.long() + self.offset[entry], torch.zeros_like(entry))
        e = self.codes(code)
        e = e if self.source is None else e + self.source[entry]
        if self.values is None:
            return e
        slot = self.slot[entry]
        v = self.values.each(waves(z).to(self.codes.weight.dtype), slot.clamp_min(0)).to(e.dtype)
        return e + torch.where(slot[:, None] >= 0, v, torch.zeros_like(v))
