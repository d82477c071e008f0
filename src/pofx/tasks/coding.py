"""Coding one entry: a predictive distribution as tables of probabilities over digits.

    few codes     one table over the codes
    many codes,   n = round(x / r) inside a window, written in digits of base K: P(digit | digits before) is the mass of
    or reals      its interval; outside the window an escape symbol, and the number itself in 64 bits

    latents       k = floor(2^16 Phi(z)), the bins of equal mass under N(0, 1), in two digits of 8 bits, by q(z | x)

Reals have a resolution r, to which both sides round; a number that is not a multiple of r to the last bit is escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.engines.coder import Symbols, Table
from pofx.kinds.base import Space, Variable
from pofx.model import Predictive, Unsupported

BASE = 32  # symbols of one digit: tables of five short digits are computed ten times faster than of two long ones
WIDE = 1024  # codes up to which one table serves
REACH = 24.0  # the window, in standard deviations each way
FINE = 256  # latent bins in a digit, two digits in all
LATENT_BITS = 16  # of a latent's place among its bins
TINY = 1e-30  # a share far below what 24 bits hold
BLOCK = 1 << 21  # numbers in a table that is computed at once


class Sink(Protocol):
    """What takes symbols and numbers of 64 bits."""

    def put(self, symbols: Symbols, table: Table) -> None: ...
    def put_raw(self, values: NDArray[np.float64]) -> None: ...


class Source(Protocol):
    """What gives them back, in the order in which they were put."""

    def take(self, table: Table) -> Symbols: ...
    def take_raw(self, count: int, dtype: type) -> NDArray[np.float64]: ...


def codec(v: Variable) -> Codes | Digits:
    """How entries of a variable are written.

    Raises:
        Unsupported: a real number without a resolution has no probability, so no length in bits.
    """
    if v.discrete and v.levels <= WIDE:
        return Codes(v.levels)
    if not v.discrete and not v.resolution:
        raise Unsupported(f"{v.name}: a real column without a resolution cannot be coded; round it, and fit again")
    return Digits.of(v)


@dataclass(frozen=True)
class Codes:
    """One symbol: the code itself."""

    levels: int

    def table(self, p: Predictive) -> Table:
        """P(code) of every row, (B, K)."""
        rows = max(1, BLOCK // self.levels)
        if len(p.params) <= rows:
            return _filled(p.masses(self.levels))
        parts = torch.arange(len(p.params)).split(rows)
        return np.concatenate([_filled(p.take(part).masses(self.levels)) for part in parts])

    def write(self, out: Sink, p: Predictive, x: Tensor, rows: NDArray[np.intp]) -> None:
        """Put the entry x (B,) of some rows."""
        if len(rows):
            out.put(x.long().numpy()[rows].astype(np.int32), self.table(_some(p, rows)))

    def read(self, source: Source, p: Predictive, rows: NDArray[np.intp]) -> Tensor:
        """Take the entry of some rows, float64 (len(rows),)."""
        if not len(rows):
            return torch.zeros(0, dtype=torch.float64)
        return torch.from_numpy(source.take(self.table(_some(p, rows))).astype(np.float64))


@dataclass(frozen=True)
class Digits:
    """Several symbols: the digits of round(x / step) - first, most significant first; the last symbol escapes."""

    step: float
    first: int
    digits: int

    @classmethod
    def of(cls, v: Variable) -> Digits:
        """The window of a variable."""
        step = 1.0 if v.discrete else v.resolution
        low = max(v.mean - REACH * v.scale, -math.inf if v.low is None else v.low)
        high = min(v.mean + REACH * v.scale, math.inf if v.high is None else v.high)
        if v.discrete:
            low, high = 0.0, v.levels - 1.0
        first, last = round(low / step), round(high / step)
        return cls(step, first, max(1, math.ceil(math.log(last - first + 1, BASE) - 1e-9)))

    def number(self, n: NDArray[np.int64]) -> NDArray[np.float64]:
        """The multiple of the step that n stands for: n / 10, not n * 0.1, which is another float."""
        whole = round(1 / self.step) if self.step < 1 else 0
        return np.divide(n, whole) if whole and abs(whole * self.step - 1) < 1e-9 else np.multiply(n, self.step)

    def write(self, out: Sink, p: Predictive, x: Tensor, rows: NDArray[np.intp]) -> None:
        """Put the entry x (B,) of some rows."""
        value = x.double().numpy()[rows]
        most = self.step * 2.0**62  # further out is outside of every window
        n = np.rint(np.clip(value, -most, most) / self.step).astype(np.int64)
        k = n - self.first
        again = self.number(n)
        fits = (again == value) & (np.signbit(again) == np.signbit(value)) & (k >= 0) & (k < BASE**self.digits)
        escape = (~fits).astype(np.int32)
        out.put(escape, _escapes(len(rows)))
        out.put_raw(value[~fits])
        start, rows, k = np.zeros(int(fits.sum()), np.int64), rows[fits], k[fits]
        for place in reversed(range(self.digits)):
            digit = k // BASE**place % BASE
            out.put(digit.astype(np.int32), self._table(p, rows, start, place))
            start = start + digit * BASE**place

    def read(self, source: Source, p: Predictive, rows: NDArray[np.intp]) -> Tensor:
        """Take the entry of some rows, float64 (len(rows),)."""
        escaped = source.take(_escapes(len(rows))) == 1
        value = np.zeros(len(rows))
        value[escaped] = source.take_raw(int(escaped.sum()), np.float64)
        start, rows = np.zeros(int((~escaped).sum()), np.int64), rows[~escaped]
        for place in reversed(range(self.digits)):
            start = start + source.take(self._table(p, rows, start, place)).astype(np.int64) * BASE**place
        value[~escaped] = self.number(start + self.first)
        return torch.from_numpy(value)

    def table(self, p: Predictive) -> Table:
        """P(first digit) of every row, by which a probe knows the numbers of a machine."""
        rows = np.arange(len(p.params))
        return self._table(p, rows, np.zeros(len(rows), np.int64), self.digits - 1)

    def _table(self, p: Predictive, rows: NDArray[np.intp], start: NDArray[np.int64], place: int) -> Table:
        """P(digit at a place | those before), (len(rows), BASE)."""
        if not len(rows):
            return np.zeros((0, BASE), np.float32)
        size = BASE**place
        edges = start[:, None] + self.first + size * np.arange(BASE + 1)
        edge = torch.from_numpy((edges - 0.5) * self.step)
        return shares(p.take(torch.from_numpy(rows)).log_mass(edge[:, :-1], edge[:, 1:]))


def on_grid(space: Space, x: Tensor) -> Tensor:
    """Rows `(N, D)` float64, every number with a resolution at its nearest multiple, as a table holds it."""
    columns = []
    for i in range(space.size):
        v, column = space.variable(i), x[:, i].double()
        if not v.discrete and v.resolution:
            n = np.rint(column.numpy() / v.resolution).astype(np.int64)
            column = torch.from_numpy(Digits.of(v).number(n))
        columns.append(column)
    return torch.stack(columns, 1)


def likeliest(p: Predictive, v: Variable) -> Tensor:
    """A value for an entry that is missing, which both sides know: it costs nothing."""
    if v.discrete and v.levels <= WIDE:
        return torch.from_numpy(Codes(v.levels).table(p).argmax(1).astype(np.float64))
    mean, step = p.mean().reshape(len(p.params)), 1.0 if v.discrete else v.resolution
    return torch.round(mean / step) * step


@dataclass(frozen=True)
class Bins:
    """A real latent under the prior N(0, 1): the number of its bin of equal mass, told by a normal q."""

    def value(self, k: NDArray[np.int64]) -> Tensor:
        """The median of bins, float64 of the same shape."""
        return torch.special.ndtri((torch.from_numpy(k).double() + 0.5) / FINE**2)

    def write(self, out: Sink, k: NDArray[np.int64], mean: Tensor, spread: Tensor) -> None:
        """Put bins k (N,) under N(mean, spread), float64 (N,) each."""
        coarse = k // FINE
        out.put(coarse.astype(np.int32), self._table(mean, spread, None))
        out.put((k % FINE).astype(np.int32), self._table(mean, spread, coarse))

    def read(self, source: Source, mean: Tensor, spread: Tensor) -> NDArray[np.int64]:
        """Take bins (N,)."""
        coarse = source.take(self._table(mean, spread, None)).astype(np.int64)
        return coarse * FINE + source.take(self._table(mean, spread, coarse))

    def _table(self, mean: Tensor, spread: Tensor, coarse: NDArray[np.int64] | None) -> Table:
        place = torch.arange(FINE + 1, dtype=torch.float64)
        share = (
            place / FINE
            if coarse is None
            else (torch.from_numpy(coarse).double().unsqueeze(1) * FINE + place) / FINE**2
        )
        below = (torch.special.ndtri(share) - mean.unsqueeze(1)) / spread.unsqueeze(1)
        # on the side of the smaller tail, where a difference of two masses near 1 would be lost
        sign = torch.where(below[:, :1] > 0, -1.0, 1.0)
        mass = torch.special.ndtr(sign * below).diff(dim=1).abs()
        return shares(mass.log())


def shares(log_p: Tensor) -> Table:
    """Rows (N, K) of log masses as probabilities; a row without mass is uniform."""
    return torch.nan_to_num(log_p, nan=-1e4, neginf=-1e4).softmax(-1).float().numpy()


def _some(p: Predictive, rows: NDArray[np.intp]) -> Predictive:
    return p if len(rows) == len(p.params) else p.take(torch.from_numpy(rows))


def _filled(mass: Tensor) -> Table:
    """Rows of masses as a table; a row without mass is uniform."""
    return torch.nan_to_num(mass, nan=1.0).float().add_(TINY).numpy()


def _escapes(rows: int) -> Table:
    return np.tile(np.array([[1 - 2.0**-16, 2.0**-16]], np.float32), (rows, 1))
