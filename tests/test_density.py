"""Density: the probability flow of clouds against closed forms, and bits of rows that have gaps."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import pofx
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable
from pofx.model import Quality
from pofx.tasks.density import bits_per_dim, density
from pofx.wrappers import Relaxed


def relaxed(*variables, mean=0.0, std=1.0):
    """A Gaussian in the chart, its entries independent."""
    model = Relaxed(Gaussian())
    model.build(Space((len(variables),), variables))
    model.inner.mean[:] = mean
    model.inner.covariance[:] = std**2 * torch.eye(model.chart.space.size)
    return model


def test_the_flow_of_a_rounded_column_is_a_bound_that_knows_its_error():
    """Bins wider than the law: one u says little of a bin's mass, and eight of them say how little."""
    step, std = 2.0, 0.5
    model = relaxed(Variable("a", resolution=step), std=std)
    x = torch.tensor([[0.0], [2.0]]).double().repeat(300, 1)
    normal = scipy.stats.norm(0, std)
    want = torch.as_tensor(np.log(normal.cdf(x[:2] + step / 2) - normal.cdf(x[:2] - step / 2)))[:, 0]
    found = density(model, x, route="probability flow", draws=8, rng=0)
    values, told = found.value.reshape(300, 2), found.stderr.reshape(300, 2)
    assert found.quality is Quality.ESTIMATE
    assert found.diagnostics["draws"] == 8
    error = values.std(0) / 300**0.5
    assert (values.mean(0) < want + 5 * error).all()
    assert float(values.mean(0)[0]) > float(want[0]) - 0.1, "the mean of eight weights, not of their logarithms"
    assert float(told[:, 0].mean()) == pytest.approx(float(values[:, 0].std()), rel=0.15)
    single = density(model, x, route="probability flow", draws=1, rng=0)
    assert (single.stderr > 0).all(), "an error needs two"


def test_the_flow_of_many_categories_is_a_bound_in_the_mean():
    """Random probes of the divergence: the exponentials of noisy values would be no weights."""
    model = relaxed(*(Variable(f"k{i}", "category", 3) for i in range(9)), mean=0.2)
    x = torch.tensor([[0.0, 1, 2] * 3]).double()
    want = model.log_prob(x.repeat(40, 1), draws=4000, rng=0).value
    found = density(model, x.repeat(60, 1), route="probability flow", draws=8, rng=0)
    error = (found.value.var() / 60 + want.var() / 40).sqrt()
    assert found.value.mean() < want.mean() + 5 * error
    spread, told = float(found.value.std()), float(found.stderr.square().mean().sqrt())
    assert told == pytest.approx(spread, rel=0.3)


def test_an_exact_chart_needs_one_flow():
    model = relaxed(Variable("a", mean=5.0, scale=3.0), Variable("b"))
    x = model.sample(20, rng=0)
    found = density(model, x, route="probability flow", draws=8, rng=0)
    assert torch.allclose(found.value, density(model, x).value, atol=0.02)
    assert not found.stderr.any()
    assert "draws" not in found.diagnostics


def test_bits_are_of_the_entries_that_were_seen():
    space = Space((4,), (Variable("k", "binary", 2),))
    observed = torch.tensor([[True] * 4, [True, False, False, True], [False] * 4])
    bits = bits_per_dim(-observed.sum(1) * math.log(2), space, observed)
    assert torch.allclose(bits[:2], torch.ones(2))
    assert torch.isnan(bits[2])


def test_bits_of_a_frame_with_gaps_are_those_of_an_entry():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 2, 2000) for name in "abcd"}).astype(float)
    model = pofx.fit(frame, "mixture", seed=0, progress=False)
    gaps = frame.mask(rng.random(frame.shape) < 0.5).head(400)
    observed = torch.tensor(gaps.notna().to_numpy())
    bits = bits_per_dim(density(model, gaps).value, model.space, observed)
    assert float(bits.nanmean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("resolution", [0.0, 0.1])
def test_the_flow_gives_nothing_beyond_a_bound(resolution):
    model = relaxed(Variable("share", "bounded", low=0.0, high=1.0, mean=0.5, scale=0.2, resolution=resolution))
    log_p = density(model, torch.tensor([[0.5], [1.2], [-3.0]]).double(), route="probability flow", rng=0).value
    assert math.isfinite(log_p[0]) and log_p[1:].tolist() == [-math.inf, -math.inf]


def test_draws_are_at_least_one():
    with pytest.raises(ValueError, match="draws = 0, expected at least 1"):
        density(relaxed(Variable("a")), torch.zeros(1, 1), draws=0)


def test_what_is_unnormalised_is_in_nats_up_to_a_constant():
    x = np.random.default_rng(0).normal(size=(300, 2))
    model = pofx.fit(x, "experts", seed=0, progress=False)
    assert density(model, x[:5]).unit == "nats, up to a constant"
