"""Coding one entry: a predictive distribution as tables of probabilities over digits.

    few codes     one table over the codes
    many codes,   n = round(x / r) inside a window, written in digits of base K: P(digit | digits before) is the mass of
    or reals      its interval; outside the window an escape symbol, and the number itself in 64 bits

Reals have a resolution r, to which both sides round; a number that is not a multiple of r to the last bit is escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.engines.coder import Reader, Table, Writer
from pofx.kinds.base import Variable
from pofx.model import Predictive, Unsupported

BASE = 512  # symbols of one digit
WIDE = 1024  # codes up to which one table serves
REACH = 24.0  # the window, in standard deviations each way


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
        return _normalised(p.log_codes(self.levels))

    def write(self, out: Writer, p: Predictive, x: Tensor, rows: NDArray[np.intp]) -> None:
        """Put the entry x (B,) of some rows."""
        out.put(x.long().numpy()[rows].astype(np.int32), self.table(p)[rows])

    def read(self, source: Reader, p: Predictive, rows: NDArray[np.intp]) -> Tensor:
        """Take the entry of some rows, float64 (len(rows),)."""
        return torch.from_numpy(source.take(self.table(p)[rows]).astype(np.float64))


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

    def write(self, out: Writer, p: Predictive, x: Tensor, rows: NDArray[np.intp]) -> None:
        """Put the entry x (B,) of some rows."""
        value = x.double().numpy()[rows]
        n = np.rint(np.nan_to_num(value / self.step)).astype(np.int64)
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

    def read(self, source: Reader, p: Predictive, rows: NDArray[np.intp]) -> Tensor:
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
        size = BASE**place
        edges = start[:, None] + self.first + size * np.arange(BASE + 1)
        edge = torch.from_numpy((edges - 0.5) * self.step)
        return _normalised(p.take(torch.from_numpy(rows)).log_mass(edge[:, :-1], edge[:, 1:]))


def likeliest(p: Predictive, v: Variable) -> Tensor:
    """A value for an entry that is missing, which both sides know: it costs nothing."""
    if v.discrete and v.levels <= WIDE:
        return torch.from_numpy(Codes(v.levels).table(p).argmax(1).astype(np.float64))
    mean, step = p.mean().reshape(len(p.params)), 1.0 if v.discrete else v.resolution
    return torch.round(mean / step) * step


def _normalised(log_p: Tensor) -> Table:
    """Rows of log masses as probabilities; a row without mass is uniform."""
    log_p = torch.nan_to_num(log_p.double(), nan=-1e4, neginf=-1e4)
    return log_p.softmax(-1).float().numpy()


def _escapes(rows: int) -> Table:
    return np.tile(np.array([[1 - 2.0**-16, 2.0**-16]], np.float32), (rows, 1))
