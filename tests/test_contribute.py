"""Contributions: closed forms on a Gaussian, terms that add up, and the entry that was spoilt is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import pofx


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 3))
    x[:, 1] = 0.9 * x[:, 0] + 0.3 * x[:, 1]
    return pofx.fit(x, "gaussian", seed=0)


def test_an_entry_given_the_others(normal):
    x = normal.sample(200, rng=0)
    answer = pofx.contribute(normal, x)
    assert answer.route == "others" and answer.quality is pofx.Quality.EXACT
    fitted = normal.sample(300_000, rng=1).double()
    mean, precision = fitted.mean(0), torch.linalg.inv(torch.cov(fitted.T))
    gap = (x.double() - mean) @ precision / precision.diagonal()  # x_i - E[x_i | others]
    want = -0.5 * precision.diagonal() * gap**2 + 0.5 * (precision.diagonal() / (2 * torch.pi)).log()
    assert (answer.value - want).abs().max() < 0.15


def test_terms_of_the_chain_rule_add_up():
    x = pofx.open_data("digits", seed=0)
    model = pofx.fit(x, "autoregressive", budget="20 steps", seed=0)
    rows = x.part("test").x[:6]
    answer = pofx.contribute(model, rows, route="steps")
    assert answer.value.shape == rows.shape
    assert torch.allclose(answer.value.flatten(1).sum(1), pofx.density(model, rows).value.double(), atol=1e-3)


@pytest.mark.parametrize("way", ["others", "denoising"])
def test_the_spoilt_entry_is_found(normal, way):
    x = normal.sample(100, rng=5)
    x[:, 2] += 5.0
    found = pofx.contribute(normal, x, draws=32, route=way).value.argmin(1)
    assert (found == 2).double().mean() > 0.95


def test_quadrature_is_what_the_others_say(normal):
    x = normal.sample(40, rng=6)
    x[0] += torch.tensor([0.0, 4.0, 9.0])  # a row far out
    exact, found = (pofx.contribute(normal, x, route=way).value for way in ("others", "quadrature"))
    assert torch.allclose(exact, found, atol=2e-3), (exact - found).abs().max()


def test_quadrature_sums_over_codes():
    x = pofx.open_data(np.random.default_rng(0).integers(0, 3, size=(500, 2)).astype(str), test=10)
    model = pofx.fit(x, "mixture", seed=0)
    exact, found = (pofx.contribute(model, x.x[:30], route=way).value for way in ("others", "quadrature"))
    assert torch.allclose(exact, found, atol=1e-5)


def test_quadrature_needs_no_log_z(normal):
    model = pofx.fit(normal.sample(2000, rng=1), "experts", seed=0)
    x = normal.sample(20, rng=2)
    answer = pofx.contribute(model, x)
    assert answer.route == "quadrature" and bool(torch.isfinite(answer.value).all())


def test_a_gap_adds_nothing(normal):
    x = normal.sample(5, rng=2)
    x[:, 1] = torch.nan
    assert (pofx.contribute(normal, x).value[:, 1] == 0).all()


@pytest.mark.parametrize("resolution", [0.01, 0.06, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("family", ["kde", "mixture"])
def test_quadrature_of_rounded_columns(family, resolution):
    z = np.random.default_rng(0).normal(size=(1500, 2)) @ np.array([[1.0, 0.9], [0.0, 0.45]])
    frame = pd.DataFrame((z / resolution).round() * resolution, columns=list("ab"))
    data = pofx.open_data(frame, test=40, options={"resolution": {"a": resolution, "b": resolution}})
    x, model = data.part("test").x, pofx.fit(data, family, seed=0)
    x[0, 0] += 9 * np.ceil(resolution)  # a row far out
    exact, found = (pofx.contribute(model, x, route=way).value for way in ("others", "quadrature"))
    assert torch.allclose(exact, found, atol=1e-6 if resolution >= 0.1 else 3e-3), (exact - found).abs().max()


def test_quadrature_of_counts_begins_at_their_least():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.poisson(0.8, 1000), "b": rng.exponential(size=1000).round(1)})
    data = pofx.open_data(frame, test=40, options={"resolution": {"a": 1.0, "b": 0.1}})
    x, model = data.part("test").x, pofx.fit(data, "kde", seed=0)
    assert data.space.variables[0].low == 0
    x[0, 0] = 40  # further out than the nodes over all of the entry
    exact, found = (pofx.contribute(model, x, route=way).value for way in ("others", "quadrature"))
    assert torch.allclose(exact, found, atol=1e-6), (exact - found).abs().max()
