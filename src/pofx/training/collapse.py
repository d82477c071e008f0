"""Collapse: does a generator leave out part of the data, or repeat itself?  Looked at whenever a fit is validated.

    coverage     share of held-out rows with a draw nearer than their 5th neighbour        (arXiv:2002.09797)
    recall       share of held-out rows nearer to some draw than that draw's 5th neighbour  (arXiv:1904.06991)
    duplicates   share of draws whose nearest draw is nearer than a tenth of what is usual between held-out rows
    modes        clusters of the training rows (k-means, in the chart) that get draws, and the share of the data
                 that lies in the others: those with less than a tenth of their draws, which chance does not explain

A discriminator need not see what is missing, and a loss does not tell: only draws do. The first two need rows alike in
number and mean something in comparison; clusters without draws mean something by themselves, so the warning is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pofx.data import Batch
from pofx.model import Model
from pofx.randomness import Rng

NEIGHBOUR = 5
CLUSTERS, ROWS_EACH = 20, 25  # as many clusters as have so many rows each, at most
ROWS = 2048  # of the training part that are clustered
ITERATIONS = 15
BLUR = 0.1  # of the spread of an entry: a tight cluster that k-means cuts in two is still one mode
LEFT_OUT, REPEATED = 0.1, 0.5  # shares that are worth a warning
TAIL = 1e-3  # chance of so few draws in a cluster
AGAIN = 3  # validations in a row that must agree
EARLIEST, FEWEST = 0.25, 200  # share of the steps, and steps, before which nothing is said: all fits begin badly


class Watch:
    """Looks at draws beside held-out rows.

    Args:
        model: built. train: the rows that it learns from. seed: of the clusters.
    """

    def __init__(self, model: Model, train: Batch, seed: int) -> None:
        rows = torch.arange(len(train), device=train.x.device)
        rows = rows if train.observed is None else rows[train.observed.flatten(1).all(1)]
        rng = Rng.derive(seed, 6, device=train.x.device)
        rows = rows[rng.permutation(len(rows))[:ROWS]]
        u = _blurred(model.chart.encode(train.x[rows]).flatten(1).double(), rng)
        self.centres = k_means(u, min(CLUSTERS, len(u) // ROWS_EACH), rng)
        self.shares = _counts(u, self.centres) / max(1, len(u))
        self.found: dict[str, Any] = {}

    @classmethod
    def of(cls, model: Model, train: Batch, seed: int) -> Watch | None:
        """For a family that learns to draw and nothing else; None for all others, whose loss sees what is left out."""
        drawn = model.validate_by == "samples" and model.card.branch[0] == "implicit"
        return cls(model, train, seed) if drawn else None

    def look(self, u: Tensor, v: Tensor, within_u: Tensor, within_v: Tensor, across: Tensor) -> None:
        """Remember in `found` what draws u `(N, d)` and held-out rows v `(M, d)` show, by their distances."""
        if min(len(u), len(v)) <= NEIGHBOUR:
            return
        r_u, r_v = (d.kthvalue(NEIGHBOUR + 1, 1).values for d in (within_u, within_v))
        near_u, near_v = (d.kthvalue(2, 1).values for d in (within_u, within_v))
        usual = 0.1 * near_v.median()
        self.found = {
            "recall": _share((across <= r_u[:, None]).any(0)),
            "coverage": _share((across <= r_v[None]).any(0)),
            "duplicates": max(0.0, _share(near_u <= usual) - _share(near_v <= usual)),
        }
        if len(self.centres) > 1:
            u = _blurred(u, Rng.derive(0, 6, device=u.device))
            count, expected = _counts(u, self.centres), self.shares * len(u)
            chance = torch.special.gammaincc(count + 1, expected)  # P(Poisson <= count)
            out = (count <= 0.1 * expected) & (chance < TAIL)
            self.found |= {"modes": int((~out).sum()), "clusters": len(out), "left_out": float(self.shares[out].sum())}

    def warning(self, history: Sequence[dict[str, Any]], step: int, steps: int) -> str | None:
        """What to tell, once in a fit: `history` holds the lines before, and the present one at its end."""
        if step < max(FEWEST, EARLIEST * steps) or any("warning" in line for line in history):
            return None
        seen = [line for line in history if "coverage" in line][-AGAIN:]
        if len(seen) < AGAIN:
            return None
        left, twice = (min(line.get(word, 0.0) for line in seen) for word in ("left_out", "duplicates"))
        last = seen[-1]
        if left >= LEFT_OUT:
            total, out = last["clusters"], last["clusters"] - last["modes"]
            return (
                f"the generator leaves out about {last['left_out']:.0%} of the data: {out} of {total} clusters "
                "of the training rows have hardly any draws; try pack=2, a larger gamma or a longer fit."
            )
        if twice >= REPEATED:
            return (
                f"the generator repeats itself: {last['duplicates']:.0%} of its draws are nearly equal to another; "
                "try pack=2, a larger gamma or a longer fit."
            )
        return None


def k_means(u: Tensor, k: int, rng: Rng) -> Tensor:
    """Centres `(k, d)` of rows u `(N, d)`, from rows far apart (k-means++) by Lloyd's iterations."""
    if k < 1:
        return u[:0]
    centres = u[rng.integers(len(u), (1,))]
    while len(centres) < k:
        gap = torch.cdist(u, centres).square().amin(1)
        centres = torch.cat([centres, u[rng.categorical(gap.clamp_min(1e-30).log()[None])]])
    for _ in range(ITERATIONS):
        own = torch.cdist(u, centres).argmin(1)
        count = torch.bincount(own, minlength=k).to(u.dtype)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, own, u)
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres


def _blurred(u: Tensor, rng: Rng) -> Tensor:
    return u + BLUR * rng.normal(tuple(u.shape), torch.float64)


def _counts(u: Tensor, centres: Tensor) -> Tensor:
    """How many rows are nearest to each centre."""
    if len(centres) == 0:
        return u.new_zeros(0)
    return torch.bincount(torch.cdist(u, centres).argmin(1), minlength=len(centres)).to(u.dtype)


def _share(hit: Tensor) -> float:
    return float(hit.double().mean())
