"""Draws of trained families against a known density in the plane, by a two-sample test that a broken copy fails.

The statistic is the energy distance; its law under "the same" comes from dealing the pooled rows anew (Szekely, Rizzo
2013). The broken copy is the same draws, a quarter too wide.
"""

import pytest
import torch

import pofx
from pofx.data import Data
from pofx.kinds.base import Space, Variable
from pofx.randomness import Rng
from pofx.training.validation import energy_distance

ROWS = 300


def known(n: int, seed: int) -> torch.Tensor:
    """Two correlated normal clusters, weights 0.6 and 0.4."""
    rng = Rng(seed)
    z = rng.normal((n, 2), torch.float64)
    first = rng.bernoulli(0.6, (n,))[:, None]
    a = torch.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], 1) - 2
    b = torch.stack([0.7 * z[:, 0], -0.5 * z[:, 0] + 0.5 * z[:, 1]], 1) + 2
    return torch.where(first, a, b)


def p_value(u: torch.Tensor, v: torch.Tensor, seed: int = 0, deals: int = 400) -> float:
    """How often rows dealt at random are as far apart as u and v."""
    pool, rng = torch.cat([u, v]), Rng(seed)
    found = energy_distance(u, v)
    dealt = []
    for _ in range(deals):
        order = rng.permutation(len(pool))
        dealt.append(energy_distance(pool[order[: len(u)]], pool[order[len(u) :]]))
    return (1 + sum(float(d) >= float(found) for d in dealt)) / (1 + deals)


def fitted(family: str, steps: int):
    x = known(3000, 7)
    variables = tuple(Variable(f"x{j}", mean=float(x[:, j].mean()), scale=float(x[:, j].std())) for j in range(2))
    data = Data(x, Space((2,), variables)).splitted(0.1, 0.1)
    return pofx.fit(data, family, budget=steps, threads=1, progress=False)


def p_values(family: str, steps: int, rows: int = ROWS) -> tuple[float, float]:
    """Of the family's draws, and of the same draws a quarter too wide."""
    draws = fitted(family, steps).sample(rows, rng=1).double()
    truth = known(rows, 99)
    return p_value(draws, truth), p_value(draws.mean(0) + 1.25 * (draws - draws.mean(0)), truth)


def test_the_test_has_its_level_and_its_power():
    same = [p_value(known(ROWS, 2 * s), known(ROWS, 2 * s + 1), deals=100) for s in range(10)]
    wide = [p_value(1.25 * known(ROWS, 2 * s), known(ROWS, 2 * s + 1), deals=100) for s in range(10)]
    assert sum(p < 0.05 for p in same) <= 3
    assert sum(p < 0.05 for p in wide) >= 8


@pytest.mark.parametrize(("family", "steps"), [("mixture", 1), ("kde", 1), ("flow", 400), ("autoregressive", 400)])
def test_draws_are_the_known_law(family, steps):
    own, broken = p_values(family, steps)
    assert own > 0.005
    assert broken < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("family", "steps"), [("vae", 2000), ("diffusion", 2000), ("gan", 4000), ("energy", 3000)])
def test_draws_of_longer_trainings_are_the_known_law(family, steps):
    own, broken = p_values(family, steps, 2 * ROWS)  # 300 rows tell a quarter of width only eight times in ten
    assert own > 0.005
    assert broken < 0.01
