"""Representation and structure: closed forms on a Gaussian, groups that are there and groups that are not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

import pofx
from pofx.baselines import Copy
from pofx.engines.information import of_number_and_label, of_numbers
from pofx.kinds.base import real
from pofx.metrics.representation import neighbour_accuracy, probe_accuracy, told_by
from pofx.model import Unsupported


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
    near = pofx.depend(normal, draws=4000, rng=2, route="neighbours")
    assert abs(near.value[0, 1] - want) < 4 * near.stderr[0, 1], "near draws lose nothing, bins would"
    assert abs(near.value[0, 2]) < 4 * near.stderr[0, 2]
    with pytest.raises(Unsupported, match="neighbours"):
        pofx.depend(normal, draws=5, route="neighbours")


def test_information_of_what_is_rounded_named_and_mixed():
    """A label c, a number that it moves, one rounded to whole steps, and a copy of c that errs once in ten."""
    rng, n = np.random.default_rng(0), 20_000
    c = rng.random(n) < 0.3
    wrong = rng.random(n) < 0.1
    frame = pd.DataFrame({"c": np.where(c, "x", "y"), "e": np.where(c ^ wrong, "p", "q")})
    frame["number"], frame["rounded"] = rng.normal(size=n) + 2 * c, (3 * rng.normal(size=n) + 6 * c).round()
    model = pofx.fit(frame, Copy(), progress=False)  # which draws its rows again: their own information
    found = pofx.depend(model, draws=4000, rng=0, route="neighbours")
    p = np.array([[0.27, 0.03], [0.07, 0.63]])
    labels = float((p * np.log(p / p.sum(0) / p.sum(1, keepdims=True))).sum())
    grid = np.linspace(-8, 10, 20001)
    density = 0.7 * stats.norm.pdf(grid) + 0.3 * stats.norm.pdf(grid, 2)
    number = float(-np.trapezoid(density * np.log(density), grid) - 0.5 * np.log(2 * np.pi * np.e))
    codes = np.arange(-15, 25)
    parts = [stats.norm.cdf(codes + 0.5, m, 3) - stats.norm.cdf(codes - 0.5, m, 3) for m in (0, 6)]
    mean = 0.7 * parts[0] + 0.3 * parts[1]
    rounded = sum(w * (q * np.log(q / mean)).sum() for w, q in zip((0.7, 0.3), parts, strict=True))
    both = 2 * number  # of two independent looks at c, at most
    for other, want in ((1, labels), (2, number), (3, rounded)):
        assert abs(found.value[0, other] - want) < 4 * found.stderr[0, other] + 0.005, other
    assert 0 < found.value[2, 3] < min(both, 0.62)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.99])
def test_information_of_numbers_over_seeds(rho):
    found = []
    for seed in range(12):
        x, e = np.random.default_rng(seed).normal(size=(2, 1500))
        terms = of_numbers(x, 40 * (rho * x + math.sqrt(1 - rho**2) * e) - 7)
        found.append((terms.mean(), terms.std() / len(terms) ** 0.5))
    mean, error = np.mean(found, 0)
    spread = np.std([m for m, _ in found])
    assert abs(mean + 0.5 * math.log(1 - rho**2)) < 4 * spread / 12**0.5 + 0.012
    assert 0.6 < error / spread < 2.5, "the stated error is about the real one"


def test_information_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    x, c = rng.normal(size=800), rng.integers(3, size=800)
    y = x**2 + 0.2 * rng.normal(size=800) + c
    assert of_numbers(x, y).mean() == pytest.approx(mutual_info_regression(x[:, None], y, random_state=0)[0], abs=1e-6)
    assert of_number_and_label(y, c).mean() == pytest.approx(
        mutual_info_classif(y[:, None], c, random_state=0)[0], abs=1e-6
    )


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


def test_what_codes_tell_beside_as_many_principal_components():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    x = rng.normal(size=(400, 6)) + 6 * np.eye(6)[y]  # three of six columns say the class
    found = told_by(x[:, :2], y, x, rng=0)
    assert list(found) == [
        "linear probe", "5 nearest", "linear probe of 2 principal components", "5 nearest of 2 principal components",
    ]  # fmt: skip
    assert all(m.low < m.value <= m.high and m.n == 200 for m in found.values())
    assert min(m.value for m in found.values()) > 0.9
    assert max(m.value for m in told_by(rng.normal(size=(400, 2)), y).values()) < 0.5
    assert list(told_by(x, y, x)) == ["linear probe", "5 nearest"], "as many codes as columns: nothing to compare with"
    with pytest.raises(ValueError, match="got 10 rows"):
        told_by(x[:10], y[:10])


@pytest.mark.parametrize("seed", range(3))
def test_long_groups_of_few_rows_stay_whole(seed):
    """Three long clusters along no axis: with independent columns each would be cut into pieces."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    y = rng.integers(3, size=300)
    x = rng.normal(size=(300, 6)) * np.array([1.8, 0.3, 0.3, 0.3, 0.3, 0.3])
    x[:, 1] += 4.0 * y
    answer = pofx.cluster(pofx.fit(x @ turn, "kde", seed=0, progress=False), x @ turn, 3, rng=0)
    assert answer.diagnostics["covariance"] == "full"
    found = answer.value.numpy()
    assert sum(np.bincount(y[found == k]).max() for k in range(3)) > 0.97 * len(y)
