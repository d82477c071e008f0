"""Gaussian given something: regression in closed form, class means, latents there and back."""

import math

import numpy as np
import torch

from pofx.data import Data, open_data
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category
from pofx.randomness import Rng


def space(d: int) -> Space:
    return Space((d,), tuple(Variable(f"x{j}") for j in range(d)))


def regression(n: int = 4000):
    """x = 1 + c W + noise, c of three numbers and a category."""
    rng = Rng(0)
    c, k = rng.normal((n, 3), torch.float64), rng.integers(2, (n,))
    W = torch.tensor([[1.0, 0.0], [0.5, -2.0], [0.0, 0.3]], dtype=torch.float64)
    x = 1 + c @ W + 3 * k[:, None] + rng.normal((n, 2), torch.float64) @ torch.tensor([[0.2, 0.1], [0.0, 0.4]]).double()
    return x, c, k


def fitted():
    x, c, k = regression()
    given = {"c": (c, space(3)), "k": (k, category(2))}
    data = Data(x, space(2)).splitted(10, 10, 0).with_given(given)
    model = Gaussian(shrinkage=0.0).build(data.space, data.given_spaces)
    model.fit_closed(data, Rng(0))
    return model.eval(), data.part("train")


def test_its_mean_is_least_squares_and_its_density_that_of_the_residuals():
    model, train = fitted()
    x, f = train.x.numpy(), np.column_stack([np.ones(len(train.x)), train.given["c"], train.given["k"]])
    residual = x - f @ np.linalg.lstsq(f, x, rcond=None)[0]
    S = residual.T @ residual / len(x)
    want = -0.5 * np.einsum("ni,ij,nj->n", residual, np.linalg.inv(S), residual)
    want -= 0.5 * np.linalg.slogdet(S)[1] + math.log(2 * math.pi)
    found = model.log_prob(train.x, train.given).value
    np.testing.assert_allclose(found.numpy(), want, atol=1e-4)
    draws = model.sample(4000, {k: v[:1] for k, v in train.given.items()}, 1)[:, 0]
    gap = draws.mean(0) - torch.from_numpy((x - residual)[0])
    assert float((gap / (draws.std(0) / 4000**0.5)).abs().max()) < 5
    torch.testing.assert_close(torch.cov(draws.T), torch.from_numpy(S), atol=0.02, rtol=0.1)


def test_not_told_it_is_the_normal_of_all_rows():
    model, train = fitted()
    gap = train.x - train.x.mean(0)
    assert torch.allclose(model._covariance_of({}), gap.T @ gap / len(gap), atol=1e-4)
    half = {"k": train.given["k"][:5]}
    torch.testing.assert_close(model.log_prob(train.x[:5], half).value, model.log_prob(train.x[:5]).value)


def test_a_class_has_its_own_mean_and_one_without_rows_that_of_all():
    rng = Rng(1)
    k = rng.integers(2, (500,))
    x = rng.normal((500, 3), torch.float64) + 5 * k[:, None]
    data = Data(x, space(3)).splitted(10, 10, 0).with_given({"k": (k, category(3))})
    model = Gaussian().build(data.space, data.given_spaces)
    model.fit_closed(data, Rng(0))
    train = data.part("train")
    found = model._mean_of({"k": torch.arange(3)}, 3)
    want = torch.stack([train.x[train.given["k"] == c].mean(0) for c in range(2)])
    torch.testing.assert_close(found[:2], want, atol=1e-5, rtol=1e-5)
    assert bool(((found[2] > want[0]) & (found[2] < want[1])).all())


def test_latents_are_white_and_lead_back():
    model, train = fitted()
    z = model.encode(train.x, train.given).mean
    torch.testing.assert_close(torch.cov(z.T), torch.eye(2).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(model.decode(z, train.given).mean(), train.x)
    table = open_data(np.random.default_rng(0).normal(size=(300, 3)) @ np.diag([1, 10, 0.1]), test=50)
    relaxed = Gaussian().build(table.space, {})
    relaxed.fit_closed(table, Rng(0))
    torch.testing.assert_close(
        relaxed.decode(relaxed.encode(table.x).mean).mean(), table.x.double(), atol=1e-5, rtol=1e-5
    )
