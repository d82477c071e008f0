"""N-gram: every entry given the few entries nearest to it, by counting.

    log p(x | c) = sum_t log P(x_t | x_{a(t, 1)}, ..., x_{a(t, n - 1)}, c)

a(t, 1), a(t, 2), ... are the entries before t from the nearest on: the last symbols of a sequence, the last columns of
a table, the pixels above and to the left of a pixel. Longer contexts are interpolated with shorter ones
(engines/ngrams.py), so whatever was never seen still has a probability. A sequence or a picture has one table for all
its places, a table has one for each column. Columns of numbers are binned by their quantiles (engines/histogram.py) and
keep a density, or a mass at their resolution, inside the bin.

Offers sample, log_prob (exact; of gaps where the observed entries come first) and, where all entries are codes, steps.
Fitted in closed form, by counting. A given category counts apart; rows are counted without it, too, for when it is
not given. A missing entry is not counted, and ends the contexts that reach it.

References: Shannon 1948; Chen and Goodman 1999; templates of pixels as in JBIG (ITU-T T.82, 1993).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.data import Batch, Data
from pofx.engines.histogram import Histogram
from pofx.engines.ngrams import FIELDS, SMOOTHINGS, Events, Level, NGrams, joined
from pofx.kinds.ending import Ending
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Cursor, Given, Model, Predictive, Quality, Report, Rng, Unsupported, Value

BLOCK = 2**20  # events that are asked about at once
HELD_OUT = 0.1  # of the rows, for the weights of Jelinek and Mercer


class NGram(Model):
    """Smoothed n-grams.

    Args:
        order: n, 1 + the entries that a context has; None: 5 for sequences, 3 for tables, 18 for pictures of two levels
            and 5 for others.
        smoothing: "kneser-ney", "witten-bell" or "jelinek-mercer".
        neighbours: of a pixel: "near" by distance, or "raster", the last n - 1 in reading order.
        bins: of a column of numbers, at most.
    """

    card = Card(
        density="exact, fast",
        sampling="fast: one entry after the other, each a look into a table",
        training="counting",
        latents="none",
        architecture="tables of counts",
        branch=("explicit", "tractable", "autoregressive"),
        incomplete="counts what is observed; a missing entry ends a context",
        summary="the chain rule with a short memory: how often was this seen after that?",
        reference="Shannon 1948; Chen and Goodman 1999",
    )

    def __init__(
        self,
        *,
        order: int | None = None,
        smoothing: str = "kneser-ney",
        neighbours: str = "near",
        bins: int = 20,
    ) -> None:
        super().__init__()
        if order is not None and order < 1:
            raise ValueError(f"ngram: order is {order}; expected 1 (no context) or more, or None.")
        if smoothing not in SMOOTHINGS:
            raise ValueError(f"ngram: smoothing is {smoothing!r}; expected one of {', '.join(SMOOTHINGS)}.")
        if neighbours not in ("near", "raster"):
            raise ValueError(f"ngram: neighbours is {neighbours!r}; expected 'near' or 'raster'.")
        if bins < 2:
            raise ValueError(f"ngram: bins is {bins}; expected 2 or more.")
        self.order, self.smoothing, self.neighbours, self.bins = order, smoothing, neighbours, bins

    def _build(self) -> None:
        space, d = self.space, self.space.size
        self.label = self._label()
        self.pooled = space.shared and space.layout in ("sequence", "grid")
        self.numbers = [i for i in range(d) if not space.variable(i).discrete]
        if self.numbers and self.pooled:
            raise Unsupported(
                f"ngram: it counts codes, and {space.layout} data of real numbers would need one histogram for all "
                "places; give integer levels (a picture of bytes), or another family."
            )
        levels = [space.variable(i).levels if space.variable(i).discrete else self.bins for i in range(d)]
        self.symbols, self.ending = max(levels), Ending.of(space)
        if self.ending is not None:
            levels = [self.ending.pad] * d  # PAD, the last code, follows END and is never counted
        self.channels = space.shape[2] if self.pooled and len(space.shape) == 3 else 1
        length = min(self._order(), d) if not self.pooled else self._order()
        before = [self._before(t, length - 1) for t in range(d)]
        self.register_buffer("before", torch.tensor(before, dtype=torch.long).reshape(d, length - 1), persistent=False)
        self.register_buffer("options", torch.tensor(levels))
        self.register_buffer("edges", torch.full((d, self.bins - 1), math.inf, dtype=torch.float64))
        self.register_buffer("tails", torch.ones(d, 2, dtype=torch.float64))
        self.table = NGrams(self.symbols, length, self.smoothing)
        for k in range(length):
            for name in FIELDS:
                kind = torch.int64 if name in FIELDS[:2] else torch.float64
                self.register_buffer(f"{name}_{k}", torch.zeros(0, dtype=kind))

    def _label(self) -> str | None:
        fits = all(s.shape == () and s.discrete for s in self.given.values())
        if not fits or len(self.given) > 1:
            raise Unsupported(f"ngram: it can be given one category; got {sorted(self.given)}.")
        return next(iter(self.given), None)

    def _order(self) -> int:
        if self.order is not None:
            return self.order
        if self.space.layout == "sequence":
            return 5
        return 3 if not self.pooled else 18 if self.space.variable(0).levels == 2 else 5

    def _before(self, t: int, count: int) -> list[int]:
        """The entries that the context of entry t has, nearest first; -1 for outside."""
        if not self.pooled or len(self.space.shape) != 3 or self.neighbours == "raster":
            return [t - k if t >= k else -1 for k in range(1, count + 1)]
        height, wide, channels = self.space.shape
        i, j, c = t // (wide * channels), t // channels % wide, t % channels
        return [
            ((i - a) * wide + j - b) * channels + e if i - a >= 0 and 0 <= j - b < wide else -1
            for a, b, e in _template(c, channels, count)
        ]

    def offers(self) -> frozenset[str]:
        return frozenset({"sample", "log_prob"} | ({"steps"} if self.space.discrete else set()))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name, buffer in list(self.named_buffers(recurse=False)):
            saved = state.get(prefix + name)  # how many contexts there are is only known from the file
            if saved is not None and saved.shape != buffer.shape:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        self._bin(train)
        order = rng.permutation(len(train))
        held_out = max(1, int(HELD_OUT * len(train)))
        seen, rest = self._tally(train.take(order[:held_out])), self._tally(train.take(order[held_out:]))
        if not len(seen.target) + len(rest.target):
            raise Unsupported("ngram: every entry is missing; there is nothing to count.")
        self.table.fit(rest, seen)
        for k, level in enumerate(self.table.levels):
            for name in FIELDS:
                setattr(self, f"{name}_{k}", getattr(level, name))
        self.table.levels = []
        part = data.part("valid") if len(data.split.get("valid", ())) else train
        some = part.take(torch.arange(min(len(part), 1000)))
        log_p = self._per_entry(some.x, some.given, some.observed)
        report({"step": 1, "loss": -float(log_p.sum(1).mean())})

    def _tally(self, batch: Batch) -> Events:
        """The different events of some rows and how often they were; with the label and all together without it."""
        parts = []
        for rows in torch.arange(len(batch)).split(max(1, BLOCK // self.space.size)):
            some = batch.take(rows)
            parts.append(self._events(some)[0].packed(self.symbols))
            if self.label is not None:
                parts.append(self._events(Batch(some.x, {}, some.observed))[0].packed(self.symbols))
        return joined(parts or [self._events(batch)[0]], self.symbols)

    def _bin(self, train: Batch) -> None:
        """Find the bins of every column of numbers."""
        x = train.x.flatten(1).double()
        for i in self.numbers:
            v = self.space.variable(i)
            seen = slice(None) if train.observed is None else train.observed.flatten(1)[:, i]
            low, high = _ends(v.low, v.resolution, -math.inf), math.inf
            if v.support == "bounded":
                assert v.high is not None
                high = v.high + v.resolution / 2
            found = Histogram.fitted(x[seen, i], self.bins, low, high, v.resolution, v.scale)
            self.edges[i, : len(found.edges)], self.tails[i] = found.edges, found.tails
            self.edges[i, len(found.edges) :] = math.inf
            self.options[i] = found.bins

    def _histogram(self, i: int) -> Histogram:
        v = self.space.variable(i)
        edges = self.edges[i][torch.isfinite(self.edges[i])]
        high = math.inf if v.support != "bounded" or v.high is None else v.high + v.resolution / 2
        return Histogram(edges, self.tails[i], _ends(v.low, v.resolution, -math.inf), high, v.resolution)

    def _codes(self, x: Tensor) -> Tensor:
        """Entries (B, D) as symbols."""
        codes = x.flatten(1).long() if not self.numbers else torch.nan_to_num(x.flatten(1)).long()
        for i in self.numbers:
            codes[:, i] = self._histogram(i).code(x.flatten(1)[:, i])
        return codes

    def _counted(self) -> NGrams:
        """The table, with the tensors of this module."""
        count = self.table.order
        self.table.levels = [Level(*(getattr(self, f"{name}_{k}") for name in FIELDS)) for k in range(count)]
        return self.table

    def _roots(self, given: Given, rows: int) -> Tensor:
        """What the shortest context knows, (B, D): the place or the channel, and the label."""
        d = self.space.size
        place = torch.arange(d, device=self.device)
        place = place % self.channels if self.pooled else place
        if self.label is None:
            return place.expand(rows, -1)
        levels = self.given[self.label].variables[0].levels
        if self.label in given:
            return place + d * given[self.label].long()[:, None]
        return (place + d * levels).expand(rows, -1)

    def _contexts(self, codes: Tensor, seen: Tensor | None) -> Tensor:
        """The symbols of every context, (B, D, n - 1)."""
        symbols = codes if seen is None else codes.masked_fill(~seen, -1)
        padded = torch.cat([symbols, torch.full_like(symbols[:, :1], self.symbols)], 1)  # -1 is the last: outside
        return padded[:, self.before]

    def _events(self, batch: Batch) -> tuple[Events, Tensor, Tensor]:
        """Every observed entry as an event, its place and its row."""
        codes, rows = self._codes(batch.x), len(batch)
        seen = None if batch.observed is None else batch.observed.flatten(1)
        context, root = self._contexts(codes, seen), self._roots(batch.given, rows)
        kept = torch.ones_like(codes, dtype=torch.bool) if seen is None else seen
        kept = kept if self.ending is None else kept & ~self.ending.after(codes)
        row, place = kept.nonzero().unbind(1)
        return Events(root[row, place], context[row, place], codes[row, place]), place, row

    # asking
    def _per_entry(self, x: Tensor, given: Given, seen: Tensor | None) -> Tensor:
        """log p of every entry, (B, D); 0 where it is missing."""
        log_p = torch.zeros(len(x), self.space.size, dtype=torch.float64, device=x.device)
        flat = x.flatten(1).double()
        for rows in torch.arange(len(x), device=x.device).split(max(1, BLOCK // self.space.size)):
            mask = None if seen is None else seen.reshape(len(x), -1)[rows]
            events, place, row = self._events(Batch(x[rows], {k: v[rows] for k, v in given.items()}, mask))
            valid = (events.target >= 0) & (events.target < self.options[place])
            events = Events(events.root, events.context, events.target.clamp(0, self.symbols - 1))
            found = self._counted().log_prob(events, self.options[place]).masked_fill(~valid, -torch.inf)
            log_p[rows[row], place] = found
        if self.ending is not None:
            wrong = self.ending.after(x.flatten(1)) & (x.flatten(1) != self.ending.pad)
            log_p = log_p.masked_fill(wrong if seen is None else wrong & seen.flatten(1), -torch.inf)
        for i in self.numbers:
            inside = self._histogram(i).log_inside(flat[:, i])
            log_p[:, i] += inside if seen is None else torch.where(seen.reshape(len(x), -1)[:, i], inside, 0.0)
        return log_p

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        mask = None if observed is None else observed.flatten(1)
        if mask is not None and not bool((mask.int().diff(dim=1) <= 0).all()):
            raise Unsupported("ngram: the observed part has a log_prob only where it comes before all that is missing.")
        return Value(self._per_entry(x, given, mask).sum(1), Quality.EXACT)

    def _masses(self, codes: Tensor, root: Tensor, t: int) -> Tensor:
        """log P of every symbol of entry t after codes (B, D), of which those before t are known: (B, options)."""
        places = self.before[t]
        context = torch.where(places >= 0, codes[:, places.clamp_min(0)], self.symbols)
        masses = self._counted().log_masses(root[:, t], context, int(self.options[t]))
        if self.ending is None:
            return masses
        last = codes[:, t - 1] if t else torch.zeros_like(codes[:, 0])
        after = (last == self.ending.end) | (last == self.ending.pad) if t else torch.zeros_like(last, dtype=torch.bool)
        return self.ending.masses(torch.cat([masses, torch.full_like(masses[:, :1], -torch.inf)], 1), after)

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        codes = torch.zeros(count, self.space.size, dtype=torch.long, device=self.device)
        root = self._roots(given, count)
        for t in range(self.space.size):
            codes[:, t] = rng.categorical(self._masses(codes, root, t))
        x = codes.to(self.space.torch_dtype)
        for i in self.numbers:
            x[:, i] = self._histogram(i).sample(codes[:, i], rng).to(x.dtype)
        return x.reshape(count, *self.space.shape)

    def _steps(self, rows: int, given: Given) -> Cursor:
        return _Counts(self, rows, self._roots(given, rows))


class _Counts(Cursor):
    """The entries in their order; the codes so far are the whole cache."""

    def __init__(self, model: NGram, rows: int, root: Tensor) -> None:
        self.model, self.root, self.t = model, root, 0
        self.order = list(range(model.space.size))
        self.codes = torch.zeros(rows, model.space.size, dtype=torch.long, device=model.device)

    def start(self) -> Predictive:
        return self._predictive()

    def next(self, x_i: Tensor) -> Predictive | None:
        self.codes[:, self.t] = x_i.long()
        self.t += 1
        return self._predictive() if self.t < len(self.order) else None

    def _predictive(self) -> Predictive:
        one = Likelihood(self.model.space.sub([self.t]), longest=self.model.symbols)
        return Predictive(one, self.model._masses(self.codes, self.root, self.t))

    def reorder(self, rows: Tensor) -> None:
        self.codes, self.root = self.codes[rows], self.root[rows]


def _ends(low: float | None, step: float, otherwise: float) -> float:
    return otherwise if low is None else low - step / 2


def _template(c: int, channels: int, count: int) -> list[tuple[int, int, int]]:
    """The `count` nearest places before channel c of a pixel: (rows up, columns left, channel), nearest first."""
    found, reach = [(0, 0, e) for e in range(c)], 1 + math.isqrt(count)
    for a in range(reach + 1):
        for b in range(-reach, reach + 1):
            if a > 0 or b > 0:
                found += [(a, b, e) for e in range(channels)]
    found.sort(key=lambda p: (p[0] ** 2 + p[1] ** 2 + 0.5 * (p[2] != c), p[0], p[1], abs(p[2] - c)))
    return found[:count]
