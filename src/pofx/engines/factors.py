"""Factors: K normal components whose covariance is low rank and a diagonal; and which component may have which code.

    p_k(u) = N(u; m_k, L_k L_k^T + diag(s_k))            u = m_k + L_k z + e,  z ~ N(0, I_F)
    beta = L^T (L L^T + s)^-1,   C = (scatter + a B) / (n + a)
    L <- C beta^T (I - beta L + beta C beta^T)^-1,   s <- diag(C - L beta C)

One EM step for L and s at every M step, so the penalised likelihood rises (an AECM). Rows without gaps never need a
J x J matrix: everything goes through the F factors. B and a are the prior of `components.Normal`.
References: Ghahramani and Hinton 1996 (CRG-TR-96-1); McLachlan and Peel 2000 (AECM); Tipping and Bishop 1999 (start).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pofx.engines.bins import LOG_2PI
from pofx.engines.components import Block
from pofx.engines.normals import Normal, patterns
from pofx.randomness import Rng

FLOOR = 1e-3  # of the prior variance: no column is explained without rest


class Factor(Normal):
    """Factor analysers; u `(N, J)` with zeros where the mask is False.

    Args:
        columns: J.
        factors: F, fewer than J.
        smoothing: a.
        round_prior: B is the same in every direction.
    """

    mean: Tensor
    loading: Tensor
    noise: Tensor
    prior: Tensor

    def __init__(self, columns: int, factors: int, smoothing: float, round_prior: bool = False) -> None:
        Block.__init__(self)
        self.round_prior = round_prior
        self.columns, self.full, self.tied, self.smoothing = columns, True, False, smoothing
        self.factors = max(1, min(factors, columns - 1)) if columns > 1 else 0
        self.register_buffer("mean", torch.zeros(1, columns, dtype=torch.float64))
        self.register_buffer("loading", torch.zeros(1, columns, self.factors, dtype=torch.float64))
        self.register_buffer("noise", torch.ones(1, columns, dtype=torch.float64))
        self.register_buffer("prior", torch.ones(1, columns, dtype=torch.float64))

    @property
    def covariance(self) -> Tensor:  # type: ignore[override]
        """L L^T + diag(s), `(K, J, J)`."""
        return self.loading @ self.loading.mT + torch.diag_embed(self.noise)

    def prepare(self, x: Tensor, mask: Tensor | None, train: bool = False) -> tuple[Tensor, Tensor | None, Any]:
        if mask is None:
            return x, None, None
        return x.masked_fill(~mask, 0.0), mask, patterns(mask)

    def start(self, rows: tuple[Tensor, Tensor | None, Any], components: int) -> None:
        mean, self.prior = self._marginal(rows[0], None if rows[1] is None else rows[1].double(), components)
        self.mean, self.noise = mean.repeat(components, 1), self.prior.repeat(components, 1)
        self.loading = mean.new_zeros(components, self.columns, self.factors)

    def log_prob(self, rows: tuple[Tensor, Tensor | None, Any]) -> Tensor:
        if rows[1] is not None:
            return super().log_prob(rows)
        out = rows[0].new_empty(len(rows[0]), len(self.mean))
        for k in range(len(self.mean)):
            L, s = self.loading[k], self.noise[k]
            gap = rows[0] - self.mean[k]
            scaled = L / s.unsqueeze(1)
            root = torch.linalg.cholesky(torch.eye(L.shape[1]).to(L) + L.T @ scaled)
            turned = torch.linalg.solve_triangular(root, (gap @ scaled).T, upper=False)
            log_det = s.log().sum() + 2 * root.diagonal().log().sum()
            square = gap.square() @ (1 / s) - turned.square().sum(0)  # Woodbury
            out[:, k] = -0.5 * (square + log_det + self.columns * LOG_2PI)
        return out

    def maximise(self, rows: tuple[Tensor, Tensor | None, Any], R: Tensor) -> None:
        n, a = R.sum(0) + 1e-9, max(self.smoothing, 1e-6)
        dense = None if rows[1] is None else self._moments_with_gaps(rows[0], rows[2], R)
        first = R.T @ rows[0] if dense is None else dense[0]
        mean = (first + 1e-9 * self.mean) / n.unsqueeze(1)  # an empty component stays where it is
        for k in range(len(mean)):
            if dense is None:
                gap = rows[0] - mean[k]
                C = _Scatter(gap, R[:, k], self.prior[0], a, None)
            else:
                outer = dense[1][k] - n[k] * mean[k].unsqueeze(1) * mean[k]
                C = _Scatter(rows[0][:0], n[k : k + 1], self.prior[0], a, outer)
            self.loading[k], self.noise[k] = self._step(k, C)
        self.mean = mean

    def _step(self, k: int, C: _Scatter) -> tuple[Tensor, Tensor]:
        L, s = self.loading[k], self.noise[k]
        least = FLOOR * self.prior[0]
        if not bool(L.any()) or not self.factors:
            return self._principal(C, least)
        scaled = L / s.unsqueeze(1)
        inner = torch.eye(L.shape[1]).to(L) + L.T @ scaled
        beta = torch.linalg.solve(inner, scaled.T)
        C_beta = C.times(beta.T)
        moment = torch.eye(L.shape[1]).to(L) - beta @ L + beta @ C_beta
        loading = torch.linalg.solve(moment, C_beta.T).T
        return loading, torch.maximum(C.diagonal() - (loading * C_beta).sum(1), least)

    def _principal(self, C: _Scatter, least: Tensor) -> tuple[Tensor, Tensor]:
        """The principal directions of C, which an EM step then turns into factors."""
        values, V = torch.linalg.eigh(C.dense())
        rest = values[: self.columns - self.factors].mean().clamp_min(1e-12)
        keep = slice(self.columns - self.factors, None)
        loading = V[:, keep] * (values[keep] - rest).clamp_min(0.01 * rest).sqrt()
        return loading, torch.maximum(C.diagonal() - loading.square().sum(1), torch.maximum(least, 0.1 * rest))

    def sample(self, pick: Tensor, rng: Rng, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return super().sample(pick, rng, u, mask)
        z = rng.normal((len(pick), self.factors), torch.float64)
        e = rng.normal((len(pick), self.columns), torch.float64)
        low_rank = (self.loading[pick] @ z.unsqueeze(2)).squeeze(2)
        return self.mean[pick] + low_rank + self.noise.sqrt()[pick] * e


class _Scatter:
    """C = (scatter + a B) / (n + a), by its products where rows have no gaps."""

    def __init__(self, gap: Tensor, weight: Tensor, prior: Tensor, a: float, outer: Tensor | None) -> None:
        self.gap, self.weight, self.prior, self.a, self.outer = gap, weight, prior, a, outer
        self.total = weight.sum() + a

    def times(self, Q: Tensor) -> Tensor:
        """C Q, `(J, F)`."""
        own = self.gap.T @ ((self.gap @ Q) * self.weight.unsqueeze(1)) if self.outer is None else self.outer @ Q
        return (own + self.a * self.prior.unsqueeze(1) * Q) / self.total

    def diagonal(self) -> Tensor:
        """The variances, `(J,)`."""
        own = self.weight @ self.gap.square() if self.outer is None else self.outer.diagonal().clamp_min(0)
        return (own + self.a * self.prior) / self.total

    def dense(self) -> Tensor:
        """C itself."""
        return self.times(torch.eye(len(self.prior)).to(self.prior))


class Owned(Block):
    """A code that says which components a row may come from: component k belongs to code k mod levels."""

    owner: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels, self.smoothing = levels, 0.0
        self.register_buffer("owner", torch.zeros(1, dtype=torch.long))

    def prepare(self, x: Tensor, mask: Tensor | None, train: bool = False) -> tuple[Tensor, Tensor | None]:
        return x[:, 0].long(), None if mask is None else mask[:, 0]

    def start(self, rows: tuple[Tensor, Tensor | None], components: int) -> None:
        self.owner = torch.arange(components, device=rows[0].device) % self.levels

    def log_prob(self, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        other = rows[0].unsqueeze(1) != self.owner
        other = other if rows[1] is None else other & rows[1].unsqueeze(1)
        return torch.zeros(other.shape, dtype=torch.float64, device=other.device).masked_fill(other, -torch.inf)

    def maximise(self, rows: tuple[Tensor, Tensor | None], R: Tensor) -> None:
        pass

    def log_prior(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)

    def sample(self, pick: Tensor, rng: Rng) -> Tensor:
        """The codes `(n, 1)` of the components `pick` `(n,)`."""
        return self.owner[pick].double().unsqueeze(1)
