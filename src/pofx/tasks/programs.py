"""Programs: what the writer and the reader of a compressed file both run, so that both see the same numbers.

    Walk        entry by entry with a cursor: P(x_i | entries before it) in a range coder
    Codes       the same over z = f(x), where f is a bijection of whole numbers
    Marginals   the same for a model that knows log p of any entries: P(x_i | x_<i) = p(x_<i, x_i) / p(x_<i)

A program walks chunks of one number of rows, the last one padded; for floats computed in another shape differ in their
last bits. An entry that is missing costs its part of the mask, which stands before everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pofx.engines.coder import Reader, Table, Writer, fingerprint
from pofx.kinds.base import Variable
from pofx.kinds.likelihood import Likelihood
from pofx.model import Cursor, Model, Predictive, Quality, Unsupported
from pofx.tasks.coding import Sink, Source, codec, likeliest, on_grid
from pofx.tasks.container import Opened, Words

PROBED, PROBE_ROWS = 16, 4  # entries and rows of the probe
POINTS = 4  # numbers at which an interval's mass is measured
Each = Callable[[int, Predictive], Tensor]


@dataclass(frozen=True)
class Written:
    """What a program wrote.

    Args:
        words: of the coder.
        ideal: -log2 of the probability of all that was told, gaps included: bits.
        initial, growth: of a stack: words before the first row, and see `bitsback.schedule`.
        facts: for the Answer.
    """

    words: Words
    ideal: float
    initial: int = 0
    growth: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Program(ABC):
    """How rows become words and words become rows.

    Args:
        model: fitted.
        given: name -> `(N, *given_event)`.
        chunk: rows that are computed together; a short chunk is padded.
    """

    number: ClassVar[int]  # in the file

    def __init__(self, model: Model, given: Mapping[str, Tensor], chunk: int) -> None:
        self.model, self.given, self.chunk = model, given, chunk

    @abstractmethod
    def probe(self) -> int:
        """A hash of some probabilities: machines that agree here compute the same numbers."""

    @abstractmethod
    def write(self, x: Tensor, observed: Tensor) -> Written:
        """Rows `(N, D)` and which entries are observed, as words."""

    @abstractmethod
    def read(self, file: Opened) -> tuple[Tensor, Tensor]:
        """What `write` was given, float64 `(rows, D)`, and which entries are observed."""

    def told(self, rows: slice) -> dict[str, Tensor] | None:
        """The givens of a chunk, padded."""
        parts = {k: v[rows] for k, v in self.given.items()}
        return {k: padded(v, self.chunk) for k, v in parts.items()} or None


class Walk(Program):
    """Entry by entry, with the model's cursor."""

    number = 0

    def cursor(self, rows: int, given: dict[str, Tensor] | None, observed: Tensor) -> Cursor:
        """A cursor over the entries; a gap is passed at its likeliest value where the model cannot leave it out."""
        return self.model.steps(rows, given)

    def variable(self, entry: int, p: Predictive) -> Variable:
        """What is told at an entry."""
        return self.model.space.variable(entry)

    def chunks(self, rows: int) -> Iterator[slice]:
        """Slices of at most `chunk` rows."""
        return (slice(start, min(rows, start + self.chunk)) for start in range(0, rows, self.chunk))

    def run(self, rows: slice, each: Each, observed: Tensor, entries: int | None = None) -> None:
        """Through the entries: `each(entry, likelihood)` says what stands in the entry, `(chunk,)` float64."""
        cursor = self.cursor(self.chunk, self.told(rows), padded(observed, self.chunk))
        p: Predictive | None = cursor.start()
        for entry in list(cursor.order)[:entries]:
            assert p is not None, "the cursor ended before its order did"
            p = cursor.next(each(entry, p))

    def probe(self) -> int:
        tables: list[Table] = []

        def each(entry: int, p: Predictive) -> Tensor:
            v = self.variable(entry, p)
            tables.append(codec(v).table(p)[:PROBE_ROWS])
            return likeliest(p, v)

        self.run(slice(0, self.chunk), each, torch.ones(1, self.model.space.size, dtype=torch.bool), PROBED)
        return number_of(tables)

    def write(self, x: Tensor, observed: Tensor) -> Written:
        out = Writer()
        write_mask(out, observed)
        for rows in self.chunks(len(x)):
            self._write_rows(out, rows, x[rows], observed[rows])
        return Written(out.words(), out.ideal)

    def _write_rows(self, out: Writer, rows: slice, x: Tensor, observed: Tensor) -> None:
        def each(entry: int, p: Predictive) -> Tensor:
            v, seen = self.variable(entry, p), _seen(observed, entry)
            value = self._blank(p, v, len(seen))
            value[seen] = x[seen, entry].double()
            codec(v).write(out, p, value, seen)
            return value

        self.run(rows, each, observed)

    def read(self, file: Opened) -> tuple[Tensor, Tensor]:
        source, rows = Reader(file.words), file.head.rows
        observed = read_mask(source, rows, file.gaps)
        parts = [self._read_rows(source, some, observed[some]) for some in self.chunks(rows)]
        return torch.cat(parts), observed

    def _read_rows(self, source: Reader, rows: slice, observed: Tensor) -> Tensor:
        x = torch.zeros(self.chunk, observed.shape[1], dtype=torch.float64)

        def each(entry: int, p: Predictive) -> Tensor:
            v, seen = self.variable(entry, p), _seen(observed, entry)
            value = self._blank(p, v, len(seen))
            value[seen] = codec(v).read(source, p, seen)
            x[:, entry] = value
            return value

        self.run(rows, each, observed)
        return x[: len(observed)]

    def _blank(self, p: Predictive, v: Variable, seen: int) -> Tensor:
        """What stands in gaps and padding; both sides know it."""
        return torch.zeros(self.chunk, dtype=torch.float64) if seen == self.chunk else likeliest(p, v)


class Codes(Walk):
    """Over z = f(x), entry by entry, with a model that has `code_steps`; then x is where the cursor came to.

    Raises:
        Unsupported: the model has no such bijection, or an entry is missing.
    """

    number = 3

    def __init__(self, model: Model, given: Mapping[str, Tensor], chunk: int) -> None:
        super().__init__(model, given, chunk)
        if not hasattr(model, "code_steps"):
            raise Unsupported(f"{model.name} is no bijection of whole numbers (integer_flow is)")

    def cursor(self, rows: int, given: dict[str, Tensor] | None, observed: Tensor) -> Cursor:
        self.walked: Cursor = self.model.code_steps(rows, given)
        return self.walked

    def variable(self, entry: int, p: Predictive) -> Variable:
        return p.likelihood.space.variables[0]

    def write(self, x: Tensor, observed: Tensor) -> Written:
        if not bool(observed.all()):
            raise Unsupported(f"{self.model.name}: an entry is missing, and z is a function of them all")
        grid = on_grid(self.model.space, x)
        if not (torch.equal(grid, x.double()) and torch.equal(grid.signbit(), x.double().signbit())):
            raise Unsupported(f"{self.model.name}: a number is no multiple of its column's resolution")
        event, parts = x.reshape(len(x), *self.model.space.shape), []
        for rows in self.chunks(len(x)):
            z = self.model.encode(padded(event[rows], self.chunk), self.told(rows)).mean
            parts.append(z[: len(x[rows])])
        return super().write(torch.cat(parts), observed)

    def _read_rows(self, source: Reader, rows: slice, observed: Tensor) -> Tensor:
        super()._read_rows(source, rows, observed)
        event = self.walked.event()  # type: ignore[attr-defined]
        return on_grid(self.model.space, event.flatten(1))[: len(observed)]


class Marginals(Walk):
    """Entry by entry, by the log p of the entries so far with each value that the next one can have.

    Raises:
        Unsupported: log p of some entries alone is not exact.
    """

    number = 2

    def cursor(self, rows: int, given: dict[str, Tensor] | None, observed: Tensor) -> Cursor:
        return Prefixes(self.model, rows, given, observed)


class Prefixes(Cursor):
    """A cursor over any model whose log p of some entries alone is exact.

    Args:
        model: offers log_prob.
        rows: walked together.
        given: name -> `(rows, *given_event)`.
        observed: `(rows, D)`; what is not is left out.
    """

    def __init__(self, model: Model, rows: int, given: dict[str, Tensor] | None, observed: Tensor) -> None:
        self.model, self.given, self.observed, self.t = model, given or {}, observed, 0
        self.order = list(range(model.space.size))
        self.x = torch.zeros(rows, model.space.size, dtype=torch.float64)

    def start(self) -> Predictive:
        return Predictive(Ratio(self, self.t), torch.arange(len(self.x), dtype=torch.float64).unsqueeze(1))

    def next(self, x_i: Tensor) -> Predictive | None:
        self.x[:, self.t] = x_i.double()
        self.t += 1
        return self.start() if self.t < len(self.order) else None

    def reorder(self, rows: Tensor) -> None:
        self.x, self.observed = self.x[rows], self.observed[rows]
        self.given = {k: v[rows] for k, v in self.given.items()}

    def log_p(self, rows: Tensor, entry: int, value: Tensor) -> Tensor:
        """log p of the entries before one and of its values `(B, K)`, for rows `(B,)`."""
        space, (B, K) = self.model.space, value.shape
        x = self.x[rows].repeat_interleave(K, 0)
        x[:, entry] = value.flatten().double()
        place = torch.arange(space.size)
        known = (self.observed[rows] & (place < entry)) | (place == entry)
        known = known.repeat_interleave(K, 0).reshape(B * K, *space.shape)
        many = {k: v[rows].repeat_interleave(K, 0) for k, v in self.given.items()}
        event = x.to(space.torch_dtype).reshape(B * K, *space.shape)
        found = self.model.log_prob(event, many or None, known, rng=0)
        if found.quality is not Quality.EXACT:
            raise Unsupported(f"{self.model.name}: log p of some entries alone is a {found.quality.value}, not exact")
        return found.value.double().reshape(B, K)


class Ratio(Likelihood):
    """One entry given those before it; the parameters of a row are its number.

    Args:
        walk: where it is asked.
        entry: which.
    """

    def __init__(self, walk: Prefixes, entry: int) -> None:
        self.walk, self.entry, self.variable = walk, entry, walk.model.space.variable(entry)

    def masses(self, params: Tensor, levels: int) -> Tensor:
        rows = params[:, 0].long()
        codes = torch.arange(levels, dtype=torch.float64).expand(len(rows), -1)
        return self.walk.log_p(rows, self.entry, codes).softmax(-1)

    def log_mass(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Up to a factor for each row: the mean mass of some numbers of each interval, times how many it has."""
        step = 1.0 if self.variable.discrete else self.variable.resolution
        count = torch.round((high - low) / step)
        points = min(POINTS, int(count.max()))
        place = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        n = ((low / step + 0.5).round().unsqueeze(-1) + (count.unsqueeze(-1) * place).floor()) * step
        log_p = self.walk.log_p(params[:, 0].long(), self.entry, n.flatten(1)).reshape(*n.shape)
        return torch.logsumexp(log_p, -1) + count.log()

    def mean(self, params: Tensor) -> Tensor:
        """A number that both sides know, `(B, 1)`: the column's mean."""
        return torch.full((len(params), 1), self.variable.mean, dtype=torch.float64)


def padded(rows: Tensor, count: int) -> Tensor:
    """Rows `(n, ...)` and copies of the last one, `(count, ...)`."""
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])


def number_of(tables: list[Table]) -> int:
    """64 bits of the hash of tables."""
    return int(fingerprint(tables)[:16], 16)


def write_mask(out: Sink, observed: Tensor) -> None:
    """Which entries are missing, column by column, where any is."""
    for entry in (~observed).any(0).nonzero()[:, 0].tolist():
        gaps = (~observed[:, entry]).numpy().astype(np.int32)
        out.put(gaps, _share(int(gaps.sum()), len(observed)))


def mask_bits(observed: Tensor) -> float:
    """How many bits `write_mask` takes."""
    out = Writer()
    write_mask(out, observed)
    return out.ideal


def read_mask(source: Source, rows: int, gaps: Any) -> Tensor:
    """Which entries are observed, `(rows, D)`, where each entry has so many gaps."""
    observed = torch.ones(rows, len(gaps), dtype=torch.bool)
    for entry in gaps.nonzero()[0]:
        observed[:, entry] = torch.from_numpy(source.take(_share(int(gaps[entry]), rows)) == 0)
    return observed


def _share(gaps: int, rows: int) -> Table:
    p = gaps / rows
    return np.tile(np.array([[1 - p, p]], np.float32), (rows, 1))


def _seen(observed: Tensor, entry: int) -> Any:
    return observed[:, entry].numpy().nonzero()[0]
