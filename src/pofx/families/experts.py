"""Experts: kernels of several widths and the single columns; what is strange to any of them is strange.

    log p(x) = sum_k [ e z_k - max(0, -z_k)^(5/4) ] - log Z,   z_k = (log p_k(x) - m_k) / d_k,   e = 1/1000
    m_k = median of l_k,   d_k = mean |l_k - m_k|,             l_k: leave-one-out log p_k of training rows
    p_wide, p_narrow = 1/N sum_i N(u; u_i, h^2 I),   h = 1 and 0.3         u: the chart, standardised
    p_single = prod_j 1/N sum_i N(u_j; u_ij, h_j^2),   h_j = 0.9 min(std, IQR / 1.34) N^(-1/5)

One expert is a poor judge of what belongs: narrow kernels take a small crowd of intruders for a mode, wide ones blur,
and single columns see no dependence. Dividing by the spread d_k lets each speak as loudly as it usually varies: an
opinion pool, or product of experts. That a row is more usual than the median says little, and must not outweigh what
another expert finds strange in it: hence e, and the power. Z is unknown, so log p is unnormalised: it ranks rows,
which is all that `anomaly` asks, and cannot be compared with another model's.
Offers log_prob; of observed entries each expert's own marginals, beside those of training rows. Fitted in closed form;
complete rows only are centres.
References: Hinton 2002 (products of experts); Genest and Zidek 1986 (opinion pools); Silverman 1986 (widths).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.data import Data
from pofx.model import Card, Given, Model, Quality, Report, Unsupported, Value
from pofx.randomness import Rng

BLOCK = 2**22  # numbers in a block of a kernel matrix
FLOOR = 1e-2  # log p of one column is at least that of a share FLOOR / N at height 1, so that none outvotes all others
USUAL, POWER = 1e-3, 1.25  # how much opinions above the median count, and how those below it do
PEERS = 256  # training rows with which a row with gaps is compared
NARROWEST = 1e-2  # width of a column's kernels, in its standard deviations: repeated values make no spike


class Experts(Model):
    """A product of kernel densities, for rows of which one asks what does not belong.

    Args:
        widths: of the kernels of whole rows, in standard deviations of the columns.
        centres: training rows kept at most.
        queries: rows (at most) by whose leave-one-out log p the experts are weighed.
    """

    card = Card(
        density="unnormalised",
        sampling="none",
        training="closed form: kernels and their spread",
        latents="none",
        architecture="the training rows",
        branch=("explicit", "approximate", "energy"),
        incomplete="complete rows only; an error where there is none",
        summary="what is strange to kernels of several widths or to single columns: finds what does not belong",
        reference="Hinton 2002; Genest and Zidek 1986",
        given=False,
    )

    def __init__(self, *, widths: tuple[float, ...] = (1.0, 0.3), centres: int = 4096, queries: int = 1024) -> None:
        super().__init__()
        if not widths or min(widths) <= 0:
            raise ValueError(f"experts: widths is {widths}; expected numbers above 0.")
        self.widths, self.centres, self.queries = tuple(widths), centres, queries

    def _build(self) -> None:
        if self.given:
            raise Unsupported("experts learn p(x) alone; fit without given.")
        size = math.prod(self.chart.space.shape)
        self.register_buffer("rows", torch.zeros(0, size, dtype=torch.float64))
        for name, start in (("mean", 0.0), ("scale", 1.0), ("h", 1.0)):
            self.register_buffer(name, torch.full((size,), start, dtype=torch.float64))
        for name, start in (("usual", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((len(self.widths) + 1,), start, dtype=torch.float64))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        if prefix + "rows" in state:  # the number of rows is only known from the file
            self.rows = torch.empty_like(state[prefix + "rows"])
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]

    # fitting
    def _fit_closed(self, data: Data, rng: Rng, report: Report) -> None:
        train = data.part("train")
        whole = torch.arange(len(train))
        if train.observed is not None:
            whole = train.observed.flatten(1).all(1).nonzero().squeeze(1)
        if len(whole) < 2:
            raise Unsupported(f"experts: {len(whole)} rows are complete, and two are needed; impute first.")
        whole = whole[rng.permutation(len(whole))[: self.centres]]
        u = self.chart.encode(train.x[whole]).flatten(1).double()
        self.mean, deviation = u.mean(0), u.std(0, correction=0)
        self.scale = torch.where(deviation > 1e-9, deviation, torch.ones_like(deviation))
        self.rows = (u - self.mean) / self.scale
        self.h = _widths(self.rows)
        found = self._of_training(torch.ones_like(self.mean), self.queries)
        self.usual, self.spread = _reference(found)
        report({"step": 1, "loss": -float(_pooled(found, self.usual, self.spread).mean())})

    def _of_training(self, seen: Tensor, queries: int) -> Tensor:
        """Leave-one-out opinions of some training rows by the seen columns `(D,)`; `(N, K)`."""
        own = torch.arange(min(queries, len(self.rows)))
        return self._opinions(self.rows[own], seen.expand(len(own), -1), own)

    # the experts
    def _opinions(self, q: Tensor, seen: Tensor, own: Tensor | None = None) -> Tensor:
        """log p_k of rows `(B, D)` by their seen columns, but for constants, `(B, K)`; `own`: centres to leave out."""
        parts = []
        for rows in torch.arange(len(q), device=q.device).split(max(1, BLOCK // len(self.rows))):
            square = _squares(q[rows], self.rows, seen[rows])
            if own is not None:
                square[torch.arange(len(rows)), own[rows]] = torch.inf
            parts.append(torch.stack([torch.logsumexp(square / (-2 * h * h), 1) for h in self.widths], 1))
        return torch.cat([torch.cat(parts), self._singles(q, seen).unsqueeze(1)], 1)

    def _singles(self, q: Tensor, seen: Tensor) -> Tensor:
        """Sum of the columns' log p, `(B,)`, each up to its kernel's height."""
        out = q.new_zeros(len(q))
        for j in range(q.shape[1]):
            values, which = torch.unique(q[:, j], return_inverse=True)
            centres, counts = torch.unique(self.rows[:, j], return_counts=True)
            share = counts.double() / len(self.rows)
            parts = values.split(max(1, BLOCK // len(centres)))
            p = [((v.unsqueeze(1) - centres).square() / (-2 * self.h[j] ** 2)).exp() @ share for v in parts]
            out += (torch.cat(p) + FLOOR / len(self.rows)).log()[which] * seen[:, j]
        return out

    # hooks
    def _log_prob(self, x: Tensor, given: Given, observed: Tensor | None, draws: int, rng: Rng) -> Value:
        seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
        mask = self.chart.mask(seen).flatten(1).double()
        q = (self.chart.encode(x).flatten(1).double() - self.mean) / self.scale
        found, out = self._opinions(torch.where(mask > 0, q, 0.0), mask), q.new_zeros(len(q))
        patterns, which = torch.unique(mask, dim=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            usual, spread = self.usual, self.spread
            if not bool(pattern.all()):
                usual, spread = _reference(self._of_training(pattern, PEERS))
            rows = which == k
            out[rows] = _pooled(found[rows], usual, spread)
        return Value(out, Quality.UNNORMALISED)


def _reference(found: Tensor) -> tuple[Tensor, Tensor]:
    """What opinions `(N, K)` usually are, and how much they vary, `(K,)` each."""
    usual = found.median(0).values
    return usual, (found - usual).abs().mean(0).clamp_min(1e-6)


def _pooled(found: Tensor, usual: Tensor, spread: Tensor) -> Tensor:
    """log p up to a constant, `(N,)`, of opinions `(N, K)`."""
    z = (found - usual) / spread
    return (USUAL * z - (-z).clamp_min(0) ** POWER).sum(1)


def _widths(rows: Tensor) -> Tensor:
    """The width of each column's kernels, by the smaller of two spreads; one of them is moved by no outlier."""
    low, high = rows.quantile(torch.tensor([0.25, 0.75], dtype=rows.dtype), 0)
    deviation, middle = rows.std(0, correction=0), (high - low) / 1.34
    spread = torch.where(middle > 0, torch.minimum(middle, deviation), deviation)
    return (0.9 * spread * len(rows) ** -0.2).clamp_min(NARROWEST)


def _squares(q: Tensor, c: Tensor, seen: Tensor) -> Tensor:
    """Squared distances over the seen columns, `(B, N)`."""
    if bool((seen > 0).all()):
        return torch.cdist(q, c, compute_mode="donot_use_mm_for_euclid_dist").square()
    q = q * seen
    return (q.square().sum(1, keepdim=True) - 2 * q @ c.T + seen @ c.square().T).clamp_min(0)
