"""Coder: symbols and their probability tables to bytes, and back, within a fraction of a percent of the entropy.

    length = sum_i -log2 P_i(s_i) + a few bits            P_i: any table over 0 .. K_i - 1, known to both sides

A range coder (first in, first out) serves a model that is walked entry by entry; a stack (last in, first out) serves
bits-back, which takes bits out before it puts bits in. Tables are quantised to 24 bits, the same on both sides where
the floats are the same to the last bit; no symbol has probability 0. The coding itself is constriction's.

References: range coding (Martin 1979); ANS (Duda 2013, arXiv:1311.2540); constriction (Bamler 2022, arXiv:2201.01741).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 16  # bits of a raw symbol
Symbols = NDArray[np.int32]
Table = NDArray[np.float32]


def _family() -> Any:
    import constriction

    # the exact quantisation is 270 times slower and saves 0.02 %
    return constriction.stream.model.Categorical(perfect=False)


def _uniform() -> Any:
    import constriction

    return constriction.stream.model.Uniform(1 << WORD)


class Writer:
    """Symbols in, words out: first in, first out."""

    def __init__(self) -> None:
        import constriction

        self.coder: Any = constriction.stream.queue.RangeEncoder()
        self.ideal = 0.0  # -log2 of the probability of all that was put

    def put(self, symbols: Symbols, table: Table) -> None:
        """Symbols (N,) with their probabilities (N, K)."""
        if len(symbols):
            table = np.ascontiguousarray(table, np.float32)
            self.coder.encode(np.ascontiguousarray(symbols, np.int32), _family(), table)
            self.ideal += _bits(symbols, table)

    def put_raw(self, values: NDArray[Any]) -> None:
        """Numbers of 64 bits (N,), as they are."""
        words = np.ascontiguousarray(values).view(np.uint16).astype(np.int32)
        if len(words):
            self.coder.encode(words, _uniform())
            self.ideal += WORD * len(words)

    @property
    def bits(self) -> int:
        """What has been written so far."""
        return int(self.coder.num_bits())

    def words(self) -> NDArray[np.uint32]:
        """Everything written."""
        return self.coder.get_compressed()


class Reader:
    """Words in, symbols out, in the order in which they were put."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        import constriction

        self.coder: Any = constriction.stream.queue.RangeDecoder(words)

    def take(self, table: Table) -> Symbols:
        """The next symbols (N,) under their probabilities (N, K)."""
        if not len(table):
            return np.zeros(0, np.int32)
        return self.coder.decode(_family(), np.ascontiguousarray(table, np.float32))

    def take_raw(self, count: int, dtype: Any) -> NDArray[Any]:
        """The next numbers of 64 bits (N,)."""
        if not count:
            return np.zeros(0, dtype)
        return self.coder.decode(_uniform(), count * (64 // WORD)).astype(np.uint16).view(dtype)

    @property
    def exhausted(self) -> bool:
        """Whether all words were used: False after the last symbol means that the words are not what was written."""
        return bool(self.coder.maybe_exhausted())


class Stack:
    """Symbols in and out, last in, first out: what was put since the last `flush` comes out first, in its order.

    Args:
        words: of a stack that was written before; they must not end in 0.
    """

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        import constriction

        stack = constriction.stream.stack.AnsCoder
        self.coder: Any = stack() if words is None or not len(words) else stack(np.ascontiguousarray(words, np.uint32))
        self.waiting: list[tuple[Symbols, Table | None]] = []
        self.put_bits, self.taken_bits = 0.0, 0.0  # -log2 of the probability of all that was put, and taken

    def put(self, symbols: Symbols, table: Table) -> None:
        """Symbols (N,) with their probabilities (N, K); they reach the stack with the next `flush`."""
        if len(symbols):
            pair = np.ascontiguousarray(symbols, np.int32), np.ascontiguousarray(table, np.float32)
            self.waiting.append(pair)
            self.put_bits += _bits(*pair)

    def put_raw(self, values: NDArray[Any]) -> None:
        """Numbers of 64 bits (N,), as they are."""
        words = np.ascontiguousarray(values).view(np.uint16).astype(np.int32)
        if len(words):
            self.waiting.append((words, None))
            self.put_bits += WORD * len(words)

    def flush(self) -> None:
        """Push what waits, so that it is taken in the order in which it was put."""
        for symbols, table in reversed(self.waiting):
            if table is None:
                self.coder.encode_reverse(symbols, _uniform())
            else:
                self.coder.encode_reverse(symbols, _family(), table)
        self.waiting = []

    def take(self, table: Table) -> Symbols:
        """The next symbols (N,) under their probabilities (N, K)."""
        if not len(table):
            return np.zeros(0, np.int32)
        table = np.ascontiguousarray(table, np.float32)
        symbols = self.coder.decode(_family(), table)
        self.taken_bits += _bits(symbols, table)
        return symbols

    def take_raw(self, count: int, dtype: Any) -> NDArray[Any]:
        """The next numbers of 64 bits (N,)."""
        if not count:
            return np.zeros(0, dtype)
        self.taken_bits += WORD * count * (64 // WORD)
        return self.coder.decode(_uniform(), count * (64 // WORD)).astype(np.uint16).view(dtype)

    @property
    def bits(self) -> int:
        """What is on the stack."""
        return int(self.coder.num_valid_bits())

    def words(self) -> NDArray[np.uint32]:
        """Everything on the stack."""
        return self.coder.get_compressed()


def _bits(symbols: Symbols, table: Table) -> float:
    mass = table[np.arange(len(symbols)), symbols] / table.sum(1)
    return -float(np.log2(np.maximum(mass, 2.0**-24)).sum())


def fingerprint(tables: list[Table]) -> str:
    """A hash of tables to the last bit, by which two machines know whether they compute the same numbers."""
    found = hashlib.sha256()
    for table in tables:
        found.update(repr(table.shape).encode() + np.ascontiguousarray(table, np.float32).tobytes())
    return found.hexdigest()
