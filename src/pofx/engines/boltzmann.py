"""Restricted Boltzmann machine: its density, its Gibbs moves, its sums.

    p(s, h) = exp(b.s + a.h + s.W h) / Z,    s = units of the visible codes,  h in {0, 1}^H
    log p~(s) = b.s + sum_j softplus(a_j + (s W)_j)                                  the h summed out in closed form
    p(h_j = 1 | s) = sigmoid(a_j + (s W)_j),    p(x_i = k | h) = softmax_k(b_ik + (W h)_ik)
    Z = sum_h exp(a.h) prod_i sum_k exp(b_ik + (W h)_ik)                             all 2^H terms, where H is small

An entry with K levels has K - 1 units; code 0 is the one without a unit, so a binary entry is one unit. Given all h the
machine is a mixture of 2^H products: log p of any part of x, and draws of the rest, are then sums and draws over h.

References: Smolensky 1986; Hinton 2002 (contrastive divergence); softmax units, Salakhutdinov et al. 2007; annealing of
the temperature, Salakhutdinov and Murray 2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..randomness import Rng
from .ais import LogZ, annealed

PATTERNS = 1 << 13  # patterns of h that are computed at once
TABLE = 1 << 25  # numbers (rows x 2^H) that are held at once


class Codes:
    """Codes x (B, D) <-> units s (B, S).

    Args:
        levels: K of each of the D entries, each at least 1.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels, self.most = list(levels), max(levels)
        self.binary, self.shared = self.most <= 2 and min(levels) == 2, len(set(levels)) == 1
        k = torch.tensor(self.levels)
        self.valid = torch.arange(1, self.most) < k[:, None]  # (D, most - 1): which units there are
        self.entry = self.valid.nonzero()[:, 0]  # the entry of each unit
        self.size = int(self.valid.sum())

    def units(self, x: Tensor) -> Tensor:
        """s (B, S) of codes x (B, D), float32."""
        s = x.unsqueeze(-1) == torch.arange(1, self.most, device=x.device)
        return s.flatten(-2).float() if self.shared else s[..., self.valid.to(x.device)].float()

    def codes(self, s: Tensor) -> Tensor:
        """x (B, D), int64, of units s (B, S)."""
        return (self._spread(s, 0.0) * torch.arange(1, self.most, device=s.device)).sum(-1).round().long()

    def logits(self, t: Tensor) -> Tensor:
        """Unit logits t (..., S) -> those of all codes (..., D, most), -inf where there is no such code."""
        return F.pad(self._spread(t, -torch.inf), (1, 0))

    def log_sum(self, t: Tensor) -> Tensor:
        """log sum_k exp(logit of k) of each entry, (..., D)."""
        return F.softplus(t) if self.binary else torch.logsumexp(self.logits(t), -1)

    def sample(self, t: Tensor, rng: Rng) -> Tensor:
        """Units (B, S) of codes drawn from logits t (B, S)."""
        if self.binary:
            return rng.bernoulli(t.sigmoid(), tuple(t.shape)).to(t.dtype)
        total = self.logits(t).softmax(-1).cumsum(-1)
        u = rng.uniform((*total.shape[:-1], 1), t.dtype) * total[..., -1:]
        x = (total <= u).sum(-1)
        return self.units(torch.minimum(x, torch.tensor(self.levels, device=x.device) - 1)).to(t.dtype)

    def of_units(self, mask: Tensor) -> Tensor:
        """A mask of entries (B, D) as one of units (B, S)."""
        return mask[..., self.entry.to(mask.device)]

    def _spread(self, t: Tensor, empty: float) -> Tensor:
        """(..., S) -> (..., D, most - 1)."""
        if self.shared:
            return t.unflatten(-1, (len(self.levels), self.most - 1))
        out = t.new_full((*t.shape[:-1], len(self.levels), self.most - 1), empty)
        out[..., self.valid.to(t.device)] = t
        return out


@dataclass(frozen=True)
class Boltzmann:
    """The machine with its numbers.

    Attributes:
        codes: of the visible entries.
        W: (S, H). b: (S,) or (B, S), one for each row. a: (H,) or (B, H).
    """

    codes: Codes
    W: Tensor
    b: Tensor
    a: Tensor

    def log_tilde(self, s: Tensor) -> Tensor:
        """log sum_h exp(b.s + a.h + s W h) of units s (B, S), (B,)."""
        return (s * self.b).sum(-1) + F.softplus(self.hidden(s)).sum(-1)

    def hidden(self, s: Tensor) -> Tensor:
        """Logits of h given s, (B, H)."""
        return self.a + s @ self.W

    def visible(self, h: Tensor) -> Tensor:
        """Unit logits of x given h, (B, S)."""
        return self.b + h @ self.W.T

    def gibbs(self, s: Tensor, sweeps: int, rng: Rng, fixed: Tensor | None = None) -> Tensor:
        """s (B, S) after sweeps of h given s and s given h; units where `fixed` is True never move."""
        for _ in range(sweeps):
            h = rng.bernoulli(self.hidden(s).sigmoid(), (len(s), self.W.shape[1])).to(s.dtype)
            new = self.codes.sample(self.visible(h), rng)
            s = new if fixed is None else torch.where(fixed, s, new)
        return s

    def double(self) -> Boltzmann:
        """The same in float64."""
        return Boltzmann(self.codes, *(t.detach().double() for t in (self.W, self.b, self.a)))

    def row(self, i: int) -> Boltzmann:
        """The machine of one row, where rows have biases of their own."""
        return replace(self, b=self.b[i] if self.b.ndim > 1 else self.b, a=self.a[i] if self.a.ndim > 1 else self.a)

    # sums over all h, of a machine with one row of biases

    def patterns(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All h in chunks, with the units' logits: (M, H), (M, S)."""
        H = self.W.shape[1]
        for start in range(0, 1 << H, PATTERNS):
            number = torch.arange(start, min(start + PATTERNS, 1 << H), device=self.W.device)
            h = ((number[:, None] >> torch.arange(H, device=self.W.device)) & 1).to(self.W.dtype)
            yield h, self.visible(h)

    def log_z(self) -> Tensor:
        """log Z, a scalar, by all 2^H patterns; differentiable."""
        parts = [torch.logsumexp(h @ self.a + self.codes.log_sum(t).sum(-1), 0) for h, t in self.patterns()]
        return torch.logsumexp(torch.stack(parts), 0)

    def log_z_by_codes(self) -> Tensor:
        """log Z, a scalar, by all codes of x: for few entries and many h."""
        every = torch.cartesian_prod(*(torch.arange(k, device=self.W.device) for k in self.codes.levels))
        return torch.logsumexp(
            self.log_tilde(self.codes.units(every.reshape(-1, len(self.codes.levels))).to(self.W)), 0
        )

    def log_weights(self, s: Tensor, observed: Tensor) -> Tensor:
        """log sum over the hidden entries of x of p~(x, h), for every h: (B, 2^H).

        Args:
            s: units (B, S).
            observed: entries (B, D) that are what s says; the others are summed out.
        """
        seen = torch.where(self.codes.of_units(observed), s, 0.0).to(self.W.dtype)
        base, slope, gone = seen @ self.b, seen @ self.W, (~observed).to(self.W.dtype)
        parts = [h @ self.a + slope @ h.T + gone @ self.codes.log_sum(t).T for h, t in self.patterns()]
        return torch.cat(parts, 1) + base[:, None]

    def log_part(self, s: Tensor, observed: Tensor) -> Tensor:
        """log sum over what is not observed of p~, (B,)."""
        rows = max(1, TABLE >> self.W.shape[1])
        pairs = zip(s.split(rows), observed.split(rows), strict=True)
        return torch.cat([torch.logsumexp(self.log_weights(*pair), 1) for pair in pairs])

    def complete(self, s: Tensor, observed: Tensor, n: int, rng: Rng) -> Tensor:
        """n exact draws of units (n, B, S) given what is observed."""
        rows, drawn = max(1, TABLE >> self.W.shape[1]), []
        for part, seen in zip(s.split(rows), observed.split(rows), strict=True):
            weights = self.log_weights(part, seen).softmax(1).cumsum(1)
            u = rng.uniform((len(part), n), torch.float64) * weights[:, -1:]
            number = torch.searchsorted(weights, u.to(weights.dtype)).clamp_max(weights.shape[1] - 1)
            h = (number.T[..., None] >> torch.arange(self.W.shape[1], device=s.device)) & 1  # (n, rows, H)
            new = self.codes.sample(self.visible(h.to(self.W.dtype)).flatten(0, 1), rng).unflatten(0, (n, -1))
            drawn.append(torch.where(self.codes.of_units(seen), part, new.to(s.dtype)))
        return torch.cat(drawn, 1)

    # annealing: the biases of the data at heat 0, where h is free, to the machine at heat 1

    def at(self, heat: float, start: Tensor) -> Boltzmann:
        """The machine on the way: heat W, heat a, and visible biases between `start` (S,) and b."""
        return replace(self, W=heat * self.W, a=heat * self.a, b=(1 - heat) * start + heat * self.b)

    def anneal(self, s: Tensor, start: Tensor, temperatures: int, rng: Rng, rows: int, reverse: bool = False) -> LogZ:
        """log Z by annealing from the product with unit biases `start`; see `ais.annealed`.

        Args:
            s: (chains * rows, S): draws of the product, or in reverse of the machine.
            start: (S,).
            temperatures: steps of the path.
            rng: of the Gibbs moves.
            rows: machines in the batch, whose biases have chains * rows rows.
            reverse: from the machine to the product.
        """
        log_z0 = float(self.codes.log_sum(start.double()).sum()) + self.W.shape[1] * math.log(2)

        def log_f(s: Tensor, heat: float) -> Tensor:
            return self.at(heat, start).log_tilde(s).double() - (1 - heat) * log_z0

        def gain(s: Tensor, a: float, b: float) -> Tensor:
            return log_f(s, b) - log_f(s, a)

        def move(s: Tensor, heat: float) -> tuple[Tensor, float]:
            return self.at(heat, start).gibbs(s, 1, rng), 1.0

        return annealed(gain, move, s, temperatures, rows=rows, reverse=reverse)
