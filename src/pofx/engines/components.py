"""Components: K distributions over some columns, in the forms whose EM updates are closed.

    Table    p_k(x_j = l) = (T_j t_jk)_l              t = (n_jk + a f_j) / (sum n_jk + a);  T_j = I, or blurs an order
    Binned   p_k(x_j) = Phi((b - m)/s) - Phi((a - m)/s)   m, s^2 from the moments of the normal inside each bin
    Normal   p_k(u) = N(u; m_k, S_k)                 S_k = (scatter_k + a B) / (n_k + a),  full or diagonal

a is `smoothing`, in pseudo-observations, f the marginal frequencies and B the marginal variances over K^(2/J): the
updates maximise the penalised likelihood, so it never falls. A missing entry is integrated out exactly everywhere.
References: Dempster, Laird and Rubin 1977; Fraley and Raftery 2007 (the prior); Little and Rubin 2002 (gaps).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.engines.bins import LOG_2PI, interval_moments, log_interval
from pofx.randomness import Rng

STAYS = 0.1  # of a blurred level, the share that is seen where it is
FEATURES = 2**24  # most numbers that the products u_i u_j of the training rows may take


class Block(nn.Module, ABC):
    """K components over some columns. Parameters are buffers, sized when fitted or loaded."""

    smoothing: float

    @abstractmethod
    def prepare(self, x: Any, mask: Tensor | None, train: bool = False) -> Any:
        """Whatever can be computed from the rows once, before many calls of `log_prob`."""

    @abstractmethod
    def start(self, rows: Any, components: int) -> None:
        """Size the parameters and set the prior from the marginal of the rows."""

    @abstractmethod
    def log_prob(self, rows: Any) -> Tensor:
        """log p_k of the observed columns of each row, `(N, K)`."""

    @abstractmethod
    def maximise(self, rows: Any, R: Tensor) -> None:
        """Update the parameters from responsibilities `(N, K)`."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """The log prior that the updates maximise along with the likelihood."""

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in list(self._buffers):  # the number of components is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        super()._load_from_state_dict(state, prefix, *rest)


class Table(Block):
    """A table of probabilities for each column; codes `(N, J)`.

    `blur` smooths ordered columns: the table is T q with a fixed T of that width in levels, and q is what is fitted.
    """

    sizes: Tensor
    offsets: Tensor
    column: Tensor
    log_p: Tensor
    sharp: Tensor
    prior: Tensor

    def __init__(self, levels: list[int], smoothing: float, blur: list[float] | None = None) -> None:
        super().__init__()
        self.levels, self.smoothing = levels, smoothing
        self.blur = [0.0] * len(levels) if blur is None else blur
        sizes, column = torch.tensor(levels), torch.arange(len(levels))
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("column", torch.repeat_interleave(column, sizes), persistent=False)
        for name in ("log_p", "sharp", "prior"):
            self.register_buffer(name, torch.zeros(sum(levels), 1, dtype=torch.float64))

    def prepare(self, x: Tensor, mask: Tensor | None, train: bool = False) -> tuple[Tensor, Tensor | None]:
        index = torch.minimum(x.long().clamp_min(0), self.sizes - 1) + self.offsets
        return index, None if mask is None else mask.double()

    def start(self, rows: tuple[Tensor, Tensor | None], components: int) -> None:
        count = _count(*rows, rows[0].new_ones(len(rows[0]), 1).double(), len(self.column))
        count += 1 / self.sizes[self.column, None]  # the marginal is never zero
        self.prior = self._normalised(count)
        self.sharp = self.prior.repeat(1, components)
        self.log_p = self._blurred(self.sharp, False).log()

    def log_prob(self, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        return F.embedding_bag(rows[0], self.log_p, mode="sum", per_sample_weights=rows[1])

    def maximise(self, rows: tuple[Tensor, Tensor | None], R: Tensor) -> None:
        count = _count(*rows, R, len(self.column))
        # the share of each sharp level in what was seen at the levels around it: an EM step within the M step
        sharp = self.sharp * self._blurred(count * (-self.log_p).exp(), True)
        self.sharp = self._normalised(sharp + max(self.smoothing, 1e-9) * self.prior)
        self.log_p = self._blurred(self.sharp, False).log()

    def log_prior(self) -> Tensor:
        return self.smoothing * (self.prior * self.sharp.log()).sum()

    def sample(self, pick: Tensor, rng: Rng) -> Tensor:
        """Codes `(n, J)` of the components `pick` `(n,)`."""
        tables = self.log_p.split(self.levels)
        return torch.stack([rng.categorical(t.T[pick]) for t in tables], 1).double()

    def _blurred(self, values: Tensor, back: bool) -> Tensor:
        """T values (or its transpose), where T_lz is the chance that the sharp level z is seen as l."""
        out = values.clone()
        for levels, blur in sorted(set(zip(self.levels, self.blur, strict=True))):
            if blur > 0:
                same = [j for j, form in enumerate(zip(self.levels, self.blur, strict=True)) if form == (levels, blur)]
                index = (self.offsets[same].unsqueeze(1) + torch.arange(levels, device=values.device)).flatten()
                T = _transition(levels, blur).to(values)
                part = values[index].unflatten(0, (-1, levels))
                out[index] = ((T.mT if back else T) @ part).flatten(0, 1)
        return out

    def _normalised(self, count: Tensor) -> Tensor:
        total = count.new_zeros(len(self.levels), count.shape[1]).index_add_(0, self.column, count)
        return count / total[self.column]


class Binned(Block):
    """A normal for each column, seen through bins; edges a, b `(N, J)` each, possibly infinite."""

    def __init__(self, columns: int, smoothing: float) -> None:
        super().__init__()
        self.columns, self.smoothing = columns, smoothing
        for name in ("mean", "variance", "prior"):
            self.register_buffer(name, torch.ones(1, columns, dtype=torch.float64))

    def prepare(self, x: tuple[Tensor, Tensor], mask: Tensor | None, train: bool = False) -> tuple[Tensor, ...]:
        index, low, high, column, size = [], [], [], [], 0
        for j in range(self.columns):  # each bin of a column is computed once, however many rows fall into it
            edges, which = torch.unique(torch.stack([x[0][:, j], x[1][:, j]], 1), dim=0, return_inverse=True)
            index.append(which + size)
            low.append(edges[:, 0])
            high.append(edges[:, 1])
            column.append(torch.full_like(which[:1], j).expand(len(edges)))
            size += len(edges)
        weight = None if mask is None else mask.double()
        return torch.stack(index, 1), weight, torch.cat(low), torch.cat(high), torch.cat(column)  # type: ignore[return-value]

    def start(self, rows: tuple[Tensor, ...], components: int) -> None:
        index, weight, low, high, _ = rows
        centre = _centre(low, high)[index]
        mean, self.prior = _marginal(centre, weight, components)
        self.mean, self.variance = mean.repeat(components, 1), self.prior.repeat(components, 1)

    def log_prob(self, rows: tuple[Tensor, ...]) -> Tensor:
        return F.embedding_bag(rows[0], self._log_mass(rows)[0], mode="sum", per_sample_weights=rows[1])

    def maximise(self, rows: tuple[Tensor, ...], R: Tensor) -> None:
        column, (log_mass, a, b) = rows[4], self._log_mass(rows)
        count = _count(rows[0], rows[1], R, len(column))
        first, second = interval_moments(a, b, log_mass)
        zero = count.new_zeros(self.columns, count.shape[1])
        n, n1, n2 = (zero.index_add(0, column, v).T for v in (count, count * first, count * second))
        spread, n = self.variance.sqrt(), n + 1e-9  # an empty component stays where it is
        shift = n1 / n
        scatter = (n2 - n * shift.square()).clamp_min(0) * self.variance
        self.mean = self.mean + spread * shift
        self.variance = (scatter + self.smoothing * self.prior) / (n + self.smoothing)

    def log_prior(self) -> Tensor:
        return -0.5 * self.smoothing * (self.variance.log() + self.prior / self.variance).sum()

    def sample(self, pick: Tensor, rng: Rng) -> Tensor:
        """u `(n, J)` of the components `pick` `(n,)`, not yet rounded to a bin."""
        z = rng.normal((len(pick), self.columns), torch.float64)
        return self.mean[pick] + self.variance.sqrt()[pick] * z

    def _log_mass(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        low, high, column = rows[2:]
        mean, spread = self.mean.T[column], self.variance.sqrt().T[column]
        a, b = ((e.unsqueeze(1) - mean) / spread for e in (low, high))
        return log_interval(a, b), a, b


class Normal(Block):
    """A normal density; u `(N, J)` with zeros where the mask is False. Full, diagonal or one (tied) full covariance."""

    def __init__(self, columns: int, full: bool, smoothing: float, tied: bool = False) -> None:
        super().__init__()
        self.columns, self.full, self.smoothing, self.tied = columns, full or tied, smoothing, tied
        full = self.full
        self.register_buffer("mean", torch.zeros(1, columns, dtype=torch.float64))
        self.register_buffer("covariance", torch.ones(1, columns, dtype=torch.float64))
        self.register_buffer("prior", torch.ones(1, columns, dtype=torch.float64))
        if full:
            self.covariance = torch.eye(columns, dtype=torch.float64).unsqueeze(0)

    def prepare(self, x: Tensor, mask: Tensor | None, train: bool = False) -> tuple[Tensor, Tensor | None, Any]:
        """The products u_i u_j, while training without gaps; the patterns of the gaps, with a full covariance."""
        extra: Any = None
        if mask is not None:
            x = x.masked_fill(~mask, 0.0)
            extra = patterns(mask) if self.full else None
        elif self.full and train and len(x) * self.columns**2 // 2 <= FEATURES:
            i, j = self._pairs()
            extra = torch.cat([x[:, i] * x[:, j], x, torch.ones_like(x[:, :1])], 1)
        return x, mask, extra

    def start(self, rows: tuple[Tensor, Tensor | None, Any], components: int) -> None:
        weight = None if rows[1] is None else rows[1].double()
        mean, self.prior = _marginal(rows[0], weight, components)
        self.mean = mean.repeat(components, 1)
        spread = torch.diag(self.prior[0]).unsqueeze(0) if self.full else self.prior
        self.covariance = spread.repeat(components, *[1] * (spread.ndim - 1))

    def log_prob(self, rows: tuple[Tensor, Tensor | None, Any]) -> Tensor:
        u, mask, extra = rows
        if not self.full:
            return self._log_diagonal(u, mask)
        if mask is None:
            return self._log_full(u, slice(None)) if extra is None else extra @ self._quadratic()
        out = u.new_zeros(len(u), len(self.mean))
        for pattern, index in extra:
            if pattern.any():
                out[index] = self._log_full(u[index][:, pattern], pattern)
        return out

    def maximise(self, rows: tuple[Tensor, Tensor | None, Any], R: Tensor) -> None:
        n, first, second = self._moments(*rows, R)
        n = n + 1e-9  # an empty component stays where it is
        mean = (first + 1e-9 * self.mean) / n
        a, prior = max(self.smoothing, 1e-6), torch.diag(self.prior[0]) if self.full else self.prior
        if self.full:
            centred = second - n.unsqueeze(2) * mean.unsqueeze(2) * mean.unsqueeze(1)
            if self.tied:
                centred, n = centred.mean(0).expand_as(centred), n.mean(0).expand_as(n)
            covariance = (centred + a * prior) / (n.unsqueeze(2) + a)
            self.covariance = (covariance + covariance.mT) / 2
        else:
            self.covariance = ((second - n * mean.square()).clamp_min(0) + a * prior) / (n + a)
        self.mean = mean

    def log_prior(self) -> Tensor:
        if not self.full:
            return -0.5 * self.smoothing * (self.covariance.log() + self.prior / self.covariance).sum()
        L = torch.linalg.cholesky(self.covariance)
        trace = (torch.cholesky_inverse(L).diagonal(dim1=1, dim2=2) * self.prior).sum()
        return -0.5 * self.smoothing * (2 * L.diagonal(dim1=1, dim2=2).log().sum() + trace)

    def sample(self, pick: Tensor, rng: Rng, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """u `(n, J)` of the components `pick` `(n,)`, given the entries of u where the mask is True."""
        z = rng.normal((len(pick), self.columns), torch.float64)
        if not self.full:
            return self.mean[pick] + self.covariance.sqrt()[pick] * z
        known = torch.zeros_like(z, dtype=torch.bool) if mask is None or u is None else mask
        out = torch.zeros_like(z) if u is None else u.clone()
        for pattern, index in patterns(known):
            hole = (~pattern).nonzero().squeeze(1)
            gain, covariance = self._conditional(pattern)
            k, jitter = pick[index], 1e-12 * torch.eye(len(hole), dtype=z.dtype, device=z.device)
            L = torch.linalg.cholesky(covariance + jitter)[k]
            gap = (out[index][:, pattern] - self.mean[k][:, pattern]).unsqueeze(2)
            draw = self.mean[k][:, hole] + (gain[k] @ gap + L @ z[index][:, hole].unsqueeze(2)).squeeze(2)
            out[index[:, None], hole] = draw
        return out

    def denoise(self, u_t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> tuple[Tensor, Tensor]:
        """log p_k(u_t) `(N, K)` and E_k[u | u_t] `(N, K, J)`, u_t = alpha_t u + sigma_t e; alpha, sigma `(N, 1)`."""
        if self.full:
            values, V = torch.linalg.eigh(self.covariance)
        else:
            values, V = self.covariance, torch.eye(self.columns).to(self.covariance).expand(len(self.mean), -1, -1)
        a, s = alpha_t.unsqueeze(2), sigma_t.unsqueeze(2)
        values = values.clamp_min(0)
        turned = torch.einsum("nkj,kjl->nkl", u_t.unsqueeze(1) - a * self.mean, V)
        variance = a.square() * values + s.square()
        log_p = -0.5 * (turned.square() / variance + variance.log() + LOG_2PI).sum(2)
        return log_p, self.mean + torch.einsum("nkl,kjl->nkj", turned * a * values / variance, V)

    def pull(self, u: Tensor) -> Tensor:
        """The gradient of every log p_k at u `(N, J)`: `(N, K, J)`."""
        gap = self.mean - u.unsqueeze(1)
        if not self.full:
            return gap / self.covariance
        return torch.einsum("nkj,kjl->nkl", gap, torch.cholesky_inverse(torch.linalg.cholesky(self.covariance)))

    def _pairs(self) -> Tensor:
        return torch.triu_indices(self.columns, self.columns)

    def _log_diagonal(self, u: Tensor, mask: Tensor | None) -> Tensor:
        precision = 1 / self.covariance
        constant = self.mean.square() * precision + self.covariance.log() + LOG_2PI
        seen = constant.sum(1) if mask is None else mask.double() @ constant.T
        return -0.5 * (u.square() @ precision.T - 2 * u @ (self.mean * precision).T + seen)

    def _log_full(self, u: Tensor, pattern: Tensor | slice) -> Tensor:
        L = torch.linalg.cholesky(self.covariance[:, pattern][:, :, pattern])
        inverse = torch.linalg.solve_triangular(L, torch.eye(L.shape[1]).to(L).expand_as(L), upper=False)
        mean, out = self.mean[:, pattern], u.new_empty(len(u), len(L))
        constant = -0.5 * L.shape[1] * LOG_2PI - L.diagonal(dim1=1, dim2=2).log().sum(1)
        for k in range(len(L)):
            out[:, k] = constant[k] - 0.5 * ((u - mean[k]) @ inverse[k].T).square().sum(1)
        return out

    def _quadratic(self) -> Tensor:
        """log p_k as a linear function of the products u_i u_j, of u and of 1: `(features, K)`."""
        L = torch.linalg.cholesky(self.covariance)
        P = torch.cholesky_inverse(L)
        b, (i, j) = (P @ self.mean.unsqueeze(2)).squeeze(2), self._pairs()
        log_det = 2 * L.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = -0.5 * ((b * self.mean).sum(1) + log_det + self.columns * LOG_2PI)
        twice = torch.where(i == j, -0.5, -1.0).to(P)
        return torch.cat([P[:, i, j] * twice, b, constant.unsqueeze(1)], 1).T

    def _moments(self, u: Tensor, mask: Tensor | None, extra: Any, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over rows of R, R u and R u u^T (its diagonal), missing entries at their conditional moments."""
        if not self.full:
            seen = R.sum(0).unsqueeze(1) if mask is None else R.T @ mask.double()
            return seen, R.T @ u, R.T @ u.square()
        n, K, J = R.sum(0).unsqueeze(1), R.shape[1], self.columns
        if extra is None:
            return n, R.T @ u, torch.stack([(u * R[:, k : k + 1]).T @ u for k in range(K)])
        if mask is None:
            total, (i, j) = R.T @ extra, self._pairs()
            second = u.new_zeros(K, J, J)
            second[:, i, j] = second[:, j, i] = total[:, : len(i)]
            return n, total[:, len(i) : -1], second
        return n, *self._moments_with_gaps(u, extra, R)

    def _moments_with_gaps(self, u: Tensor, extra: Any, R: Tensor) -> tuple[Tensor, Tensor]:
        K, J = self.mean.shape
        first, second = u.new_zeros(K, J), u.new_zeros(K, J, J)
        for pattern, index in extra:
            r, hole = R[index], (~pattern).nonzero().squeeze(1)
            gain, covariance = self._conditional(pattern)
            full = u[index].repeat(K, 1, 1)
            gap = full[:, :, pattern] - self.mean[:, None, pattern]
            full[:, :, hole] = self.mean[:, None, hole] + gap @ gain.mT
            weighted = full * r.T.unsqueeze(2)
            first += weighted.sum(1)
            second += weighted.mT @ full
            second[:, hole[:, None], hole] += r.sum(0)[:, None, None] * covariance
        return first, second

    def _conditional(self, pattern: Tensor) -> tuple[Tensor, Tensor]:
        """Of every component: the gain `(K, m, o)` and the covariance `(K, m, m)` of the missing given the observed."""
        S, o, m = self.covariance, pattern, ~pattern
        if not o.any():
            return S.new_zeros(len(S), len(o), 0), S
        S_mo = S[:, m][:, :, o]
        gain = torch.linalg.solve(S[:, o][:, :, o], S_mo.mT).mT
        covariance = S[:, m][:, :, m] - gain @ S_mo.mT
        return gain, (covariance + covariance.mT) / 2


def _transition(levels: int, blur: float) -> Tensor:
    """T_lz: a share stays at z, the rest spreads to the levels around it; the two ends stay (they are often spikes)."""
    level = torch.arange(levels, dtype=torch.float64)
    T = (-0.5 * ((level.unsqueeze(1) - level) / blur).square()).exp()
    T[:, 0], T[:, -1] = 0.0, 0.0
    T[0, 0] = T[-1, -1] = 1.0
    return (1 - STAYS) * T / T.sum(0) + STAYS * torch.eye(levels, dtype=torch.float64)


def patterns(mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The distinct masks `(J,)` and the rows that have each."""
    distinct, which = torch.unique(mask, dim=0, return_inverse=True)
    rows = torch.argsort(which, stable=True).split(torch.bincount(which, minlength=len(distinct)).tolist())
    return [(distinct[k].bool(), rows[k]) for k in range(len(distinct))]


def _count(index: Tensor, weight: Tensor | None, R: Tensor, size: int) -> Tensor:
    """The responsibilities of the rows that have each value: `(size, K)`."""
    count = R.new_zeros(size, R.shape[1])
    for j in range(index.shape[1]):
        count.index_add_(0, index[:, j], R if weight is None else R * weight[:, j : j + 1])
    return count


def _centre(low: Tensor, high: Tensor) -> Tensor:
    low, high = torch.where(low.isinf(), high, low), torch.where(high.isinf(), low, high)
    return ((low + high) / 2).nan_to_num(0.0, 0.0, 0.0)


def _marginal(u: Tensor, weight: Tensor | None, components: int) -> tuple[Tensor, Tensor]:
    """The mean of every column, and its variance over K^(2/J): how wide a component is before it has seen a row."""
    weight = torch.ones_like(u) if weight is None else weight
    n = weight.sum(0, keepdim=True).clamp_min(1)
    mean = (u * weight).sum(0, keepdim=True) / n
    variance = ((u - mean).square() * weight).sum(0, keepdim=True) / n
    return mean, variance.clamp_min(1e-6) / math.pow(components, 2 / u.shape[1])
