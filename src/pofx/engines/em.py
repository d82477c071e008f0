"""EM: maximum (penalised) likelihood of a mixture, on blocks of columns.

    E   r_nk = pi_k p_k(x_n) / sum_l pi_l p_l(x_n)        p_k(x) = product over blocks
    M   pi_k = sum_n r_nk / N,   every block from r

Knows no data types: a block is anything with `log_prob(rows)`, `maximise(rows, R)` and `log_prior()`. The penalised
likelihood rises with every iteration. References: Dempster, Laird and Rubin 1977; Arthur and Vassilvitskii 2007.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.engines.components import Block
from pofx.randomness import Rng

WEIGHT = 1e-3  # pseudo-observations of every component's weight: it never reaches zero


@dataclass
class Mixed:
    """A mixture while it is fitted: blocks of columns, and log pi `(K,)`."""

    blocks: Sequence[Block]
    log_pi: Tensor

    def log_joint(self, rows: Sequence[Any]) -> Tensor:
        """log pi_k + log p_k(x_n), `(N, K)`."""
        parts = [block.log_prob(r) for block, r in zip(self.blocks, rows, strict=True)]
        return torch.stack(parts).sum(0).add_(self.log_pi) if len(parts) > 1 else parts[0].add_(self.log_pi)

    def log_prior(self) -> Tensor:
        """The log prior of all parameters."""
        return torch.stack([b.log_prior() for b in self.blocks]).sum() + WEIGHT * self.log_pi.sum()

    def maximise(self, rows: Sequence[Any], R: Tensor) -> None:
        """The M step."""
        n = R.sum(0) + WEIGHT
        self.log_pi = (n / n.sum()).log()
        for block, r in zip(self.blocks, rows, strict=True):
            block.maximise(r, R)


def em(
    mixture: Mixed,
    rows: Sequence[Any],
    iterations: int,
    tolerance: float = 0.0,
    time_left: Callable[[], bool] = lambda: True,
) -> list[float]:
    """Run EM in place until the objective rises by less than `tolerance`, or no time is left.

    Returns:
        The objective before every M step, in nats a row: log likelihood plus log prior.
    """
    trace: list[float] = []
    for _ in range(iterations):
        R, log_p = responsibilities(mixture.log_joint(rows))
        trace.append(float(log_p.mean() + mixture.log_prior() / len(R)))
        if len(trace) > 1 and (trace[-1] - trace[-2] < tolerance or not time_left()):
            break
        mixture.maximise(rows, R)
    return trace


def responsibilities(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """r_nk and log p(x_n) from log pi_k + log p_k(x_n), which is overwritten."""
    top = log_joint.amax(1, keepdim=True)
    R = log_joint.sub_(top).exp_()
    total = R.sum(1, keepdim=True)
    return R.div_(total), (total.log() + top).squeeze(1)


def initialise(mixture: Mixed, rows: Sequence[Any], features: Tensor, components: int, rng: Rng) -> None:
    """Blocks from k-means clusters of the features `(N, F)`."""
    for block, r in zip(mixture.blocks, rows, strict=True):
        block.start(r, components)
    labels = kmeans(features, components, rng)
    mixture.maximise(rows, torch.nn.functional.one_hot(labels, components).double())


def best_start(
    mixture: Mixed, rows: Sequence[Any], features: Tensor, components: int, restarts: int, rng: Rng
) -> float:
    """Several short runs from different clusters; the mixture is left at the best one, whose objective is returned."""
    best, value = None, -torch.inf
    for _ in range(restarts):
        initialise(mixture, rows, features, components, rng)
        reached = em(mixture, rows, 6)[-1] if restarts > 1 else torch.inf
        if best is None or reached > value:
            best, value = copy.deepcopy((mixture.log_pi, [b.state_dict() for b in mixture.blocks])), reached
    assert best is not None
    mixture.log_pi = best[0]
    for block, state in zip(mixture.blocks, best[1], strict=True):
        block.load_state_dict(state)
    return value


def kmeans(x: Tensor, components: int, rng: Rng, iterations: int = 8) -> Tensor:
    """Cluster numbers `(N,)` of rows x `(N, F)`: k-means++ seeds, then a few Lloyd iterations."""
    centres = x[_seeds(x, components, rng)]
    labels = torch.cdist(x, centres).argmin(1)
    for _ in range(iterations):
        count = torch.bincount(labels, minlength=components).unsqueeze(1)
        mean = torch.zeros_like(centres).index_add_(0, labels, x) / count.clamp_min(1)
        centres = torch.where(count > 0, mean, centres)
        labels = torch.cdist(x, centres).argmin(1)
    return labels


def _seeds(x: Tensor, components: int, rng: Rng) -> Tensor:
    seeds = [rng.integers(len(x), (1,))]
    nearest = torch.cdist(x, x[seeds[0]]).square().squeeze(1)
    for _ in range(components - 1):
        seeds.append(rng.categorical(nearest.clamp_min(1e-30).log()).reshape(1))
        nearest = torch.minimum(nearest, torch.cdist(x, x[seeds[-1]]).square().squeeze(1))
    return torch.cat(seeds)
