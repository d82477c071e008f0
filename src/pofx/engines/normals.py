"""Normals: K normal densities over some columns, full, diagonal or with one (tied) full covariance.

    p_k(u) = N(u; m_k, S_k),    S_k = (scatter_k + a B) / (n_k + a)
    E_k[u_m | u_o] = m_m + S_mo S_oo^-1 (u_o - m_o)

a is `smoothing`, in pseudo-observations, and B the marginal variances over K^(2/J), or (round) their mean in every
direction: an entry that hardly varies is then no reason to be sure. A missing entry is integrated out exactly.
References: Dempster, Laird and Rubin 1977; Fraley and Raftery 2007 (the prior); Little and Rubin 2002 (gaps).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pofx.engines.bins import LOG_2PI
from pofx.engines.components import Block, marginal
from pofx.randomness import Rng

FEATURES = 2**24  # most numbers that the products u_i u_j of the training rows may take


class Normal(Block):
    """A normal density; u `(N, J)` with zeros where the mask is False. Full, diagonal or one (tied) full covariance."""

    def __init__(
        self, columns: int, full: bool, smoothing: float, tied: bool = False, round_prior: bool = False
    ) -> None:
        super().__init__()
        self.columns, self.full, self.smoothing, self.tied = columns, full or tied, smoothing, tied
        self.round_prior = round_prior
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
        mean, self.prior = self._marginal(rows[0], weight, components)
        self.mean = mean.repeat(components, 1)
        spread = torch.diag(self.prior[0]).unsqueeze(0) if self.full else self.prior
        self.covariance = spread.repeat(components, *[1] * (spread.ndim - 1))

    def _marginal(self, u: Tensor, weight: Tensor | None, components: int) -> tuple[Tensor, Tensor]:
        """The mean, and the prior of the variances, `(1, J)` each."""
        mean, prior = marginal(u, weight, components)
        return mean, prior.mean().expand_as(prior).clone() if self.round_prior else prior

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

    def expected(self, u: Tensor, mask: Tensor, r: Tensor) -> Tensor:
        """sum_k r_k E_k[u | the entries of u where the mask is True], `(N, J)`, for weights r `(N, K)`."""
        if not self.full:
            return torch.where(mask, u, r @ self.mean)
        out = u.clone()
        for pattern, index in patterns(mask):
            hole, (gain, _) = (~pattern).nonzero().squeeze(1), self._conditional(pattern)
            shift = self.mean[:, hole] - (gain @ self.mean[:, pattern, None]).squeeze(2)
            weighted = (r[index].unsqueeze(2) * u[index][:, None, pattern]).flatten(1)  # (rows, K observed)
            out[index[:, None], hole] = r[index] @ shift + weighted @ gain.mT.flatten(0, 1)
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


def patterns(mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The distinct masks `(J,)` and the rows that have each."""
    distinct, which = torch.unique(mask, dim=0, return_inverse=True)
    rows = torch.argsort(which, stable=True).split(torch.bincount(which, minlength=len(distinct)).tolist())
    return [(distinct[k].bool(), rows[k]) for k in range(len(distinct))]
