"""Baselines: their densities are normalised, and know gaps."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pofx.baselines import Copy, Independent, Uniform
from pofx.data import open_data


def fitted(cls, frame, resolution):
    data = open_data(frame, options={"types": {"c": "category"}, "resolution": {"a": resolution}})
    model = cls().build(data.space)
    model.fit_closed(data, None)
    return model, data


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": (5 + rng.normal(size=300)).round(1), "c": rng.choice(list("xyz"), 300)})
    table.loc[:40, "a"] = np.nan
    return table


@pytest.mark.parametrize("cls", [Independent, Uniform])
@pytest.mark.parametrize("resolution", [0.1, 0.0])
def test_the_density_sums_to_one(frame, cls, resolution):
    model, _ = fitted(cls, frame, resolution)
    step = resolution or 2e-4
    grid = torch.arange(-20, 30, step, dtype=torch.float64)
    grid = grid.round(decimals=1) if resolution else grid + step / 2
    rows = torch.cartesian_prod(grid, torch.arange(3.0, dtype=torch.float64))
    total = float(model.log_prob(rows).value.exp().sum()) * (1 if resolution else step)
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("cls", [Independent, Uniform])
def test_an_entry_that_is_missing_has_no_term(frame, cls):
    model, data = fitted(cls, frame, 0.1)
    seen = torch.tensor([[False, True]]).expand(len(data), 2)
    mass = torch.stack([model.log_prob(torch.tensor([[5.0, k]]).double(), observed=seen[:1]).value for k in range(3)])
    assert float(mass.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_uniform_knows_its_range(frame):
    model, data = fitted(Uniform, frame, 0.1)
    a = data.x[data.observed[:, 0], 0]
    levels = round(float(a.max() - a.min()) / 0.1) + 1
    inside, outside = model.log_prob(torch.tensor([[float(a.min()), 0], [float(a.min()) - 1, 0]]).double()).value
    assert float(inside) == pytest.approx(-math.log(3 * levels))
    assert float(outside) == -math.inf


def test_a_copy_is_of_complete_rows(frame):
    model, data = fitted(Copy, frame, 0.1)
    assert len(model.rows) == int(data.observed[data.split["train"]].all(1).sum())
