"""Autoregressive: the chain rule, one entry after the other.

    log p(x | c) = sum_t log p(x_{s_t} | x_{s_1}, ..., x_{s_{t-1}}, c)

Pictures: s is the raster order, channels inside a pixel in turn; the body is a gated causal convolution without a blind
spot. Every other x: a causal transformer over the entries that is told which entry comes next, trained half on the
canonical order and half on "these entries first, then the others", which is what a question about missing entries asks.
Each factor is the scalar distribution that the entry's support wants (kinds/likelihood.py).

Offers sample and steps (with the body's cache), log_prob, and condition: exact where the observed entries are a prefix
of the canonical order. Elsewhere an any-order net answers by its order "observed first" (an estimate: its D! joints
need not agree), and pictures by a particle filter (an estimate, right as the particles grow; no log_prob).
Fitted by maximum likelihood; missing entries are never seen and have no loss.

References: NADE in any order (Uria 2014, arXiv:1310.1757); Gated PixelCNN (van den Oord 2016, arXiv:1606.05328);
sigma-GPT (Pannatier 2024, arXiv:2404.09562); order-agnostic training (Hoogeboom 2021, arXiv:2110.02037).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pofx.engines.particles import resampled
from pofx.kinds.likelihood import Likelihood, from_grid
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
from pofx.nn.anyorder import AnyOrder, Walk
from pofx.nn.causal import CausalConvNet, Scan
from pofx.nn.conditioner import Conditioner, drop

SHORT = 512  # a discrete entry with at most this many levels has a vector for each of them
CHUNK = 512  # rows that are walked together


class Autoregressive(Model):
    """p(x) as a product over entries.

    Args:
        width: features of the body; None: 32 for pictures, 64 for tables.
        depth: layers; None: 4 or 6 for pictures, by their size, 3 for tables.
        dropout: None: 0.2 for pictures, 0.1 for tables.
        components: of the mixture for real and long ordinal entries.
        longest: an ordinal with at most this many levels is a softmax; None: see Likelihood.
        any_order: share of training rows that come in a random "these first" order; pictures ignore it.
        order: the canonical order of the entries of a vector; None: as they stand.
        particles: of the filter by which a picture is completed where later pixels are observed.
        lr, weight_decay: of the optimiser; lr None: 3e-3 for pictures, 2e-3 for tables.
    """

    card = Card(
        density="exact, fast",
        sampling="slow: one entry after the other, from a cache",
        training="maximum likelihood",
        latents="none",
        architecture="causal: gated convolutions (pictures), any-order transformer (all else)",
        branch=("explicit", "tractable", "autoregressive"),
        incomplete="loss over the observed entries; missing ones come last (vectors) or enter as a mask (pictures)",
        summary="the chain rule: every entry given those before it",
        reference="van den Oord et al. 2016 (arXiv:1606.05328); Pannatier et al. 2024 (arXiv:2404.09562)",
    )

    body: Any  # CausalConvNet for pictures, AnyOrder for all else

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int | None = None,
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
        self.width, self.depth, self.dropout, self.components = width, depth, dropout, components
        self.longest, self.any_order, self.order, self.particles = longest, any_order, order, particles
        self.lr, self.weight_decay = lr, weight_decay

    def _build(self) -> None:
        space = self.space
        self.picture = space.layout == "grid" and len(space.shape) == 3 and space.shared
        self.batch_size = 32 if self.picture else 128  # type: ignore[misc]  # every pixel of a picture is an example
        self.likelihood = Likelihood(space, self.components, self.longest)
        self._check_order()
        order = torch.tensor(list(self.order or range(space.size)))
        self.register_buffer("canonical", order, persistent=False)
        self.register_buffer("rank", order.argsort(), persistent=False)
        moments = [[getattr(space.variable(i), k) for i in range(space.size)] for k in ("mean", "scale")]
        self.register_buffer("mean", torch.tensor(moments[0], dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(moments[1], dtype=torch.float64), persistent=False)
        self.conditioner = Conditioner({k: s.spec for k, s in self.given.items()}, 64) if self.given else None
        self.body = self._convolutions() if self.picture else self._transformer()

    def _check_order(self) -> None:
        if self.order is not None and (self.picture or sorted(self.order) != list(range(self.space.size))):
            what = "a picture, which is read in raster order" if self.picture else f"{self.space.size} entries"
            raise ValueError(f"autoregressive: got order={self.order} for {what}; expected a permutation, or None.")

    def _convolutions(self) -> nn.Module:
        height, wide, channels = self.space.shape
        width, depth = self.width or 32, self.depth or (4 if max(height, wide) <= 16 else 6)
        dropout = 0.2 if self.dropout is None else self.dropout
        features, out = self._features_of(torch.zeros(1, 1)).shape[-1], self.likelihood.widths()[0]
        return CausalConvNet((height, wide, channels), features, out, width, depth, 3, self._c_dim, dropout)

    def _transformer(self) -> nn.Module:
        variables = [self.space.variable(i) for i in range(self.space.size)]
        width, depth = self.width or 64, self.depth or 3
        return AnyOrder(
            [v.levels if v.discrete and v.levels <= SHORT else 0 for v in variables],
            [v.support not in ("category", "binary") for v in variables],
            [(g.entries, g.width) for g in self.likelihood.groups],
            width,
            depth,
            shared=self.space.shared,
            c_dim=self._c_dim,
            dropout=0.1 if self.dropout is None else self.dropout,
        )

    @property
    def _c_dim(self) -> int:
        return 64 if self.given else 0

    def _players(self) -> list[Player]:
        lr = self.lr or (3e-3 if self.picture else 2e-3)
        return [Player("model", list(self.parameters()), self._loss, lr=lr, weight_decay=self.weight_decay)]

    def _loss(self, batch: Batch, rng: Rng) -> Tensor:
        keep = drop(self.given, len(batch), rng) if self.given else None
        c = self._condition_vector(batch.given, len(batch), keep)
        observed = torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed
        order = None if self.picture else self._orders(self._first(len(batch), rng), observed.flatten(1))
        log_p = self._entries(batch.x, c, order, batch.observed)
        return -torch.where(observed.flatten(1), log_p, torch.zeros_like(log_p)).sum(1).mean()

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
        if self.conditioner is None:
            return None
        return self.conditioner(given, rows, keep)

    def _entries(self, x: Tensor, c: Tensor | None, order: Tensor | None, observed: Tensor | None = None) -> Tensor:
        """log p of every entry given those before it, (B, D), nats."""
        if self.picture:
            params = from_grid(self.body(self._features(x, observed), c))
        else:
            flat = x.flatten(1)
            params = self.body(flat, self._standard(flat), order, c)
        return self.likelihood.log_prob(params.float(), x).flatten(1).double()

    def _standard(self, flat: Tensor) -> Tensor:
        return (flat.double() - self.mean) / self.scale

    def _features(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """A picture (B, H, W, C) as features (B, C F, H, W); the last of F says that the entry is missing."""
        features = self._features_of(x)
        if observed is not None:
            missing = torch.zeros_like(features)
            missing[..., -1] = 1.0
            features = torch.where(observed.unsqueeze(-1), features, missing)
        return features.flatten(-2).permute(0, 3, 1, 2)

    def _features_of(self, x: Tensor) -> Tensor:
        """Entries x (...) as features (..., F): standardised, one of K where K is small, not missing."""
        v = self.space.variables[0]
        z = ((x.double() - v.mean) / v.scale).float().unsqueeze(-1)
        parts = [z, torch.zeros_like(z)]
        if v.discrete and v.levels <= 32:
            parts.insert(1, nn.functional.one_hot(x.long(), v.levels).float())
        return torch.cat(parts, -1)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        c = self._condition_vector(given, len(x))
        mask = None if observed is None else observed.flatten(1)
        quality = self._quality(mask)
        if self.picture and quality is not Quality.EXACT:
            raise Unsupported(
                "autoregressive: a picture's observed part has a log_prob only where it is a raster prefix."
            )
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(CHUNK):
            log_p = self._ordered(x[rows], None if c is None else c[rows], None if mask is None else mask[rows])
            parts.append((log_p if mask is None else log_p.masked_fill(~mask[rows], 0.0)).sum(1))
        return Value(torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64), quality)

    def _ordered(self, x: Tensor, c: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.picture:
            return self._entries(x, c, None)
        flat = x.flatten(1)
        if mask is None:
            return self._entries(x, c, self.canonical.expand(len(x), -1))
        known = torch.where(mask, flat, torch.zeros_like(flat)).reshape(x.shape)
        return self._entries(known, c, self._orders(mask))

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

    def _steps(self, rows: int, given: Given) -> Cursor:
        c = self._condition_vector(given, rows)
        return _Pixels(self, rows, c) if self.picture else _Entries(self, self.canonical.expand(rows, -1), c)

    def _one(self, entry: int) -> Likelihood:
        """The likelihood of one entry alone."""
        return Likelihood(self.space.sub([entry]), self.components, self.likelihood.longest)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mask, c = observed.flatten(1), self._condition_vector(given, len(x))
        quality = self._quality(mask)

        def sample(n: int, rng: Rng) -> Tensor:
            with torch.no_grad():
                rows = torch.arange(len(x), device=x.device).repeat(n)
                parts = [self._complete(x[r], mask[r], None if c is None else c[r], rng) for r in rows.split(CHUNK)]
            return torch.cat([x[:0], *parts]).reshape(n, *x.shape)

        def log_prob(full: Tensor) -> Value:
            log_p = self._entries(full, c, None if self.picture else self._orders(mask))
            return Value(log_p.masked_fill(mask, 0.0).sum(1), quality)

        known = not self.picture or quality is Quality.EXACT
        return Conditional(sample, log_prob if known else None, quality)

    def _complete(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        draw = self._filter if self.picture else self._fill
        flat = draw(x.flatten(1), mask, c, rng)
        return torch.where(mask, x.flatten(1), flat).reshape(x.shape)

    def _fill(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """Draw the missing entries in the order "observed first", each row its own."""
        x = torch.where(mask, x, torch.zeros_like(x))
        walk = _Entries(self, self._orders(mask), c, x)
        for t in range(walk.skip(int(mask.sum(1).min())), self.space.size):
            h, entry = walk.hidden(), walk.order_of[:, t]
            open_ = ~mask.gather(1, entry.unsqueeze(1)).squeeze(1)
            for j in entry[open_].unique().tolist():
                rows = (open_ & (entry == j)).nonzero().squeeze(1)
                params = self.body.head(h[rows], j)
                walk.x[rows, j] = self._one(j).sample(params, rng)[:, 0].to(x.dtype)
        return walk.x

    def _filter(self, x: Tensor, mask: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """A particle filter along the raster: draw what is missing, weigh by what is observed, resample."""
        n = 1 if self._quality(mask) is Quality.EXACT else self.particles
        b, rows = len(x), torch.arange(len(x), device=x.device).repeat_interleave(n)
        x, mask = x[rows].clone(), mask[rows]
        cursor = _Pixels(self, b * n, None if c is None else c[rows])
        log_w, predictive = torch.zeros(b, n, dtype=torch.float64, device=x.device), cursor.start()
        for i in range(self.space.size):
            known, gone = mask[:, i], bool((~mask[:, :i]).any())
            assert predictive is not None  # as it is after the last entry only
            drawn = predictive.sample(rng)[:, 0]
            x[:, i] = torch.where(known, x[:, i], drawn.to(x.dtype))
            if gone and n > 1 and bool(known.any()):
                weight = predictive.log_prob(x[:, i : i + 1])[:, 0].double()
                log_w = log_w + torch.where(known, weight, torch.zeros_like(weight)).reshape(b, n)
            predictive = cursor.next(x[:, i])
            if gone and n > 1:
                kept, log_w = resampled(log_w, rng)
                x = x[kept]
                cursor.reorder(kept)
        pick = rng.categorical(log_w) + torch.arange(b, device=x.device) * n
        return x[pick]


class _Entries(Cursor):
    """Entries in an order (B, D) of each row's own; as a Cursor all rows share one order."""

    def __init__(self, model: Autoregressive, order: Tensor, c: Tensor | None, x: Tensor | None = None) -> None:
        self.model, self.order_of = model, order
        self.walk = Walk(model.body, order, c)
        self.x = torch.zeros(order.shape, dtype=torch.float64, device=order.device) if x is None else x
        self.order = order[0].tolist() if len(order) else []

    def skip(self, count: int) -> int:
        """Take the first `count` entries of every row from x at once; returns count."""
        self.walk.skip(self.x, self.model._standard(self.x), count)
        return count

    def hidden(self) -> Tensor:
        """The vector of the next entry of each row, given what x holds."""
        return self.walk.hidden(self.x, self.model._standard(self.x))

    def start(self) -> Predictive:
        return self._predictive()

    def next(self, x_i: Tensor) -> Predictive | None:
        self.x[:, self.order[self.walk.t - 1]] = x_i.to(self.x.dtype)
        return self._predictive() if self.walk.t < len(self.order) else None

    def _predictive(self) -> Predictive:
        entry = self.order[self.walk.t]
        with torch.no_grad():
            return Predictive(self.model._one(entry), self.model.body.head(self.hidden(), entry))

    def reorder(self, rows: Tensor) -> None:
        self.x, self.order_of = self.x[rows], self.order_of[rows]
        self.walk.reorder(rows)


class _Pixels(Cursor):
    """The entries of a picture in raster order, channels in turn."""

    def __init__(self, model: Autoregressive, rows: int, c: Tensor | None) -> None:
        self.model, self.scan, self.t = model, Scan(model.body, rows, c), 0
        self.order, self.likelihood = list(range(model.space.size)), model._one(0)
        self.pixel = torch.zeros(rows, model.space.shape[2], dtype=torch.float64, device=model.device)

    def start(self) -> Predictive:
        return self._predictive()

    def next(self, x_i: Tensor) -> Predictive | None:
        i, j, k = self._at(self.t)
        self.pixel = self.pixel if k else torch.zeros_like(self.pixel)
        self.pixel[:, k] = x_i.to(self.pixel.dtype)
        self.scan.put(i, j, self.model._features_of(self.pixel).flatten(1))
        self.t += 1
        return self._predictive() if self.t < len(self.order) else None

    def _predictive(self) -> Predictive:
        i, j, k = self._at(self.t)
        with torch.no_grad():
            params = self.scan.at(i, j)
        width = params.shape[1] // self.pixel.shape[1]
        return Predictive(self.likelihood, params[:, k * width : (k + 1) * width])

    def _at(self, t: int) -> tuple[int, int, int]:
        _, wide, channels = self.model.space.shape
        return t // (wide * channels), t // channels % wide, t % channels

    def reorder(self, rows: Tensor) -> None:
        self.pixel = self.pixel[rows]
        self.scan.reorder(rows)
