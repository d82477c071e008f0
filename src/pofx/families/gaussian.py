"""Gaussian: the oracle, every hook in closed form.

    p(u | c) = N(u; m_c, S)            z = L^-1 (u - m_c),  S = L L^T,  m_c = m + (f(c) - f) B
    E[u | u_t] = m_c + alpha S (alpha^2 S + sigma^2 I)^-1 (u_t - alpha m_c)          u_t = alpha u + sigma e
    p(u_m | u_o) = N(m_m + S_mo S_oo^-1 (u_o - m_o),  S_mm - S_mo S_oo^-1 S_om)

Offers every hook. Fitted in closed form: mean and covariance, by EM where rows have gaps (exact under missing at
random; Little and Rubin 2002, section 11.2). What is given moves the mean, linearly: f(c) are its numbers, and an
indicator of each category; B is least squares, barely penalised, so a class has its own mean. Where any of it is not
told, u is one of them all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.data import Data
from pofx.kinds.base import Space
from pofx.model import Card, Conditional, Given, Model, Predictive, Quality, Report, Unsupported, Value
from pofx.randomness import Rng
from pofx.wrappers import Point

LOG_2PI = math.log(2 * math.pi)
MOST_GIVEN = 2048
PENALTY = 1e-9  # of the slope: features may be dependent, as the indicators of a category are


class Gaussian(Model):
    """One multivariate normal distribution.

    Args:
        shrinkage: share of the diagonal mixed into the covariance, which keeps it invertible.
        iterations: of EM, where rows have gaps.
    """

    card = Card(
        density="exact, fast",
        sampling="fast",
        training="closed form (EM with gaps)",
        latents="R^D",
        architecture="linear",
        branch=("explicit", "tractable"),
        incomplete="exact: EM over the observed entries",
        summary="one normal distribution; the oracle by which everything else is tested",
        reference="Murphy 2012, section 4.3",
        euclidean=True,
        tier="proven",
    )

    def __init__(self, *, shrinkage: float = 1e-3, iterations: int = 50) -> None:
        super().__init__()
        self.shrinkage, self.iterations = shrinkage, iterations

    def _build(self) -> None:
        d = self.space.size
        features = sum(_count(s) for s in self.given.values())
        if features > MOST_GIVEN:
            raise Unsupported(f"gaussian: it is given {features} numbers; it regresses on {MOST_GIVEN} at most.")
        self.register_buffer("mean", torch.zeros(d, dtype=torch.float64))
        self.register_buffer("slope", torch.zeros(features, d, dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(d, dtype=torch.float64))
        self.register_buffer("whole", torch.eye(d, dtype=torch.float64))

    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        x = train.x.flatten(1).double()
        f = self._features(train.given, len(x))
        self.middle = f.mean(0)
        observed = None if train.observed is None else train.observed.flatten(1)
        rounds = 1 if observed is None else self.iterations
        for k in range(rounds):
            filled, extra = self._expect(x, f, observed)
            self._maximise(filled, extra, f)
            if (k + 1) % 10 == 0 or rounds == 1:
                log_p = self._log_normal(x, self._moved(f), self.covariance, observed)
                report({"step": k + 1, "loss": -float(log_p.mean())})

    def _features(self, given: Given, rows: int) -> Tensor:
        """f(c), float64 (rows, F)."""
        parts = [_numbers(given[name], space) for name, space in self.given.items()]
        return torch.cat(parts, 1) if parts else torch.zeros(rows, 0, dtype=torch.float64)

    def _moved(self, f: Tensor) -> Tensor:
        """m_c of f(c)."""
        return self.mean + (f - self.middle) @ self.slope

    def _expect(self, x: Tensor, f: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """E[u | u_o] and the mean of Cov[u | u_o], row by row pattern."""
        if observed is None:
            return x, torch.zeros_like(self.covariance)
        filled, extra, m = x.clone(), torch.zeros_like(self.covariance), self._moved(f)
        for pattern, rows in _patterns(observed):
            mean, covariance = self._conditional(x[rows], m[rows], self.covariance, pattern)
            filled[rows[:, None], ~pattern] = mean
            index = (~pattern).nonzero().squeeze(1)
            extra[index[:, None], index] += covariance * len(rows)
        return filled, extra / len(x)

    def _maximise(self, x: Tensor, extra: Tensor, f: Tensor) -> None:
        self.mean, away = x.mean(0), f - self.middle
        penalty = PENALTY * len(x) * torch.eye(f.shape[1], dtype=f.dtype)
        self.slope = torch.linalg.solve(away.T @ away + penalty, away.T @ (x - self.mean))
        self.covariance = self._shrunk(x - self._moved(f), extra)
        self.whole = self._shrunk(x - self.mean, extra)

    def _shrunk(self, centred: Tensor, extra: Tensor) -> Tensor:
        s = centred.T @ centred / len(centred) + extra
        return (1 - self.shrinkage) * s + self.shrinkage * torch.diag(s.diagonal() + 1e-6)

    def _mean_of(self, given: Given, rows: int) -> Tensor:
        return self._moved(self._features(given, rows)) if self._told(given) else self.mean.expand(rows, -1)

    def _covariance_of(self, given: Given) -> Tensor:
        # not told, a row is one of them all: the normal distribution fitted to all rows together
        return self.covariance if self._told(given) else self.whole

    def _told(self, given: Given) -> bool:
        return set(given) == set(self.given)

    def _conditional(self, x: Tensor, m: Tensor, s: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        gain = torch.linalg.solve(s[o][:, o], s[o][:, ~o]).T if o.any() else s.new_zeros(int((~o).sum()), 0)
        mean = m[:, ~o] + (x[:, o] - m[:, o]) @ gain.T
        covariance = s[~o][:, ~o] - gain @ s[o][:, ~o]
        return mean, (covariance + covariance.T) / 2

    def _log_normal(self, x: Tensor, m: Tensor, s: Tensor, observed: Tensor | None) -> Tensor:
        if observed is None:
            return _log_normal(x - m, s)
        log_p = x.new_zeros(len(x))
        for pattern, rows in _patterns(observed):
            covariance = s[pattern][:, pattern]
            log_p[rows] = _log_normal((x - m)[rows][:, pattern], covariance) if pattern.any() else 0.0
        return log_p

    def _sample(self, count: int, given: Given, rng: Rng) -> Tensor:
        z = rng.normal((count, self.space.size), torch.float64)
        u = self._mean_of(given, count) + z @ torch.linalg.cholesky(self._covariance_of(given)).T
        return u.reshape(count, *self.space.shape).to(self.space.torch_dtype)

    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        flat = x.flatten(1).double()
        mask = None if observed is None else observed.flatten(1)
        log_p = self._log_normal(flat, self._mean_of(given, len(x)), self._covariance_of(given), mask)
        return Value(log_p, Quality.EXACT)

    def _condition(self, x: Tensor, observed: Tensor, given: Given) -> Conditional:
        flat, mask, m = x.flatten(1).double(), observed.flatten(1), self._mean_of(given, len(x))
        s = self._covariance_of(given)

        def sample(n: int, rng: Rng) -> Tensor:
            out = flat.expand(n, *flat.shape).clone()
            for pattern, rows in _patterns(mask):
                mean, covariance = self._conditional(flat[rows], m[rows], s, pattern)
                z = rng.normal((n, *mean.shape), torch.float64)
                jitter = 1e-10 * torch.eye(mean.shape[1], dtype=mean.dtype)
                draw = mean + z @ torch.linalg.cholesky(covariance + jitter).T
                out[:, rows[:, None], (~pattern).nonzero().squeeze(1)] = draw
            return out.reshape(n, *x.shape).to(x.dtype)

        def log_prob(full: Tensor) -> Value:
            whole = full.flatten(1).double()
            return Value(self._log_normal(whole, m, s, None) - self._log_normal(whole, m, s, mask))

        def mean() -> Tensor:
            out = flat.clone()
            for pattern, rows in _patterns(mask):
                out[rows[:, None], (~pattern).nonzero().squeeze(1)] = self._conditional(
                    flat[rows], m[rows], s, pattern
                )[0]
            return out.reshape(x.shape)

        return Conditional(sample, log_prob, mean=mean)

    def _denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, given: Given) -> Tensor:
        flat, m = u_t.flatten(1).double(), self._mean_of(given, len(u_t))
        a, s = (v.double().reshape(-1, 1) for v in (alpha_t, sigma_t))
        values, vectors = torch.linalg.eigh(self._covariance_of(given))
        values = values.clamp_min(0)
        shrink = a * values / (a**2 * values + s**2)
        u = m + (((flat - a * m) @ vectors) * shrink) @ vectors.T
        return u.reshape(u_t.shape).to(u_t.dtype)

    def _encode(self, x: Tensor, given: Given) -> torch.distributions.Distribution:
        L = torch.linalg.cholesky(self._covariance_of(given))
        centred = x.flatten(1).double() - self._mean_of(given, len(x))
        z = torch.linalg.solve_triangular(L, centred.T, upper=False).T
        return torch.distributions.Independent(torch.distributions.Normal(z, torch.full_like(z, 1e-6)), 1)

    def _decode(self, z: Tensor, given: Given) -> Predictive:
        L = torch.linalg.cholesky(self._covariance_of(given))
        return Predictive(Point(self.space, "gaussian"), self._mean_of(given, len(z)) + z.double() @ L.T)

    def _score(self, u: Tensor, given: Given) -> Tensor:
        centred = u.flatten(1).double() - self._mean_of(given, len(u))
        return -torch.linalg.solve(self._covariance_of(given), centred.T).T.reshape(u.shape).to(u.dtype)


def _count(space: Space) -> int:
    """How many features a given has."""
    return sum(v.levels if v.support in ("category", "binary") else 1 for v in map(space.variable, range(space.size)))


def _numbers(value: Tensor, space: Space) -> Tensor:
    """Features of a given, float64 (B, F): numbers in their standard deviations, indicators of categories."""
    flat, parts = value.reshape(len(value), -1), []
    for j, v in enumerate(map(space.variable, range(space.size))):
        if v.support in ("category", "binary"):
            parts.append(torch.nn.functional.one_hot(flat[:, j].long(), v.levels).double())
        else:
            parts.append((flat[:, j : j + 1].double() - v.mean) / v.scale)
    return torch.cat(parts, 1)


def _log_normal(centred: Tensor, covariance: Tensor) -> Tensor:
    L = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(L, centred.T, upper=False)
    return -0.5 * (z.square().sum(0) + len(covariance) * LOG_2PI) - L.diagonal().log().sum()


def _patterns(observed: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The distinct masks and the rows that have each."""
    patterns, which = torch.unique(observed, dim=0, return_inverse=True)
    return [(patterns[k].bool(), (which == k).nonzero().squeeze(1)) for k in range(len(patterns))]
