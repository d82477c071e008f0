"""Process: a Gaussian process of what is given; x is a picture, a view, a shape, and the rows are few.

    f(c) = m + k(c)^T (K + a I)^-1 (U - m),      v(c) = 1 + a - k(c)^T (K + a I)^-1 k(c)
    p(u | c) = N(u; f(c), v(c) S),               S = (1 - b) R^T R / n + b diag,   R_i = (u_i - f_-i(c_i)) / sqrt(v_-i)
    k(c, c') = prod_g  r_g + (1 - r_g) k_g(c_g, c'_g)
    k_g = exp(-q) or 1 / (1 + q),  q = |c - c'|^2 / (2 l_g^2 w_g);  of codes [c = c']

One kernel for all entries of u: rows given alike look alike, and what they have in common is interpolated. R are the
errors of each row foretold from the others (closed form), so the spread is that of real errors, with their shape: a
draw is f(c) plus a combination of them. l, r, a and the form of k minimise the squared error of left-out rows; w is the
median distance. A given that is absent leaves the product; without any, u is normal about the mean of all rows.

u are the chart's coordinates of x, in the middle of its level; a draw is rounded to the level it falls into. So levels
have a lower bound of log p, by u spread within the level no wider than the model itself is; densities are exact.
Offers sample, log_prob (of observed entries too) and condition. Fitted in closed form. Takes numbers, no categories.
References: Rasmussen and Williams 2006, sections 2.2 and 5.4.2 (leaving one out); Bonilla 2007 (one kernel, many
outputs: NeurIPS, "Multi-task Gaussian process prediction").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.data import Data
from pofx.engines.lowrank import LowRank
from pofx.engines.normals import patterns
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.model import Card, Conditional, Given, Model, Quality, Report, Unsupported, Value
from pofx.randomness import Rng

LENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0)  # of l_g, in roots of the median
SHARES = (0.0, 0.1, 0.3, 0.6, 0.9)
NOISES = (1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)
CHOOSING = 1000  # rows by which the kernel is chosen, at most
ROUNDS = 2
FLOOR = 1e-4  # of a variance, in the chart where entries have about unit scale


class Process(Model):
    """Gaussian process regression of all entries on what is given, with the covariance of its own errors.

    Args:
        rows: kept, at most; more are left out by chance (the cost grows with their cube).
        shrinkage: b, the share of the variance that entries have for themselves.
    """

    card = Card(
        density="exact, fast",
        sampling="fast",
        training="closed form",
        latents="none",
        architecture="kernel of the givens",
        branch=("explicit", "tractable"),
        incomplete="complete rows only",
        summary="x interpolated between rows that are given alike, with the errors of doing so",
        reference="Rasmussen and Williams 2006",
        tier="experimental",
    )
    U: Tensor
    centre: Tensor
    lengths: Tensor
    shares: Tensor
    widths: Tensor
    noise: Tensor
    tail: Tensor

    def __init__(self, *, rows: int = 3000, shrinkage: float = 0.05) -> None:
        super().__init__()
        if rows < 2 or not 0 < shrinkage <= 1:
            raise ValueError(f"process: rows is {rows}, shrinkage {shrinkage}; expected >= 2, and within (0, 1].")
        self.rows, self.shrinkage = rows, shrinkage

    def _build(self) -> None:
        self.names, self.enter = list(self.given), Chart(self.space)
        if self.enter.codes:
            names = [self.space.variable(i).name for i in self.enter.codes[:3]]
            raise Unsupported(f"process: {names} are categories, between which nothing lies; use mixture or trees.")
        self.register_buffer("U", torch.zeros(0, self.space.size))
        self.register_buffer("centre", torch.zeros(self.space.size))
        for name in ("lengths", "widths"):
            self.register_buffer(name, torch.ones(len(self.names), dtype=torch.float64))
        self.register_buffer("shares", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("noise", torch.tensor(0.1, dtype=torch.float64))
        self.register_buffer("tail", torch.tensor(0.0, dtype=torch.float64))
        for k, space in enumerate(self.given.values()):
            self.register_buffer(f"c{k}", torch.zeros(0, _numbers(space)))
        self.made: dict[tuple[str, ...], tuple[Tensor, Tensor, LowRank]] = {}  # of the givens that are there

    def offers(self) -> frozenset[str]:
        return frozenset({"sample", "log_prob", "condition"})

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in ("U", *(f"c{k}" for k in range(len(self.names)))):
            if prefix + name in state:  # the number of rows is only known from the file
                setattr(self, name, torch.empty_like(state[prefix + name]))
        self.made = {}
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        if train.observed is not None:
            whole = train.observed.flatten(1).all(1).nonzero().squeeze(1)
            if len(whole) < 2:
                raise Unsupported("process: fewer than two rows are complete; impute first, or use mixture.")
            train = train.take(whole)
        if len(train) > self.rows:
            train = train.take(rng.permutation(len(train))[: self.rows].sort().values)
        self.U, self.made = self._inward(train.x.double()), {}
        self.centre = self.U.mean(0)
        for k, name in enumerate(self.names):
            setattr(self, f"c{k}", self._features(k, train.given[name]))
        if self.names:
            self._choose(rng, report)
        some = train.take(torch.arange(min(len(train), 100)))
        loss = -float(self._log_prob(some.x, some.given, None, 1, rng).value.mean())
        report({"step": 1, "loss": loss, **({"left out": self._left_out()} if self.names else {})})

    def _choose(self, rng: Rng, report: Report) -> None:
        """Coordinate descent over l, r and a, by the squared error of each row from the others."""
        index = rng.permutation(len(self.U))[:CHOOSING]
        gap = (self.U - self.centre)[index]
        gram = (gap @ gap.T).double()
        distances = [self._distance(k, getattr(self, f"c{k}")[index]) for k in range(len(self.names))]
        for k, d in enumerate(distances):
            if d.dtype != torch.bool:
                away = d[d > 0]
                self.widths[k] = float(away.median()) if len(away) else 1.0
        best = self._error(distances, gram)
        for _ in range(ROUNDS):
            steps = [("noise", 0, NOISES), ("tail", 0, (0.0, 1.0))]
            for k, d in enumerate(distances):
                steps += [("shares", k, SHARES)] if d.dtype == torch.bool or len(distances) > 1 else []
                steps += [("lengths", k, LENGTHS)] if d.dtype != torch.bool else []
            for name, k, ladder in steps:
                best = self._descend(name, k, ladder, best, distances, gram)
            if not report():
                return

    def _descend(
        self, name: str, k: int, ladder: tuple[float, ...], best: float, distances: list[Tensor], gram: Tensor
    ) -> float:
        place = getattr(self, name)
        kept = float(place[k]) if place.ndim else float(place)
        for value in ladder:
            place[... if place.ndim == 0 else k] = value
            error = self._error(distances, gram)
            if error < best:
                best, kept = error, value
        place[... if place.ndim == 0 else k] = kept
        return best

    def _error(self, distances: list[Tensor], gram: Tensor) -> float:
        """The mean squared error of left-out rows, [K^-1 G K^-1]_ii / [K^-1]_ii^2; infinite where K is singular."""
        K = self._product(distances, range(len(distances)))
        inverse = _inverse(K, float(self.noise))
        if inverse is None:
            return math.inf
        error = ((inverse @ gram) * inverse).sum(1) / inverse.diagonal().square()
        return float(error.mean()) if bool(error.isfinite().all()) else math.inf

    def _left_out(self) -> float:
        inverse = self._solved(tuple(self.names))[0]
        loss = inverse.diagonal().square()
        gap = self._solved(tuple(self.names))[1].square().sum(1) / loss
        return float(gap.mean() / self.space.size)

    # the kernel
    def _features(self, k: int, value: Tensor) -> Tensor:
        space = self.given[self.names[k]]
        flat = value.reshape(len(value), -1).double()
        if space.spec[0] == "category":
            return flat.float()
        mean, scale = (torch.tensor([getattr(v, w) for v in space.variables]).to(flat) for w in ("mean", "scale"))
        return ((flat - mean) / scale).float()

    def _distance(self, k: int, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Squared distances of features, or whether codes are the same (bool)."""
        b = a if b is None else b
        if self.given[self.names[k]].spec[0] == "category":
            return a == b.T
        a, b = a.double(), b.double()
        return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)

    def _product(self, distances: list[Tensor], which: object) -> Tensor:
        K: Tensor | None = None
        for k, d in zip(which, distances, strict=True):  # type: ignore[call-overload]
            q = 0.5 * d.double() / (self.lengths[k] ** 2 * self.widths[k])
            near = d.double() if d.dtype == torch.bool else 1 / (1 + q) if self.tail else torch.exp(-q)
            near = self.shares[k] + (1 - self.shares[k]) * near
            K = near if K is None else K * near
        assert K is not None
        return K

    def _solved(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor, LowRank]:
        """(K + a I)^-1, (K + a I)^-1 (U - m) and S, for the givens that are there."""
        if names not in self.made:
            gap = self.U - self.centre
            if not names:
                law = LowRank.of_rows(gap, self.shrinkage, FLOOR)
                self.made[names] = gap.new_zeros(0, 0), gap[:0], law
                return self.made[names]
            which = [self.names.index(n) for n in names]
            K = self._product([self._distance(k, getattr(self, f"c{k}")) for k in which], which)
            inverse = _inverse(K, float(self.noise))
            for more in [n for n in NOISES if n > self.noise]:
                inverse = _inverse(K, more) if inverse is None else inverse
            assert inverse is not None
            weights = inverse @ gap.double()  # float32 would lose what a small noise leaves
            errors = (weights / inverse.diagonal().sqrt()[:, None]).float()
            self.made[names] = inverse, weights, LowRank.of_rows(errors, self.shrinkage, FLOOR)
        return self.made[names]

    def _law(self, given: Given, rows: int) -> tuple[Tensor, Tensor, LowRank]:
        """f(c) `(B, D)`, sqrt(v(c)) `(B,)` and S."""
        names = tuple(n for n in self.names if n in given)
        inverse, weights, law = self._solved(names)
        if not names:
            return self.centre.expand(rows, -1), self.centre.new_ones(rows), law
        which = [self.names.index(n) for n in names]
        far = [self._distance(k, self._features(k, given[self.names[k]]), getattr(self, f"c{k}")) for k in which]
        k = self._product(far, which)
        variance = 1 + self.noise - ((k @ inverse) * k).sum(1)
        return self.centre + (k @ weights).float(), variance.clamp_min(1e-9).sqrt().float(), law

    # hooks
    def _inward(self, x: Tensor) -> Tensor:
        """u `(B, D)` of x `(B, *event)`, in the order of the chart."""
        return self.enter.encode(x).flatten(1)

    def _outward(self, u: Tensor) -> Tensor:
        return self.enter.decode(u.reshape(-1, *self.enter.space.shape).float())

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        mean, scale, law = self._law(given, count)
        return self._outward(mean + scale[:, None] * law.sample(count, rng))

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        mean, scale, law = self._law(given, len(x))
        seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
        if self.enter.exact:
            return Value(self._at(x.double(), x, seen, mean, scale, law), Quality.EXACT)
        terms = torch.stack([self._within(x, seen, mean, scale, law, rng) for _ in range(draws)])
        return Value(torch.logsumexp(terms, 0) - math.log(draws), Quality.LOWER)

    def _within(self, x: Tensor, seen: Tensor, mean: Tensor, scale: Tensor, law: LowRank, rng: Rng) -> Tensor:
        """One weight p(u) p(x | u) / q(u | x), with u uniform on the middle share h of each level."""
        own = (scale[:, None] * (12 * law.d).sqrt()).reshape(-1, *self.enter.space.shape)
        width = self.enter.by_entry(own).reshape(len(x), -1) * self.enter.scale
        step = self.enter.step
        h = torch.where(step > 0, (width / step.clamp_min(1e-300)).clamp(max=1.0), 1.0)
        noise = (rng.uniform((len(x), self.space.size), torch.float64) - 0.5) * h * step
        log_h = torch.where(seen.flatten(1), h.log(), 0.0).sum(1)
        return self._at(x.double() + noise.reshape(x.shape), x, seen, mean, scale, law) + log_h

    def _at(self, near: Tensor, x: Tensor, seen: Tensor, mean: Tensor, scale: Tensor, law: LowRank) -> Tensor:
        """log p(u) of u at `near`, in the units of x, of the entries that are seen, `(B,)`."""
        u = self.enter.encode(near)
        gap, log_p = u.flatten(1) - mean, self.enter.log_weight(u, x, seen)
        if bool(seen.all()):
            return log_p + law.log_prob(gap, scale)
        for pattern, rows in patterns(self.enter.mask(seen).flatten(1)):
            log_p[rows] += law.part(pattern).log_prob(gap[rows][:, pattern], scale[rows])
        return log_p

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        mean, scale, law = self._law(given, len(x))
        gap, mask = self._inward(x.double()) - mean, self.enter.mask(observed).flatten(1)

        def sample(n: int, rng: Rng) -> Tensor:
            out = x.expand(n, *x.shape).clone()
            for seen, rows in patterns(mask):
                u = mean[rows] + scale[rows, None] * law.rest(gap[rows], scale[rows], seen, n, rng)
                drawn = self._outward(u.flatten(0, 1)).reshape(n, len(rows), *self.space.shape)
                out[:, rows] = torch.where(observed[rows], x[rows], drawn)
            return out

        def log_prob(full: Tensor) -> Value:
            joint = self._log_prob(full, given, None, 16, Rng(0))
            known = self._log_prob(x, given, observed, 16, Rng(0))
            return joint.shifted(-known.value, -known.quality)

        def expected() -> Tensor:
            u = mean.clone()
            for seen, rows in patterns(mask):
                u[rows] += scale[rows, None] * law.expected(gap[rows], scale[rows], seen)
            whole = self.enter.unrounded(u.reshape(-1, *self.enter.space.shape)).flatten(1)
            first, last = (getattr(self.enter, end) for end in ("low", "high"))
            half = self.enter.step / 2  # levels end at the first and the last
            whole = torch.minimum(torch.maximum(whole, first + half), last - half)
            return torch.where(observed, x.double(), whole.reshape(x.shape))

        return Conditional(sample, log_prob, Quality.EXACT if self.enter.exact else Quality.ESTIMATE, expected)


def _numbers(space: Space) -> int:
    return 1 if space.spec[0] == "category" else space.size


def _inverse(K: Tensor, noise: float) -> Tensor | None:
    """(K + a I)^-1, None where it is singular."""
    root, bad = torch.linalg.cholesky_ex(K + noise * torch.eye(len(K)).to(K))
    return None if bool(bad) else torch.cholesky_inverse(root)
