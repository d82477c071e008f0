"""Bits back: rows told through latent numbers, whose choice among the plausible ones is paid back.

    take z ~ q(z | x) from the stack,   put x under p(x | z),   put z under p(z)
    net bits = sum of -log2 p(x | z) - log2 p(z) + log2 q(z | x)          in expectation, minus the ELBO

The reader runs backwards: it takes z, takes x, and puts z under q(z | x), so that the stack is what the writer found.
Real latents live on the 2^16 bins of equal mass under N(0, 1); coins and codes as they are. q is known by its mean and
variance (its own law, where it is diagonal). A stack must hold something before it can give: chunks of 1, 1, 2, 4, ...
rows (fewer, where a row leaves less than it takes) need no more initial bits than the first one takes; these are words
that are always the same.

References: BB-ANS, Townsend 2019 (arXiv:1901.04866); Bit-Swap, Kingma 2019 (arXiv:1905.06845).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.engines.coder import Stack, Table
from pofx.kinds.base import Space
from pofx.model import Given, Model, Predictive, Unsupported
from pofx.tasks.coding import LATENT_BITS, Bins, codec, shares
from pofx.tasks.container import Opened, initial_words
from pofx.tasks.programs import PROBE_ROWS, Program, Written, number_of, padded, read_mask, write_mask

Latent = NDArray[np.int64]
SURE = 0.01  # nats by which log p(z) may differ from the law by which z is coded
WORD = 32
FULL = 16  # growth with which chunks double
NARROW = 1e-5  # spread below which q is a point: 2^-16 is the mass of a bin


class BitsBack(Program):
    """Rows through the latents of a model with encode and decode.

    Raises:
        Unsupported: what is decoded has no log p, or the latents have no law that can be coded number by number.
    """

    number = 1

    def __init__(self, model: Model, given: Mapping[str, Tensor], chunk: int) -> None:
        super().__init__(model, given, chunk)
        q, z = self._posterior(self._typical(), self.told(slice(0, chunk)))
        self.law: Normal | Discrete = law_of(model, q, z, self.told(slice(0, chunk)))
        p = self._decoded(self.law.typical(q), self.told(slice(0, chunk)))
        p.log_prob(self._typical())  # refuses where what is decoded is a point

    def probe(self) -> int:
        told = self.told(slice(0, self.chunk))
        q, _ = self._posterior(self._typical(), told)
        tables = self.law.tables(q)
        p = self._decoded(self.law.typical(q), told)
        size = self.model.space.size
        for entry in sorted({0, size // 2, size - 1}):
            one = p.entry(entry).take(torch.arange(min(PROBE_ROWS, self.chunk)))
            tables.append(codec(self.model.space.variable(entry)).table(one))
        return number_of(tables)

    def write(self, x: Tensor, observed: Tensor) -> Written:
        initial, growth = self.law.bits(1) // WORD + 4, FULL
        while True:
            stack = Stack(initial_words(initial))
            if self._write_all(stack, x, observed, growth):
                net = stack.put_bits - stack.taken_bits
                facts = {"initial bits": WORD * initial, "net bits": net, "net bits per dimension": net / x.numel()}
                return Written(stack.words(), net, initial, growth, facts)
            # smaller chunks cost passes through the network, more words cost bits
            initial, growth = (initial, growth // 2) if growth > 1 else (2 * initial, 1)

    def _write_all(self, stack: Stack, x: Tensor, observed: Tensor, growth: int) -> bool:
        """Whether there were bits enough on the stack at every chunk."""
        for rows in schedule(len(x), self.chunk, growth):
            if not self._write_rows(stack, rows, x[rows], observed[rows]):
                return False
        write_mask(stack, observed)
        stack.flush()
        return True

    def _write_rows(self, stack: Stack, rows: slice, x: Tensor, observed: Tensor) -> bool:
        told, n = self.told(rows), len(x)
        q, _ = self._posterior(self._shown(x, observed), told)
        k = self.law.take(stack, q, n)
        if stack.bits < 2 * WORD:
            return False
        p = self._decoded(_padded(k, self.chunk), told)
        self.law.put(stack, k)
        for v, entries, part, seen in self._parts(p, observed):
            value = torch.zeros(len(part.params), dtype=torch.float64)
            value[: n * len(entries)] = x[:, entries].double().flatten()
            codec(v).write(stack, part, value, seen)
        stack.flush()
        return True

    def read(self, file: Opened) -> tuple[Tensor, Tensor]:
        stack, rows = Stack(file.words), file.head.rows
        observed = read_mask(stack, rows, file.gaps)
        x = torch.zeros(rows, self.model.space.size, dtype=torch.float64)
        for some in reversed(schedule(rows, self.chunk, file.head.growth)):
            x[some] = self._read_rows(stack, some, observed[some])
        if not np.array_equal(stack.words(), initial_words(file.head.initial)):
            raise ValueError("decompress: the words do not end where they began; the givens, or the model, differ.")
        return x, observed

    def _read_rows(self, stack: Stack, rows: slice, observed: Tensor) -> Tensor:
        told, n = self.told(rows), len(observed)
        k = self.law.read(stack, n)
        p = self._decoded(_padded(k, self.chunk), told)
        x = torch.zeros(n, self.model.space.size, dtype=torch.float64)
        for v, entries, part, seen in self._parts(p, observed):
            value = torch.zeros(n * len(entries), dtype=torch.float64)
            value[seen] = codec(v).read(stack, part, seen)
            x[:, entries] = value.reshape(n, -1)
        q, _ = self._posterior(self._shown(x, observed), told)
        self.law.give(stack, q, k)
        stack.flush()
        return x

    def _parts(self, p: Predictive, observed: Tensor) -> list[tuple[Any, list[int], Predictive, Any]]:
        """Entries that are coded together: their variable, numbers, law (rows by entries), and which are observed."""
        space, n = self.model.space, len(observed)
        groups = [list(range(space.size))] if space.shared else [[i] for i in range(space.size)]
        parts = []
        for entries in groups:
            one = p.likelihood.alone(entries[0])
            params = p.params[:n] if space.shared else p.likelihood.part(p.params[:n], entries[0])
            part = Predictive(one, params.reshape(n * len(entries), -1))
            parts.append(
                (space.variable(entries[0]), entries, part, observed[:, entries].flatten().numpy().nonzero()[0])
            )
        return parts

    def _posterior(self, x: Tensor, told: Given | None) -> tuple[Moments, Tensor]:
        found = self.model.encode(x, told)
        return Moments.of(found, self.model.name), found.mean

    def _decoded(self, k: Latent, told: Given | None) -> Predictive:
        return self.model.decode(self.law.value(k), told)

    def _typical(self) -> Tensor:
        """Rows that both sides know, `(chunk, *event)`: every entry at its mean."""
        return self._shown(torch.zeros(1, self.model.space.size), torch.zeros(1, self.model.space.size) > 0)

    def _shown(self, x: Tensor, observed: Tensor) -> Tensor:
        """Rows `(n, D)` as the encoder sees them, `(chunk, *event)`: a gap holds the mean of its column."""
        space = self.model.space
        means = torch.tensor([_middle(space, i) for i in range(space.size)], dtype=torch.float64)
        full = torch.where(observed, x.double(), means)
        return padded(full, self.chunk).to(space.torch_dtype).reshape(self.chunk, *space.shape)


@dataclass(frozen=True)
class Moments:
    """What is known of q(z | x): mean and spread `(B, L)` float64, whether z are codes, and whether q is a point."""

    mean: Tensor
    spread: Tensor
    discrete: bool
    point: bool
    shape: tuple[int, ...]

    @classmethod
    def of(cls, q: torch.distributions.Distribution, name: str) -> Moments:
        """Of a posterior of one batch axis.

        Raises:
            Unsupported: it is a point among real numbers.
        """
        mean, spread = (t.double().flatten(1) for t in (q.mean, q.variance.clamp_min(0).sqrt()))
        discrete, point = bool(q.support.is_discrete), bool((spread < NARROW).all())  # type: ignore[union-attr]
        if point and not discrete:
            raise Unsupported(f"{name}: q(z | x) is a point among real numbers, so there are no bits to have back")
        return cls(mean, spread.clamp_min(1e-9), discrete, point, tuple(q.mean.shape[1:]))


class Normal:
    """Latents under N(0, I)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.L, self.bins = shape, int(np.prod(shape)), Bins()

    def bits(self, rows: int) -> int:
        """What the latents of so many rows take at most, about."""
        return rows * self.L * (LATENT_BITS + 2)

    def value(self, k: Latent) -> Tensor:
        """z `(B, *latent)` of their bins `(B, L)`."""
        return self.bins.value(k).float().reshape(-1, *self.shape)

    def typical(self, q: Moments) -> Latent:
        """Bins that both sides know."""
        return np.full(tuple(q.mean.shape), 2 ** (LATENT_BITS - 1), np.int64)

    def tables(self, q: Moments) -> list[Table]:
        """Tables of q for a probe."""
        return [q.mean[:PROBE_ROWS].numpy().astype(np.float32), q.spread[:PROBE_ROWS].numpy().astype(np.float32)]

    def take(self, stack: Stack, q: Moments, rows: int) -> Latent:
        """Bins (rows, L) by q."""
        return self.bins.read(stack, *(t[:rows].flatten() for t in (q.mean, q.spread))).reshape(rows, -1)

    def give(self, stack: Stack, q: Moments, k: Latent) -> None:
        """Put bins by q."""
        self.bins.write(stack, k.flatten(), *(t[: len(k)].flatten() for t in (q.mean, q.spread)))

    def put(self, stack: Stack, k: Latent) -> None:
        """Put bins under the prior."""
        for digit in (k.flatten() // 256, k.flatten() % 256):
            stack.put(digit.astype(np.int32), _uniform(k.size))

    def read(self, stack: Stack, rows: int) -> Latent:
        """Take bins (rows, L) under the prior."""
        first = stack.take(_uniform(rows * self.L)).astype(np.int64)
        return (first * 256 + stack.take(_uniform(rows * self.L))).reshape(rows, -1)


class Discrete:
    """Codes with a law of their own at each place; a point q gives and takes nothing.

    Args:
        shape: of the codes of one row.
        log_p: (L, K).
        point: whether q is sure.
    """

    def __init__(self, shape: tuple[int, ...], log_p: Tensor, point: bool) -> None:
        self.shape, self.table, self.point = shape, shares(log_p), point

    def bits(self, rows: int) -> int:
        """What the codes of so many rows take at most, about."""
        return 0 if self.point else rows * self.table.shape[0] * 12

    def value(self, k: Latent) -> Tensor:
        """z `(B, *latent)` of codes `(B, L)`: coins are real numbers to a decoder, codes whole ones."""
        z = torch.from_numpy(k).reshape(-1, *self.shape)
        return z if self.point else z.float()

    def typical(self, q: Moments) -> Latent:
        """Codes that both sides know."""
        return np.zeros(tuple(q.mean.shape), np.int64)

    def tables(self, q: Moments) -> list[Table]:
        """Tables of q for a probe."""
        return [q.mean[:PROBE_ROWS].numpy().astype(np.float32)]

    def take(self, stack: Stack, q: Moments, rows: int) -> Latent:
        """Codes (rows, L) by q."""
        if self.point:
            return q.mean[:rows].round().long().numpy()
        return stack.take(_coins(q.mean[:rows])).astype(np.int64).reshape(rows, -1)

    def give(self, stack: Stack, q: Moments, k: Latent) -> None:
        """Put codes by q."""
        if not self.point:
            stack.put(k.flatten().astype(np.int32), _coins(q.mean[: len(k)]))

    def put(self, stack: Stack, k: Latent) -> None:
        """Put codes under the prior."""
        stack.put(k.flatten().astype(np.int32), np.tile(self.table, (len(k), 1)))

    def read(self, stack: Stack, rows: int) -> Latent:
        """Take codes (rows, L) under the prior."""
        return stack.take(np.tile(self.table, (rows, 1))).astype(np.int64).reshape(rows, -1)


def law_of(model: Model, q: Moments, z: Tensor, told: Given | None) -> Normal | Discrete:
    """The law of the latents, read off `log_code` and checked against it.

    Raises:
        Unsupported: the latents are neither N(0, I) nor independent codes, or depend on what is given.
    """
    base = torch.zeros_like(z)
    if q.discrete:
        log_p = _log_shares(model, q, z, told)
        guess = log_p.gather(1, z.flatten(1).round().long().T).sum(0) if q.point else log_p[:, 1].sum().expand(len(z))
        base_p, other = log_p[:, 0].sum(), z if q.point else torch.ones_like(z)
    else:
        base_p, other = torch.zeros(()), torch.linspace(-2, 2, z.numel()).reshape(z.shape).to(z)
        guess = -0.5 * other.double().square().flatten(1).sum(1)
    found = (model.log_code(other, told) - model.log_code(base, told)).double()
    if bool(((guess - base_p - found).abs() > SURE + 1e-4 * found.abs()).any()):
        raise Unsupported(f"{model.name}: its latents have a joint law that cannot be coded number by number")
    return Discrete(q.shape, log_p, q.point) if q.discrete else Normal(q.shape)


def _log_shares(model: Model, q: Moments, z: Tensor, told: Given | None) -> Tensor:
    """log P of each code at each place, (L, K)."""
    L, K = int(np.prod(q.shape)), 2 if not q.point else _levels(model)
    one = {name: v[:1].expand(L, *v.shape[1:]) for name, v in (told or {}).items()} or None
    columns = []
    for code in range(K):
        rows = torch.zeros(L, L, dtype=z.dtype)
        rows.fill_diagonal_(code)
        columns.append(model.log_code(rows.reshape(L, *q.shape), one).double())
    return torch.stack(columns, 1).log_softmax(1)


def _levels(model: Model) -> int:
    space: Space | None = getattr(model, "latent_space", None)
    if space is None or not space.variables[0].discrete:
        raise Unsupported(f"{model.name}: how many codes a latent can have is not known (it has no latent_space)")
    return space.variables[0].levels


def schedule(rows: int, chunk: int, growth: int = FULL) -> list[slice]:
    """Chunks of growth / 16 of the rows before them (1, 1, 2, 4, ...), at least 1 and at most `chunk`.

    A chunk takes what the rows before it left on the stack; a row may leave less than the next one takes.
    """
    slices, start = [], 0
    while start < rows:
        size = min(max(1, start * growth // FULL), chunk, rows - start)
        slices.append(slice(start, start + size))
        start += size
    return slices


def _middle(space: Space, entry: int) -> float:
    v = space.variable(entry)
    if v.discrete:
        return float(min(max(round(v.mean), 0), v.levels - 1))
    return v.mean


def _padded(k: Latent, count: int) -> Latent:
    return np.concatenate([k, np.repeat(k[-1:], count - len(k), 0)])


def _coins(p: Tensor) -> Table:
    flat = p.flatten().numpy()
    return np.stack([1 - flat, flat], 1).astype(np.float32)


def _uniform(rows: int) -> Table:
    return np.full((rows, 256), 1 / 256, np.float32)
