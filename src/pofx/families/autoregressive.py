"""Autoregressive: the chain rule, one entry after the other.

    log p(x | c) = sum_t log p(x_{s_t} | x_{s_1}, ..., x_{s_{t-1}}, c)

The body computes all factors of a known x at once, or one after the other from a cache; nn/bodies.py lists them. The
order s is the raster order for pictures, channels inside a pixel in turn, and else the one that is asked for. By itself
the body is a gated causal convolution for pictures, a causal transformer for sequences, and for every other x an
any-order transformer, which is trained half on the canonical order and half on "these entries first, then the others":
what a question about missing entries asks. Each factor is the scalar distribution that the entry's support wants
(kinds/likelihood.py), or, with "pixelcnn++", a mixture that the channels of a pixel share (engines/logistic.py).

Offers sample and steps (with the body's cache), log_prob, and condition: exact where the observed entries are a prefix
of the order. Elsewhere an any-order net answers by its order "observed first" (an estimate: its D! joints need not
agree), and the others by a particle filter (an estimate, right as the particles grow; no log_prob).
Fitted by maximum likelihood; missing entries are never seen and have no loss.

References: NADE (Larochelle 2011); MADE (Germain 2015, arXiv:1502.03509); PixelRNN (van den Oord 2016,
arXiv:1601.06759); Gated PixelCNN (van den Oord 2016, arXiv:1606.05328); PixelCNN++ (Salimans 2017, arXiv:1701.05517);
sigma-GPT (Pannatier 2024, arXiv:2404.09562); order-agnostic training (Hoogeboom 2021, arXiv:2110.02037).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pofx.engines.logistic import PixelMixture
from pofx.engines.particles import resampled
from pofx.kinds.ending import Ending
from pofx.kinds.likelihood import Likelihood
from pofx.model import (
    Batch,
    Card,
    Conditional,
    Cursor,
    Given,
    Model,
    Player,
    Predictive,
    Quality,
    Rng,
    Unsupported,
    Value,
)
from pofx.nn.anyorder import AnyOrder, AnyWalk
from pofx.nn.bodies import body_class
from pofx.nn.conditioner import conditioner, drop
from pofx.nn.entries import Causal, Entries, Size, Walk

CHUNK = 512  # rows that are walked together
LARGE = 16  # pixels a side: beyond it, early steps teach more than wide nets


class Autoregressive(Model):
    """p(x) as a product over entries.

    Args:
        body: "gated", "pixelcnn", "pixelcnn++", "row-lstm" or "diagonal-bilstm" for pictures; "made", "nade",
            "transformer" or "any-order" for everything; None: by the data.
        width: features of the body; None: see the body.
        depth: its layers; None: see the body.
        kernel: of its convolutions, odd.
        dropout: None: 0.2 for "gated" on pictures of 16 pixels or fewer a side, else 0.05 or 0.1.
        components: of the mixture for real and long ordinal entries, and of "pixelcnn++".
        longest: an ordinal with at most this many levels is a softmax; None: see Likelihood.
        any_order: share of training rows that come in a random "these first" order, for the body "any-order".
        order: the canonical order of the entries of a vector; None: as they stand.
        particles: of the filter that completes x where entries after a gap are observed.
        lr, weight_decay: of the optimiser; lr None: 3e-3 for the picture bodies (5e-3 beyond 16 pixels a
            side), 2e-3 for the others.
    """

    card = Card(
        density="exact, fast",
        sampling="slow: one entry after the other, from a cache",
        training="maximum likelihood",
        latents="none",
        architecture="causal: convolutions, recurrences, masked layers or attention; any order for tables",
        branch=("explicit", "tractable", "autoregressive"),
        incomplete="loss over the observed entries; missing ones come last (any-order) or enter as a mask (the others)",
        summary="the chain rule: every entry given those before it",
        reference="van den Oord et al. 2016 (arXiv:1606.05328); Pannatier et al. 2024 (arXiv:2404.09562)",
    )

    net: Causal

    def __init__(
        self,
        *,
        body: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        kernel: int | None = None,
        dropout: float | None = None,
        components: int = 8,
        longest: int | None = None,
        any_order: float = 0.5,
        order: tuple[int, ...] | None = None,
        particles: int = 16,
        lr: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.body, self.width, self.depth, self.kernel, self.dropout = body, width, depth, kernel, dropout
        self.components, self.longest, self.any_order, self.order = components, longest, any_order, order
        self.particles, self.lr, self.weight_decay = particles, lr, weight_decay

    def _build(self) -> None:
        space = self.space
        picture = space.picture and space.shared
        auto = "gated" if picture else "transformer" if space.layout == "sequence" else "any-order"
        self.chosen = self.body or space.meta.get("body", auto)  # a kind may know the body that fits it
        kind = body_class(self.chosen)
        self.picture, self.free = kind.grid, kind.free
        if kind.grid and not picture:
            raise ValueError(
                f"autoregressive: body={self.chosen!r} reads pictures; got {space.layout} data of shape {space.shape}: "
                "take 'made', 'nade', 'transformer' or 'any-order'."
            )
        self.large = kind.grid and max(space.shape[:2]) > LARGE
        # every pixel of a picture is an example: few pictures say much, and more steps say more
        # and so is every symbol of a text
        few = 32 if space.layout == "sequence" and space.discrete else 128
        self.batch_size = (16 if self.large else 32) if kind.grid else few  # type: ignore[misc]
        self.likelihood = Likelihood(space, self.components, self.longest)
        self.mixture = self._pixel_mixture() if self.chosen == "pixelcnn++" else None
        self._check_order()
        self.ending = None if self.free or self.order is not None else Ending.of(space)
        order = torch.tensor(list(self.order or range(space.size)))
        self.register_buffer("canonical", order, persistent=False)
        self.register_buffer("rank", order.argsort(), persistent=False)
        moments = [[getattr(space.variable(i), k) for i in range(space.size)] for k in ("mean", "scale")]
        self.register_buffer("mean", torch.tensor(moments[0], dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(moments[1], dtype=torch.float64), persistent=False)
        self.conditioner = conditioner(self.given, 64)
        size = Size(self.width, self.depth, self.kernel, self.dropout, 64 if self.given else 0)
        self.net = kind(self._described(), size)

    def _pixel_mixture(self) -> PixelMixture:
        v = self.space.variable(0)
        if not v.discrete or v.levels < 2 or v.support == "category":
            raise ValueError(f"autoregressive: body='pixelcnn++' wants ordinal pixels of two levels or more; got {v}.")
        return PixelMixture(self.space.shape[2], v.levels, self.components)

    def _check_order(self) -> None:
        if self.order is not None and (self.picture or sorted(self.order) != list(range(self.space.size))):
            what = "a picture, which is read in raster order" if self.picture else f"{self.space.size} entries"
            raise ValueError(f"autoregressive: got order={self.order} for {what}; expected a permutation, or None.")

    def _described(self) -> Entries:
        """What the body is told of x."""
        space = self.space
        variables = [space.variable(i) for i in range(space.size)]
        return Entries(
            space.shape,
            tuple(v.levels if v.discrete else 0 for v in variables),
            tuple(v.support not in ("category", "binary") for v in variables),
            tuple((g.entries, g.width) for g in self.likelihood.groups),
            space.shared,
            tuple(self.canonical.tolist()),
            space.layout == "sequence" and space.shared,
            0 if self.mixture is None else self.mixture.size,
            variables[0].mean,
            variables[0].scale,
            int(space.meta.get("pitches", 0)),
            -1 if self.ending is None else self.ending.pad,
        )

    def _players(self) -> list[Player]:
        lr = self.lr or (5e-3 if self.large else 3e-3 if self.picture else 2e-3)
        return [Player("model", list(self.parameters()), self._loss, lr=lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_vector(batch.given, len(batch), keep)
        seen = None if batch.observed is None else batch.observed.flatten(1)
        order = None
        if self.free:
            order = self._orders(self._first(len(batch), rng), seen)
        log_p = self._entries(batch.x, c, order, seen)
        return -(log_p if seen is None else torch.where(seen, log_p, torch.zeros_like(log_p))).sum(1).mean()

    def _first(self, rows: int, rng: Rng) -> Tensor:
        """A random set (B, D) of entries to come first: empty in a share 1 - any_order of the rows."""
        d = self.space.size
        count = rng.integers(d + 1, (rows, 1)) * rng.bernoulli(self.any_order, (rows, 1))
        return rng.uniform((rows, d)).argsort(1) < count

    def _orders(self, first: Tensor, observed: Tensor | None = None) -> Tensor:
        """The order (B, D) of each row: `first` entries, then the rest, then what is missing, each canonically."""
        d = self.space.size
        key = self.rank + d * ~first
        return (key if observed is None else key + 2 * d * ~observed).argsort(1)

    def _condition_vector(self, given: Given, rows: int, keep: dict[str, Tensor] | None = None) -> Tensor | None:
        return None if self.conditioner is None else self.conditioner(given, rows, keep)

    def _entries(
        self, x: Tensor, c: Tensor | None, order: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """log p of every entry given those before it, (B, D), nats."""
        flat = x.flatten(1)
        params = self.net(flat, self._standard(flat), c, None if self.free else observed, order).float()
        if self.ending is not None:
            each = params.unflatten(1, (self.space.size, -1))
            params = self.ending.masses(each, self.ending.after(flat)).flatten(1)
        if self.mixture is None:
            return self.likelihood.log_prob(params, x).flatten(1).double()
        pixels = (*self.space.shape[:2], -1)
        seen = None if observed is None else observed.unflatten(1, pixels)
        return self.mixture.log_prob(params.unflatten(1, pixels), x, seen).flatten(1).double()

    def _standard(self, flat: Tensor) -> Tensor:
        return (flat.double() - self.mean) / self.scale

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_vector(given, len(x))
        mask = None if observed is None else observed.flatten(1)
        quality = self._quality(mask)
        if not self.free and quality is not Quality.EXACT:
            raise Unsupported(
                f"autoregressive: the observed part has a log_prob only where it is a prefix of the order of "
                f"{self.chosen!r}; body='any-order' has one everywhere."
            )
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(CHUNK):
            log_p = self._ordered(x[rows], None if c is None else c[rows], None if mask is None else mask[rows])
            parts.append((log_p if mask is None else log_p.masked_fill(~mask[rows], 0.0)).sum(1))
        return Value(torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64), quality)

    def _ordered(self, x: Tensor, c: Tensor | None, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self._entries(x, c)
        known = torch.where(mask, x.flatten(1), torch.zeros_like(x.flatten(1))).reshape(x.shape)
        return self._entries(known, c, self._orders(mask) if self.free else None)

    def _quality(self, mask: Tensor | None) -> Quality:
        """Exact where the observed entries of all rows are a prefix of the canonical order."""
        prefix = mask is None or bool((mask[:, self.canonical].int().diff(dim=1) <= 0).all())
        return Quality.EXACT if prefix else Quality.ESTIMATE

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        parts = []
        for rows in torch.arange(count, device=self.device).split(CHUNK):
            cursor = self._steps(len(rows), {k: v[rows] for k, v in given.items()})
            x, predictive = [], cursor.start()
            while predictive is not None:
                x.append(predictive.sample(rng)[:, 0])
                predictive = cursor.next(x[-1])
            parts.append(torch.stack(x, 1)[:, self.rank])
        empty = torch.zeros(0, self.space.size, dtype=self.space.torch_dtype, device=self.device)
        return torch.cat([empty, *parts]).reshape(count, *self.space.shape)

    def _steps(self, rows: int, given: Given) -> Steps:
        with torch.no_grad():
            return Steps(self, self.net.walk(rows, self._condition_vector(given, rows)), rows)

    def _one(self, entry: int) -> Likelihood:
        """The likelihood of one entry alone."""
        longest = self.likelihood.longest if self.mixture is None else self.mixture.levels
        return Likelihood(self.space.sub([entry]), self.components, longest)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mask, c = observed.flatten(1), self._condition_vector(given, len(x))
        quality = self._quality(mask)

        def sample(n: int, rng: Rng) -> Tensor:
            with torch.no_grad():
                rows = torch.arange(len(x), device=x.device).repeat(n)
                parts = [self._complete(x[r], mask[r], None if c is None else c[r], rng) for r in rows.split(CHUNK)]
            return torch.cat([x[:0], *parts]).reshape(n, *x.shape)

        def log_prob(full: Tensor) -> Value:
            log_p = self._entries(full, c, self._orders(mask) if self.free else None)
            return Value(log_p.masked_fill(mask, 0.0).sum(1), quality)

        known = self.free or quality is Quality.EXACT
        return Conditional(sample, log_prob if known else None, quality)

    def _complete(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        draw = self._fill if self.free else self._filter
        return torch.where(mask, x.flatten(1), draw(x.flatten(1), mask, c, rng)).reshape(x.shape)

    def _fill(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """Draw the missing entries in the order "observed first", each row its own."""
        net, order = cast(AnyOrder, self.net), self._orders(mask)
        x = torch.where(mask, x, torch.zeros_like(x))
        walk, known = AnyWalk(net, order, c), int(mask.sum(1).min())
        walk.skip(x, self._standard(x), known)
        for t in range(known, self.space.size):
            h, entry = walk.hidden(), order[:, t]
            open_ = ~mask.gather(1, entry.unsqueeze(1)).squeeze(1)
            for j in entry[open_].unique().tolist():
                rows = (open_ & (entry == j)).nonzero().squeeze(1)
                x[rows, j] = self._one(j).sample(net.outlets.one(h[rows], j), rng)[:, 0].to(x.dtype)
            x_t = x.gather(1, entry.unsqueeze(1))[:, 0]
            walk.put(x_t, (x_t.double() - self.mean[entry]) / self.scale[entry])
        return x

    def _filter(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """A particle filter along the order: draw what is missing, weigh by what is observed, resample."""
        n = 1 if self._quality(mask) is Quality.EXACT else self.particles
        b, rows = len(x), torch.arange(len(x), device=x.device).repeat_interleave(n)
        x, mask = x[rows].clone(), mask[rows]
        cursor = Steps(self, self.net.walk(b * n, None if c is None else c[rows]), b * n)
        log_w, predictive = torch.zeros(b, n, dtype=torch.float64, device=x.device), cursor.start()
        gone = torch.zeros_like(mask[:, 0])
        for i in cursor.order:
            known = mask[:, i]
            assert predictive is not None  # as it is after the last entry only
            drawn = predictive.sample(rng)[:, 0]
            x[:, i] = torch.where(known, x[:, i], drawn.to(x.dtype))
            weigh = n > 1 and bool(gone.any())
            if weigh and bool(known.any()):
                weight = predictive.log_prob(x[:, i : i + 1])[:, 0].double()
                log_w = log_w + torch.where(known, weight, torch.zeros_like(weight)).reshape(b, n)
            gone = gone | ~known
            if weigh:
                kept, log_w = resampled(log_w, rng)
                x = x[kept]
                cursor.reorder(kept)
            predictive = cursor.next(x[:, i])
        pick = rng.categorical(log_w) + torch.arange(b, device=x.device) * n
        return x[pick]


class Steps(Cursor):
    """The entries in the canonical order, by the walk of a body."""

    def __init__(self, model: Autoregressive, walk: Walk, rows: int) -> None:
        self.model, self.walk, self.t = model, walk, 0
        self.order = model.canonical.tolist()
        self.moments = list(zip(model.mean.tolist(), model.scale.tolist(), strict=True))
        self.one = model._one(0) if model.space.shared else None
        self.pixel = torch.zeros(rows, model.space.shape[-1], dtype=torch.float64, device=model.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=model.device)

    def start(self) -> Predictive:
        return self._predictive()

    def next(self, x_i: Tensor) -> Predictive | None:
        mean, scale = self.moments[self.order[self.t]]
        if self.model.ending is not None:
            self.ended = self.ended | (x_i == self.model.ending.end) | (x_i == self.model.ending.pad)
        if not self.done:
            with torch.no_grad():
                self.walk.put(x_i, (x_i.double() - mean) / scale)
        if self.model.mixture is not None:
            self.pixel[:, self.order[self.t] % self.pixel.shape[1]] = x_i.double()
        self.t += 1
        return self._predictive() if self.t < len(self.order) else None

    def _predictive(self) -> Predictive:
        entry, mixture, ending = self.order[self.t], self.model.mixture, self.model.ending
        one = self.one or self.model._one(entry)
        with torch.no_grad():
            params = (
                self.ended.new_zeros(len(self.ended), one.size).float() if self.done else self.walk.outputs().float()
            )
            params = params if ending is None else ending.masses(params, self.ended)
            if mixture is not None:
                params = mixture.log_masses(params, self.pixel, entry % mixture.channels)
        return Predictive(one, params)

    @property
    def done(self) -> bool:
        """Whether every row has ended, so that the body need not be asked any more."""
        return self.model.ending is not None and bool(self.ended.all())

    def reorder(self, rows: Tensor) -> None:
        self.pixel, self.ended = self.pixel[rows], self.ended[rows]
        self.walk.reorder(rows)
