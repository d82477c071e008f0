"""Process: closed forms by hand and by scikit-learn; the left-out errors are those of fits without the row."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import pofx
from pofx.data import open_data
from pofx.engines.lowrank import LowRank
from pofx.families.process import Process
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng


def smooth(n=60, seed=0):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, (n, 1))
    x = np.concatenate([np.sin(2 * t), np.cos(t), t], 1) + 0.05 * rng.standard_normal((n, 3))
    return x, t


def fitted(n=60, **options):
    x, t = smooth(n)
    data = open_data(x, given={"t": t}, options={"types": "real"}, test=10, valid=0)
    return pofx.fit(data, Process(**options), progress=False), data


def dense(law):
    return (law.B.T @ law.B + torch.diag(law.d)).double()


@pytest.mark.parametrize("rows", [4, 40])
def test_the_low_rank_law_is_the_normal_law_it_says(rows):
    g = torch.Generator().manual_seed(0)
    e = torch.randn(rows, 6, generator=g)
    law = LowRank.of_rows(e, 0.2, 1e-4)
    want = 0.8 * e.T @ e / rows + 0.2 * torch.diag(e.square().mean(0))
    torch.testing.assert_close(dense(law), want.double(), rtol=1e-4, atol=1e-5)
    u, s = torch.randn(5, 6, generator=g), torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])
    for k in range(5):
        normal = MultivariateNormal(torch.zeros(6).double(), s[k].double() ** 2 * dense(law))
        assert float(law.log_prob(u[k : k + 1], s[k : k + 1])) == pytest.approx(
            float(normal.log_prob(u[k].double())), rel=1e-4
        )
    draws = law.sample(40_000, Rng(0)).double()
    z = (draws.T @ draws / len(draws) - dense(law)) / (dense(law).diagonal().mean() / 200)
    assert float(z.abs().max()) < 8
    seen = torch.tensor([True, False, True, True, False, False])
    S = dense(law)
    gain = torch.linalg.solve(S[seen][:, seen], S[seen]).T
    mean = (u[:, seen].double() / s[:, None].double()) @ gain.T
    torch.testing.assert_close(law.expected(u, s, seen).double()[:, ~seen], mean[:, ~seen], rtol=1e-3, atol=1e-4)
    rest = law.rest(u, s, seen, 20_000, Rng(1)).double()
    covariance = (S - gain @ S[seen])[~seen][:, ~seen]
    found = rest[:, 0][:, ~seen]
    assert float(((found.mean(0) - mean[0, ~seen]) / (found.std(0) / 141)).abs().max()) < 5
    torch.testing.assert_close(torch.cov(found.T), covariance, rtol=0.1, atol=0.03)


def test_the_mean_is_that_of_scikit_learn():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    model, data = fitted()
    core = model.core
    core.tail.fill_(0.0)
    core.made.clear()
    train, test = data.part("train"), data.part("test")
    length = float(core.lengths[0] * core.widths[0].sqrt()) * float(data.given_spaces["t"].variables[0].scale)
    peer = GaussianProcessRegressor(RBF(length), alpha=float(core.noise), optimizer=None)
    u = core._inward(train.x.double())
    peer.fit(train.given["t"].numpy(), (u - u.mean(0)).numpy())
    mean, spread = peer.predict(test.given["t"].numpy(), return_std=True)
    ours, scale, _ = core._law(test.given, len(test))
    np.testing.assert_allclose(ours - core.centre, mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scale.square(), spread[:, 0] ** 2 + float(core.noise), rtol=1e-2, atol=1e-4)


def test_left_out_errors_are_those_of_a_fit_without_the_row():
    model, data = fitted(30)
    core = model.core
    train = data.part("train")
    inverse, weights, _ = core._solved(("t",))
    error = weights[4] / inverse[4, 4]
    keep = torch.arange(len(train)) != 4
    K = core._product([core._distance(0, core.c0)], [0])
    gap = (core.U - core.centre).double()
    alone = torch.linalg.solve(K[keep][:, keep] + core.noise * torch.eye(int(keep.sum())), gap[keep])
    torch.testing.assert_close(error.double(), gap[4] - K[4, keep] @ alone, rtol=1e-3, atol=1e-4)


def test_draws_follow_the_density_and_the_given_tells():
    model, data = fitted(200)
    test = data.part("test")
    drawn = model.sample(400, test.given, rng=0)
    mean = drawn.mean(0)
    assert float((mean - test.x).square().mean()) < 0.02
    value = model.log_prob(drawn[:, 0], {"t": test.given["t"][:1].expand(400, -1)})
    assert value.quality is Quality.EXACT
    m, s, law = model.core._law({"t": test.given["t"][:1]}, 1)
    entropy = MultivariateNormal(m[0].double(), s[0].double() ** 2 * dense(law)).entropy()
    shift = model.core.enter.log_weight(model.core.enter.encode(test.x[:1]), test.x[:1])
    z = (-value.value.mean() + shift - entropy) / (value.value.std() / 20)
    assert abs(float(z)) < 5
    alone = model.log_prob(test.x).value.mean()
    assert model.log_prob(test.x, test.given).value.mean() > alone + 2


def test_levels_have_a_bound_that_orders_and_sums_below_one():
    x = (np.random.default_rng(0).normal(4, 1.5, (80, 1)).round().clip(0, 9)).astype(int)
    data = open_data(np.concatenate([x, x[::-1]], 1), test=10, valid=0)
    model = pofx.fit(data, "process", progress=False)
    a, b = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
    every = torch.stack([a.flatten(), b.flatten()], 1).double()
    low, v = data.space.variable(0).values[0], data.space.variable(0)
    every = every[(every < v.levels).all(1)]
    few, many = (model.log_prob(every, draws=k, rng=0) for k in (1, 200))
    assert few.quality is Quality.LOWER and low >= 0
    assert many.value.mean() >= few.value.mean() - 1e-9
    assert 0.9 < float(many.value.exp().sum()) < 1.02


def test_a_category_and_a_number_together_and_each_may_be_absent():
    x, t = smooth(90)
    side = np.arange(90) % 2
    x = x + 3 * side[:, None]
    data = open_data(x, given={"t": t, "side": side}, options={"types": "real"}, test=15, valid=0)
    model = pofx.fit(data, "process", progress=False)
    test = data.part("test")
    errors = {}
    for names in (("t", "side"), ("side",), ("t",)):
        drawn = model.sample(100, {k: test.given[k] for k in names}, rng=0).mean(0)
        errors[names] = float((drawn - test.x).square().mean())
    assert errors["t", "side"] < 0.1 < errors[("side",)] < errors[("t",)]


def test_it_is_saved_and_loaded(tmp_path):
    model, data = fitted()
    model.save(tmp_path / "m")
    back, test = pofx.load(tmp_path / "m"), data.part("test")
    torch.testing.assert_close(back.sample(2, test.given, rng=1), model.sample(2, test.given, rng=1))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="rows is 1"):
        Process(rows=1)
    with pytest.raises(Unsupported, match="categories"):
        pofx.fit("iris", "process", progress=False)
    x = np.random.default_rng(0).normal(size=(20, 2))
    x[:, 0] = np.nan
    x[0, 0] = 1
    with pytest.raises((Unsupported, ValueError), match="complete|observed"):
        pofx.fit(open_data(x, options={"types": "real"}), "process", progress=False)
    assert len(fitted(60, rows=20)[0].core.U) == 20
