"""Copula: any marginals, joined by one normal law.

    x_j = F_j^-1(Phi(z_j)),   z ~ N(0, R)
    log p(x) = sum_j log f_j(x_j) + log N(z; 0, R) - sum_j log N(z_j; 0, 1)         where all columns are densities
    p(x) = P(a < z < b),   (a_j, b_j) = Phi^-1(F_j(x_j -+ half a step))              for codes and rounded numbers

Marginals are histograms with point masses and exponential tails (engines/cells.py); an unordered category is a cut
latent normal too, its codes ordered by how the numeric columns go with them. Missing entries are left out of z.
Offers sample, log_prob (of observed entries too) and condition. With at most one column of masses all are exact; with
more the box has no closed probability, and log_prob is a lower bound in expectation, by the GHK simulator: z is drawn
column by column inside its box, and the boxes' conditional masses multiply to an unbiased weight. Draws are exact.
Fitted in two steps (inference functions for margins): the marginals, then R by stochastic EM, where a Gibbs sweep draws
every z_j inside its box given the others, and a missing one freely.
References: Sklar 1959; Hoff 2007 (arXiv:math/0610413, the sweep); Geweke 1991, Hajivassiliou and McFadden 1998, Keane
1994 (GHK); Zhao and Udell 2020 (arXiv:1910.12845, missing entries).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pofx.data import Batch, Data
from pofx.engines.bins import LOG_2PI, log_interval
from pofx.engines.cells import Cells
from pofx.engines.normals import patterns
from pofx.kinds.joined import Joined
from pofx.model import Card, Conditional, Given, Model, Quality, Report, Value
from pofx.randomness import Rng

EDGE = 1e-12  # F is kept this far from 0 and 1
CHUNK = 2**16  # rows times draws computed at once
Boxes = tuple[Tensor, Tensor, Tensor]  # lower and upper ends in z and log slope, `(N, D)` each


class Copula(Model):
    """A Gaussian copula for mixed tables.

    Args:
        cells: places of a number's marginal; None takes 2 N^(1/3), at most 255.
        sweeps: of the stochastic EM; the second half of them is averaged. Densities without gaps need none.
        shrinkage: share of the identity mixed into R, which keeps it invertible.
        particles: of a draw given several columns of masses.
    """

    card = Card(
        density="exact for densities, else a tight bound",
        sampling="fast",
        training="marginals, then stochastic EM for R",
        latents="R^D",
        architecture="one correlation matrix",
        branch=("explicit", "tractable"),
        incomplete="exact: a missing entry is left out of z",
        summary="any marginals, joined by one normal law",
        reference="Sklar 1959; Hoff 2007 (arXiv:math/0610413)",
    )
    diagram = (
        ("z ~ N(0, R)", "u_j = Phi(z_j)"),
        ("u_j = Phi(z_j)", "x_j", "the quantile of column j: samples"),
        ("x_j", "z ~ N(0, R)", "the box of x_j: log p"),
    )

    def __init__(
        self, *, cells: int | None = None, sweeps: int = 40, shrinkage: float = 1e-3, particles: int = 16
    ) -> None:
        super().__init__()
        self.cells, self.sweeps, self.shrinkage, self.particles = cells, sweeps, shrinkage, particles

    def _build(self) -> None:
        self.joined = Joined(self.space, self.given)
        self.variables = self.joined.variables
        self.columns = nn.ModuleList(Marginal(Cells.of(v)) for v in self.variables)
        self.smooth = torch.tensor([v.density for v in self.variables])
        self.register_buffer("R", torch.eye(len(self.variables), dtype=torch.float64))

    def offers(self) -> frozenset[str]:
        return frozenset({"sample", "log_prob", "condition"})  # a histogram has no slope

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        x, mask = self._whole(train)
        count = self.cells or int(min(max(2 * len(x) ** (1 / 3), 8), 255))
        self._fit_marginals(x, mask, count)
        low, high, _ = self._boxes(x, mask)
        z, second = (self._start(low, high), None)
        rounds = 1 if bool((low == high).all()) else max(self.sweeps, 2)
        for step in range(rounds):
            moment = z.T @ z / len(z)
            late = step >= rounds // 2
            second = moment if second is None or not late else second + (moment - second) / (step - rounds // 2 + 1)
            self.R = self._correlation(second)
            loss = {} if step % 10 and step < rounds - 1 else {"loss": self._loss(data, rng)}
            if not report({"step": step + 1, **loss} if loss else None):
                break
            z = _sweep(z, low, high, self.R, rng)

    def _fit_marginals(self, x: Tensor, mask: Tensor, count: int) -> None:
        ordered = [v.support not in ("category", "binary") for v in self.variables]
        for j in (j for j, o in enumerate(ordered) if o):
            self.columns[j].fit(x[mask[:, j], j], count)  # type: ignore[operator]
        score = self._direction(x, mask, [j for j, o in enumerate(ordered) if o])
        for j in (j for j, o in enumerate(ordered) if not o):
            seen = mask[:, j]
            self.columns[j].fit(x[seen, j], count, score[seen])  # type: ignore[operator]

    def _direction(self, x: Tensor, mask: Tensor, numbers: list[int]) -> Tensor:
        """The first principal component of the numeric columns' normal scores, `(N,)`, by which codes are ordered."""
        if not numbers:
            return x.new_zeros(len(x))
        low, high, _ = self._boxes(x, mask, numbers)
        z = self._start(low, high)
        return z @ torch.linalg.eigh(z.T @ z)[1][:, -1]

    def _start(self, low: Tensor, high: Tensor) -> Tensor:
        """The median of z in each box; 0 for a missing entry."""
        middle = (torch.special.ndtr(low) + torch.special.ndtr(high)) / 2
        return torch.where(low == high, low, torch.special.ndtri(middle.clamp(EDGE, 1 - EDGE)))

    def _correlation(self, second: Tensor) -> Tensor:
        scale = second.diagonal().clamp_min(1e-9).rsqrt()
        R = second * scale * scale.unsqueeze(1) * (1 - self.shrinkage)
        return (R + R.T) / 2 - torch.diag(R.diagonal()) + torch.eye(len(R), dtype=R.dtype)

    def _loss(self, data: Data, rng: Rng) -> float:
        rows = data.part("train")
        some = rows.take(torch.arange(min(len(rows), 2000)))
        return -float(self._log_prob(some.x, some.given, some.observed, 1, rng).value.mean())

    # rows: (x, c) as one matrix with a mask, and as boxes of z
    def _whole(self, rows: Batch) -> tuple[Tensor, Tensor]:
        flat, mask = self.joined.whole(rows.x, rows.given, rows.observed)
        return flat, torch.ones_like(flat, dtype=torch.bool) if mask is None else mask

    def _boxes(self, x: Tensor, mask: Tensor, columns: list[int] | None = None) -> Boxes:
        """The box of z of each entry, and log f(x) - log N(z; 0, 1) of a density; missing entries are unbounded."""
        columns = list(range(len(self.columns))) if columns is None else columns
        low, high = (x.new_full((len(x), len(columns)), v) for v in (-math.inf, math.inf))
        slope = x.new_zeros(len(x), len(columns))
        for k, j in enumerate(columns):
            seen = mask[:, j]
            low[seen, k], high[seen, k], slope[seen, k] = self.columns[j].box(x[seen, j])  # type: ignore[operator]
        return low, high, slope

    # hooks
    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        nothing = torch.zeros(count, *self.space.shape, dtype=self.space.torch_dtype, device=self.device)
        unseen = torch.zeros(count, *self.space.shape, dtype=torch.bool, device=self.device)
        return self._complete(nothing, unseen, given, 1, rng)[0]

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        whole, mask = self._whole(Batch(x, dict(given), observed))
        value = self._log_part(whole, mask, draws, rng)
        if not given:
            return value
        only = mask.clone()
        only[:, : self.space.size] = False
        part = self._log_part(whole, only, max(draws, 16), rng)
        # one category or number by itself has its marginal, exactly
        return value.shifted(-part.value, -part.quality)

    def _log_part(self, x: Tensor, mask: Tensor, draws: int, rng: Rng) -> Value:
        """log p of the entries where the mask is True, `(N,)`."""
        exact = self._exact(mask)
        n = 1 if exact else draws
        log_w = torch.cat(
            [
                self._simulate(x[rows].repeat(n, 1), mask[rows].repeat(n, 1), rng)[1].reshape(n, -1)
                for rows in torch.arange(len(x), device=x.device).split(max(1, CHUNK // n))
            ]
            or [x.new_zeros(n, 0)],
            1,
        )
        if exact:
            return Value(log_w[0])
        weights = (log_w - log_w.max(0).values).exp()
        stderr = weights.std(0) / weights.mean(0) / math.sqrt(n) if n > 1 else None
        return Value(torch.logsumexp(log_w, 0) - math.log(n), Quality.LOWER, stderr, {"draws": n})

    def _exact(self, mask: Tensor) -> bool:
        """Whether no row has more than one box, which a normal law of one dimension weighs exactly."""
        return not len(mask) or int((mask & ~self.smooth.to(mask.device)).sum(1).max()) <= 1

    def _simulate(self, x: Tensor, mask: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """One draw of all of z given the boxes of the observed entries `(N, D)`, and its log weight `(N,)` (GHK)."""
        low, high, slope = self._boxes(x, mask)
        z, log_w = torch.empty_like(x), (slope * mask).sum(1)
        noise = rng.uniform(tuple(x.shape), torch.float64)
        smooth = self.smooth.to(x.device)
        for pattern, rows in patterns(mask):
            kind = torch.where(pattern, torch.where(smooth, 0, 1), 2)  # densities, boxes, then what is missing
            order = torch.argsort(kind, stable=True)
            L = torch.linalg.cholesky(self.R[order][:, order])
            e = x.new_zeros(len(rows), len(order))
            for k, j in enumerate(order.tolist()):
                mean, scale = e @ L[k], L[k, k]
                a, b = (low[rows, j] - mean) / scale, (high[rows, j] - mean) / scale
                if kind[j] == 0:
                    e[:, k] = a
                    log_w[rows] += -0.5 * (a.square() + LOG_2PI) - scale.log()
                else:
                    e[:, k] = _inside(a, b, noise[rows, j])
                    if kind[j] == 1:
                        log_w[rows] += log_interval(a, b)
                z[rows, j] = mean + scale * e[:, k]
        return z, log_w

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        _, mask = self._whole(Batch(x, dict(given), observed))
        exact = self._exact(mask)

        def sample(n: int, rng: Rng) -> Tensor:
            return self._complete(x, observed, given, n, rng)

        def log_prob(full: Tensor) -> Value:
            whole, part = (self._log_prob(full, given, seen, 64, Rng(0)) for seen in (None, observed))
            return whole.shifted(-part.value, -part.quality)

        return Conditional(sample, log_prob, Quality.EXACT if exact else Quality.ESTIMATE)

    def _complete(self, x: Tensor, observed: Tensor, given: Given, n: int, rng: Rng) -> Tensor:
        """n completions of each row, `(n, B, *event)`; particles where several boxes are observed."""
        whole, mask = self._whole(Batch(x, dict(given), observed))
        p = 1 if self._exact(mask) else self.particles
        rows = torch.arange(len(x), device=x.device).repeat(n)
        parts = []
        for some in rows.split(max(1, CHUNK // p)):
            z, log_w = self._simulate(whole[some].repeat(p, 1), mask[some].repeat(p, 1), rng)
            pick = rng.categorical(log_w.reshape(p, -1).T) * len(some) + torch.arange(len(some), device=x.device)
            parts.append(z[pick])
        z = torch.cat([whole[:0], *parts])
        draw = torch.stack([self.columns[j].quantile(z[:, j]) for j in range(self.space.size)], 1)  # type: ignore[operator]
        done = draw.reshape(n, *x.shape).to(self.space.torch_dtype)
        return torch.where(observed, x, done)


class Marginal(nn.Module):
    """F of one column: the shares of its cells, in the order in which z goes through them.

    Args:
        cells: not yet fitted.
    """

    turn: Tensor
    below: Tensor

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells
        self.register_buffer("turn", torch.arange(cells.count))  # cell -> its rank along z
        self.register_buffer("below", torch.linspace(0, 1, cells.count + 1, dtype=torch.float64))  # of each rank

    def fit(self, x: Tensor, count: int, score: Tensor | None = None) -> None:
        """From rows x `(N,)`; a score `(N,)` orders the codes by its mean."""
        self.cells.fit(x.numpy(), count, score is None)
        cell = self.cells.place(x)
        seen = torch.bincount(cell, minlength=self.cells.count).double()
        rank = torch.arange(len(seen))
        if score is not None:
            total = torch.zeros_like(seen).index_add_(0, cell, score)
            rank = (total / seen.clamp_min(1)).argsort(stable=True)
        self.turn = rank.argsort()
        share = (seen[rank] + 0.5) / (seen.sum() + 0.5 * len(seen))
        self.below = torch.cat([share.new_zeros(1), share.cumsum(0)])

    def box(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper end of z, and log f(x) - log N(z; 0, 1) where they are one; `(N,)` each."""
        rank, (a, b) = self.turn[self.cells.place(x)], self.cells.span(x)
        first, share = self.below[rank], self.below[rank + 1] - self.below[rank]
        low, high = (torch.special.ndtri((first + share * p).clamp(EDGE, 1 - EDGE)) for p in (a, b))
        inside = self.cells.inside(x)
        if self.cells.levels or self.cells.step:  # the whole of the line belongs to some value
            low = low.masked_fill(first + share * a <= EDGE, -math.inf)
            high = high.masked_fill(first + share * b >= 1 - EDGE, math.inf)
            return low, high, torch.zeros_like(low).masked_fill(~inside, -math.inf)
        slope = share.log() + self.cells.log_density(x) + 0.5 * (low.square() + LOG_2PI)
        return low, low, slope.masked_fill(~inside, -math.inf)

    def quantile(self, z: Tensor) -> Tensor:
        """x of z `(N,)`."""
        u = torch.special.ndtr(z).clamp(EDGE, 1 - EDGE)
        rank = torch.searchsorted(self.below, u, right=True).clamp(1, len(self.turn)) - 1
        p = (u - self.below[rank]) / (self.below[rank + 1] - self.below[rank])
        return self.cells.at(self.turn.argsort()[rank], p.clamp(EDGE, 1 - EDGE))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in list(self._buffers):  # the number of cells is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]


def _sweep(z: Tensor, low: Tensor, high: Tensor, R: Tensor, rng: Rng) -> Tensor:
    """One Gibbs sweep: every z_j that is not fixed, inside its box, given the others."""
    P = torch.linalg.inv(R)
    z = z.clone()
    for j in range(z.shape[1]):
        free = low[:, j] < high[:, j]
        if not bool(free.any()):
            continue
        scale = P[j, j].rsqrt()
        mean = z[free, j] - (z[free] @ P[j]) / P[j, j]
        u = rng.uniform((len(mean),), torch.float64)
        z[free, j] = mean + scale * _inside((low[free, j] - mean) / scale, (high[free, j] - mean) / scale, u)
    return z


def _inside(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """The quantile u of a standard normal between a and b, worked out in the tail that keeps its digits."""
    flip = a + b > 0
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    p = torch.special.ndtr(low) + torch.where(flip, 1 - u, u) * (torch.special.ndtr(high) - torch.special.ndtr(low))
    e = torch.special.ndtri(p.clamp(1e-300, 1 - 1e-16))
    e = torch.minimum(torch.maximum(e, low), high)
    return torch.where(flip, -e, e)
