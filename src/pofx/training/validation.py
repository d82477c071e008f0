"""Validation: the loss on rows held out, or a sample metric where the loss says nothing.

A likelihood family validates by its first player's loss, with the same random numbers each time. A family whose loss
does not fall as it improves (adversarial, contrastive) validates by the energy distance between its samples and the rows:

    2 E|u - v| - E|u - u'| - E|v - v'|,   u from the model, v from the data, in the chart
    (Szekely and Rizzo 2013; zero exactly where the two laws agree)
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.data import Batch
from pofx.model import Model, Player
from pofx.randomness import Rng

SEED_WORD = 3  # training step k draws from (seed, 2, k), the order of the rows from (seed, 1, epoch)


def validate(model: Model, player: Player, valid: Batch, seed: int) -> float:
    """One number that is lower for a better model: the loss in the family's unit, or the energy distance."""
    rng = Rng.derive(seed, SEED_WORD, device=model.device)
    with torch.no_grad():
        if model.validate_by == "samples":
            samples = model._sample(len(valid), valid.given, rng)
            return float(energy_distance(_flat(model, samples), _flat(model, valid.x)))
        return float(player.loss(valid, rng))


def energy_distance(u: Tensor, v: Tensor) -> Tensor:
    """The squared energy distance of two samples `(N, d)` and `(M, d)`, unbiased."""
    n, m = len(u), len(v)
    within_u = torch.cdist(u, u).sum() / (n * (n - 1))
    within_v = torch.cdist(v, v).sum() / (m * (m - 1))
    return 2 * torch.cdist(u, v).mean() - within_u - within_v


def _flat(model: Model, x: Tensor) -> Tensor:
    return model.chart.encode(x).flatten(1).double()
