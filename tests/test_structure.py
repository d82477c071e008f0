"""Representation and structure: closed forms on a Gaussian, groups that are there and groups that are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pofx
from pofx.kinds.base import real
from pofx.metrics.representation import neighbour_accuracy, probe_accuracy


@pytest.fixture(scope="module")
def normal():
    """Three columns: 0 and 1 correlate at 0.8, 2 stands alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 3))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    return pofx.fit(x * [1, 5, 0.1], "gaussian", seed=0)


@pytest.fixture(scope="module")
def groups():
    """(x, labels): four groups far apart in the plane, of unlike sizes."""
    rng = np.random.default_rng(1)
    y = rng.choice(4, size=600, p=[0.4, 0.3, 0.2, 0.1])
    centres = np.array([[0, 0], [8, 0], [0, 8], [8, 8]])
    return centres[y] + rng.normal(size=(600, 2)), y


def test_information_in_closed_form(normal):
    answer = pofx.depend(normal, draws=4000, rng=1)
    assert answer.route == "marginals"
    want = -0.5 * math.log(1 - 0.8**2)
    assert abs(answer.value[0, 1] - want) < 5 * answer.stderr[0, 1] + 0.02
    assert abs(answer.diagnostics["correlation"][0, 1] - 0.8) < 0.03
    assert answer.value[0, 2].abs() < 0.01 and answer.value.diagonal().abs().max() == 0
    assert answer.diagnostics["edges"][0][:2] == tuple(normal.space.variable(i).name for i in (0, 1))
    rough = pofx.depend(normal, draws=20000, rng=2, route="histogram")
    assert 0.7 * want < rough.value[0, 1] < want, "bins lose information"
    assert rough.value[0, 2] < 0.004, "the bias of a finite sample is taken off"


def test_noise_as_a_representation(normal):
    x = normal.sample(3000, rng=3)
    z = pofx.embed(normal, x, route="noise").value
    assert torch.allclose(torch.cov(z.T), torch.eye(3).double(), atol=0.1), "white, whatever the data"


def test_the_posterior_says_how_sure_it_is():
    model = pofx.fit("moons", "vae", budget="120 steps", seed=0)
    x = pofx.open_data("moons", seed=0).part("test").x[:50]
    answer = pofx.embed(model, x)
    assert answer.route == "posterior"
    assert answer.value.shape == answer.stderr.shape == (50, answer.diagnostics["latents"])
    assert torch.equal(answer.value, model.encode(x).mean.double())


def test_the_number_of_groups_is_found(groups):
    x, y = groups
    model = pofx.fit(x, "kde", seed=0)
    answer = pofx.cluster(model, x, rng=0)
    assert answer.diagnostics["clusters"] == 4
    found = answer.value.numpy()
    agreed = sum(np.bincount(y[found == k]).max() for k in range(4)) / len(y)
    assert agreed > 0.99
    assert np.bincount(found).tolist() == sorted(np.bincount(found), reverse=True)
    one = np.random.default_rng(2).normal(size=(400, 2))
    assert pofx.cluster(pofx.fit(one, "kde", seed=0), one, range(1, 6)).diagnostics["clusters"] == 1


def test_groups_are_those_of_the_model():
    """The rows fall apart along the first column, the model's draws along the second."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 2)) + np.array([6.0, 0.0]) * rng.integers(2, size=(400, 1))
    model = pofx.fit(x[:, ::-1].copy(), "kde", seed=0)
    answer = pofx.cluster(model, x, 2, rng=0)
    assert answer.route == "draws"
    upper = x[:, 1] > 3  # where the model has its border
    agreed = (answer.value.numpy() == 1) == upper
    assert max(agreed.mean(), 1 - agreed.mean()) > 0.97


def test_probe_and_neighbours(groups):
    x, y = groups
    assert probe_accuracy(x[:400], y[:400], x[400:], y[400:]).value > 0.98
    assert neighbour_accuracy(x[:400], y[:400], x[400:], y[400:]).value > 0.98
    noise = np.random.default_rng(0).normal(size=(600, 2))
    assert neighbour_accuracy(noise[:400], y[:400], noise[400:], y[400:]).value < 0.5


def test_what_cannot_be_asked(normal, groups):
    with pytest.raises(ValueError, match="missing"):
        pofx.embed(normal, torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="2 rows or more"):
        pofx.cluster(normal, normal.sample(5, rng=0), 4)
    with pytest.raises(pofx.Unsupported, match="encode"):
        pofx.embed(pofx.fit(groups[0].round(1), "autoregressive", budget="2 steps", seed=0), groups[0])
    wide = type("Wide", (pofx.Model,), {"card": normal.card})().build(real(65))
    with pytest.raises(ValueError, match="pairs"):
        pofx.depend(wide)
