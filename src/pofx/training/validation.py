"""Validation: the loss on rows held out, or a sample metric where the loss says nothing.

A likelihood family validates by its first player's loss, with the same random numbers each time. A family whose loss
does not fall as it improves (adversarial, contrastive) validates by the energy distance of its samples and the rows:

    2 E|u - v| - E|u - u'| - E|v - v'|,   u from the model, v from the data, in the chart
    (Szekely and Rizzo 2013; zero exactly where the two laws agree)

of |.| itself, or, for a family that only draws, of log(1 + |.|^2 / s^2) where s is the usual distance of near rows:
also a distance of laws (Schoenberg 1938: the log of 1 + a negative definite function is one), which sees small
structure that |.| does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pofx.data import Batch
from pofx.model import Model, Player, Unsupported
from pofx.randomness import Rng
from pofx.training.collapse import NEIGHBOUR, Watch
from pofx.training.streams import forked

SEED_WORD = 3  # training step k draws from (seed, 2, k), the order of the rows from (seed, 1, epoch)
ROWS = 512  # of the validation part that are looked at each time


def validate(
    model: Model, player: Player, valid: Batch, seed: int, chunk: int = ROWS, watch: Watch | None = None
) -> float:
    """One number that is lower for a better model: the loss in the family's unit, or the energy distance.

    Args:
        chunk: rows computed at once (a mean over rows is put together from its parts).
        watch: what else looks at the draws, for a family that only draws.
    """
    rng = Rng.derive(seed, SEED_WORD, device=model.device)
    with torch.no_grad(), forked(model.device, seed, SEED_WORD, 1):
        if model.validate_by == "samples" and watch is not None:
            return _watched(model, valid, rng, watch)
        if model.validate_by == "samples":
            samples = model._sample(len(valid), valid.given, rng)
            return float(energy_distance(_flat(model, samples), _flat(model, valid.x)))
        total = torch.zeros((), dtype=torch.float64, device=model.device)
        for rows in torch.arange(len(valid), device=valid.x.device).split(chunk):
            total += len(rows) * player.loss(valid.take(rows), rng).double()
        return float(total) / len(valid)


def _watched(model: Model, valid: Batch, rng: Rng, watch: Watch) -> float:
    """The energy distance of `ROWS` draws in log(1 + |.|^2 / s^2); the watch has seen them."""
    times = -(-ROWS // len(valid))
    given = {k: v.repeat(times, *[1] * (v.ndim - 1)) for k, v in valid.given.items()}
    u, v = _flat(model, model._sample(times * len(valid), given, rng)), _flat(model, valid.x)
    distances = torch.cdist(u, u), torch.cdist(v, v), torch.cdist(u, v)
    watch.look(u, v, *distances)
    n, m = len(u), len(v)
    s2 = distances[1].kthvalue(min(m, NEIGHBOUR + 1), 1).values.square().median().clamp_min(1e-12)
    seen = [torch.log1p(d.square() / s2) for d in distances]
    return float(2 * seen[2].mean() - seen[0].sum() / max(1, n * (n - 1)) - seen[1].sum() / max(1, m * (m - 1)))


def validate_closed(model: Model, valid: Batch, seed: int) -> float | None:
    """Mean -log p in nats of some rows under a model without players; None where it has no such number."""
    valid = valid.take(torch.arange(min(ROWS, len(valid))))
    if len(valid) == 0 or "log_prob" not in model.offers():
        return None
    rng = Rng.derive(seed, SEED_WORD, device=model.device)
    try:
        with torch.no_grad():
            value = model.log_prob(valid.x, valid.given or None, valid.observed, rng=rng).value
    except Unsupported:  # log p of an observed part alone is not known to every family
        return None
    return -float(value.double().mean())


def energy_distance(u: Tensor, v: Tensor) -> Tensor:
    """The squared energy distance of two samples `(N, d)` and `(M, d)`, unbiased."""
    n, m = len(u), len(v)
    within_u = torch.cdist(u, u).sum() / (n * (n - 1))
    within_v = torch.cdist(v, v).sum() / (m * (m - 1))
    return 2 * torch.cdist(u, v).mean() - within_u - within_v


def _flat(model: Model, x: Tensor) -> Tensor:
    return model.chart.encode(x).flatten(1).double()
