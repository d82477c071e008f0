"""Columns: what every column of a table says by itself, seen through noise.

    p(u_i) = sum_k w_k N(m_k, d_k^2)                      a column: its levels (d_k = 0), or a smooth histogram
    log p(k | v_i) = log w_k + log N(v_i; m_k, s^2 + d_k^2) + const,      v = u + s e
    E[u_i | v_i, k] = m_k + (v_i - m_k) d_k^2 / (s^2 + d_k^2)

These are exact for a column alone; a network that adds to log p(k | v_i) what the other columns say starts from
independent columns, and need not learn where the levels are. A category of K codes is K entries, one of them sqrt(2)
and the others 0, so that all codes are equally far apart, and log p(k | v) follows from entry k alone.

The weights (and, where a column is smooth, the middles and deviations of its pieces, at even quantiles) are measured on
the first rows of a fit and then held, so that what is trained on them stands still.

References: multinomial parts of TabDDPM (Kotelnikov 2022, arXiv:2209.15421); expectations over a softmax as denoiser
(Dieleman 2022, arXiv:2211.15089); Bayesian flow networks (Graves 2023, arXiv:2308.07037).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..randomness import Rng

PIECES = 64  # of the histogram of a smooth column
ROWS = 4096  # from which its quantiles are taken
COUNTED = 30_000  # rows from which weights of levels are counted
LEAST = -60.0  # of log p(k): smaller numbers make exp slow, and mean the same
PRIOR = 0.2  # rows that every level is given beforehand


@dataclass(frozen=True)
class Column:
    """Where a column stands in u, and its levels: one entry each ("codes"), values of one entry ("levels"), or none."""

    kind: str
    start: int
    values: tuple[float, ...] = ()

    @property
    def entries(self) -> int:
        """How many entries of u it takes."""
        return len(self.values) if self.kind == "codes" else 1

    @property
    def pieces(self) -> int:
        """How many terms its mixture has."""
        return len(self.values) or PIECES


class Columns(nn.Module):
    """Mixtures of all columns of u (B, d), their L pieces side by side.

    Args:
        columns: in the order of u.
    """

    entry: Tensor  # of a piece
    owner: Tensor  # column of an entry
    column: Tensor  # of a piece
    codes: Tensor  # whether a piece is one of a category
    point: Tensor  # whether an entry is of levels or codes
    onto: Tensor
    log_w: Tensor
    middle: Tensor
    width: Tensor
    counts: Tensor
    kept: Tensor
    filled: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.sizes = [c.pieces for c in self.columns]
        self.entries, self.pieces = sum(c.entries for c in self.columns), sum(self.sizes)
        self.smooth = [c.start for c in self.columns if c.kind == "smooth"]
        entry = [c.start + k * (c.kind == "codes") for c in self.columns for k in range(c.pieces)]
        owner = [i for i, c in enumerate(self.columns) for _ in range(c.entries)]
        self._keep("entry", torch.tensor(entry))
        self._keep("owner", torch.tensor(owner))
        self._keep("column", torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes)))
        self._keep("codes", torch.tensor([c.kind == "codes" for c in self.columns])[self.column])
        self._keep("point", torch.tensor([c.kind != "smooth" for c in self.columns])[self.owner])
        onto = torch.zeros(self.pieces, self.entries)
        onto[torch.arange(self.pieces), self.entry] = 1.0
        self._keep("onto", onto)
        self.register_buffer("log_w", torch.cat([torch.full((n,), -math.log(n)) for n in self.sizes]))
        self.register_buffer("counts", torch.zeros(self.pieces, dtype=torch.float64))
        self.register_buffer("kept", torch.full((ROWS, len(self.smooth)), math.nan))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        even = torch.special.ndtri((torch.arange(PIECES, dtype=torch.float64) + 0.5) / PIECES)
        parts = [torch.tensor(c.values) if c.values else even for c in self.columns]
        self.register_buffer("middle", torch.cat(parts).float())
        self.register_buffer("width", torch.zeros(self.pieces))
        self._set_pieces(range(len(self.smooth)), [even] * len(self.smooth))

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def observed(self, entries: Tensor) -> Tensor:
        """Which columns are observed, (B, columns), of a mask (B, d) of entries."""
        return entries[:, [c.start for c in self.columns]]

    def evidence(self, v: Tensor, s: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log p(k | v_i) and E[u_i | v_i, k], both (B, L), of v (B, d) and its noise s (B,); a gap says nothing."""
        spread, near = s[:, None].square() + self.width.square(), v[:, self.entry]
        away = near - self.middle
        log_n = -0.5 * (away.square() / spread + spread.log())
        # |v - c_k|^2 = |v|^2 - 2 v_k m_k + m_k^2 over all entries of a code
        log_n = torch.where(self.codes, (near - 0.5 * self.middle) * self.middle / spread, log_n)
        if observed is not None:
            log_n = torch.where(self.observed(observed)[:, self.column], log_n, 0.0)
        return self.normalised(self.log_w + log_n), self.middle + away * self.width.square() / spread

    def normalised(self, logits: Tensor) -> Tensor:
        """Logits (B, L) as log probabilities, column by column."""
        parts = [part.log_softmax(-1) for part in logits.split(self.sizes, -1)]
        return torch.cat(parts, -1).clamp_min(LEAST)

    def mean(self, log_p: Tensor, means: Tensor) -> Tensor:
        """E[u] (B, d) of log p(k) and E[u | k], both (B, L)."""
        return (log_p.exp() * means) @ self.onto

    def pieces_of(self, u: Tensor) -> Tensor:
        """The piece (B, columns) in which each column of u (B, d) lies, as a place among all L."""
        found, first = [], 0
        for c in self.columns:
            middle, part = self.middle[first : first + c.pieces], u[:, c.start : c.start + c.entries]
            if c.kind == "codes":
                k = part.argmax(-1)
            else:
                k = torch.bucketize(part[:, 0].contiguous(), (middle[1:] + middle[:-1]) / 2)
            found.append(k + first)
            first += c.pieces
        return torch.stack(found, 1)

    def log_points(self, u: Tensor, s: float, rng: Rng) -> Tensor:
        """E log p(x | u + s e) (B,) of the columns of levels: that noise of deviation s hides none of them."""
        v = u + s * rng.normal(tuple(u.shape), u.dtype)
        log_p, _ = self.evidence(v, torch.full_like(v[:, 0], s))
        of_column = torch.tensor([c.kind != "smooth" for c in self.columns], device=u.device)
        return torch.where(of_column, log_p.gather(1, self.pieces_of(u)), 0.0).sum(1)

    @torch.no_grad()
    def measure(self, u: Tensor, observed: Tensor | None = None) -> None:
        """Take rows u (B, d) into account, while they are among the first of a fit."""
        if not self.training or int(self.filled) >= COUNTED:
            return
        seen = torch.ones_like(u, dtype=torch.bool) if observed is None else observed
        filled = int(self.filled)
        if self.smooth and filled < ROWS:
            rows = torch.where(seen, u, math.nan)[: ROWS - filled, self.smooth]
            self.kept[filled : filled + len(rows)] = rows.to(self.kept.dtype)
            self._set_pieces(range(len(self.smooth)), [self._quantiles(j) for j in range(len(self.smooth))])
        self.counts.index_add_(0, self.pieces_of(u).flatten(), self.observed(seen).flatten().double())
        self.filled += len(u)
        self._set_weights()

    def _set_weights(self) -> None:
        parts = []
        for c, counts in zip(self.columns, self.counts.split(self.sizes), strict=True):
            # pieces at even quantiles have even weights
            even = torch.full_like(counts, -math.log(c.pieces))
            parts.append(even if c.kind == "smooth" else ((counts + PRIOR) / (counts + PRIOR).sum()).log())
        self.log_w.copy_(torch.cat(parts))

    def _quantiles(self, j: int) -> Tensor:
        values = self.kept[:, j].double()
        values = values[~values.isnan()]
        if len(values) < 2:
            return torch.special.ndtri((torch.arange(PIECES, dtype=torch.float64) + 0.5) / PIECES)
        q = (torch.arange(PIECES, dtype=torch.float64, device=values.device) + 0.5) / PIECES
        return torch.quantile(values, q)

    def _set_pieces(self, which: Sequence[int], middles: Sequence[Tensor]) -> None:
        starts = [sum(self.sizes[:i]) for i, c in enumerate(self.columns) if c.kind == "smooth"]
        for j in which:
            m, place = middles[j], slice(starts[j], starts[j] + PIECES)
            gap = torch.cat([m[1:2] - m[:1], m[1:] - m[:-1], m[-1:] - m[-2:-1]])
            self.middle[place] = m.float()
            self.width[place] = (0.5 * torch.maximum(gap[1:], gap[:-1])).clamp_min(1e-3).float()
