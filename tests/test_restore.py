"""Inverse problems: on a Gaussian the posterior is known in closed form; operators are what they are called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.engines.inverse import posterior_denoiser, solve, wander
from pofx.engines.operators import Blur, Compressive, Downsample, Grey, Mask, Quantise
from pofx.engines.paths import VE
from pofx.families.mixture import Mixture
from pofx.kinds.base import real
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Model, Predictive
from pofx.tasks.restore import _spread, by_latents
from pofx.wrappers.decoded import Point

D, NOISE = 5, 0.3


@pytest.fixture(scope="module")
def oracle():
    """(model, mean, covariance) of a Gaussian in D columns of unlike scales."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(D, D)) * np.array([1, 2, 0.5, 3, 1])[:, None]
    x = rng.normal(size=(20000, D)) @ root.T + np.array([3, 0, -1, 10, 0])
    model = pofx.fit(x, "gaussian", seed=0)
    fitted = model.sample(200_000, rng=0).double()
    return model, fitted.mean(0), torch.cov(fitted.T)


def posterior(mean, cov, matrix, y, noise):
    gain = cov @ matrix.T @ torch.linalg.inv(matrix @ cov @ matrix.T + noise**2 * torch.eye(len(matrix)).double())
    return mean + gain @ (y - matrix @ mean), cov - gain @ matrix @ cov


@pytest.mark.parametrize("measure", [Compressive(2, seed=1), Mask(torch.tensor([True, False, True, False, True]))])
def test_the_posterior_of_a_gaussian(oracle, measure):
    model, mean, cov = oracle
    matrix = measure(torch.eye(D).double()).T
    x = model.sample(1, rng=7)[0].double()
    y = matrix @ x + NOISE * torch.randn(len(matrix), generator=torch.Generator().manual_seed(1)).double()
    want_mean, want_cov = posterior(mean, cov, matrix, y, NOISE)
    draws = pofx.restore(model, y[None], measure, NOISE, draws=1000, rng=2, route="guidance").raw[:, 0].double()
    z = (draws.mean(0) - want_mean) / (want_cov.diagonal().clamp_min(1e-9) / 1000).sqrt()
    assert z.abs().max() < 5, z
    spread = torch.cov(draws.T).diagonal() / want_cov.diagonal()
    assert ((spread - 1).abs() < 0.2).all(), spread


def test_the_posterior_of_a_mixture():
    """Two clouds that y cannot tell apart: both are found, in their shares, and each is as narrow as it should be."""
    rng = np.random.default_rng(0)
    first = rng.random(20000) < 0.3
    x = np.where(first[:, None], [-3.0, 0.0], [3.0, 0.5]) + rng.normal(size=(20000, 2)) * [0.5, 1.0]
    model = pofx.fit(x, Mixture(components=2, covariance="full"), seed=0)
    y, noise = torch.tensor([[0.4]]).double(), 0.5
    draws = pofx.restore(model, y, lambda x: x[:, 1:], noise, draws=800, rng=0, route="guidance").raw[:, 0].double()
    log_w = np.log([0.3, 0.7]) - 0.5 * (0.4 - np.array([0.0, 0.5])) ** 2 / (1 + noise**2)
    share = np.exp(log_w) / np.exp(log_w).sum()
    left = draws[:, 0] < 0
    assert abs(float(left.double().mean()) - share[0]) < 0.08, (left.double().mean(), share)
    for cloud, mean in ((left, (-3.0, 0.32)), (~left, (3.0, 0.42))):
        assert (draws[cloud].mean(0) - torch.tensor(mean)).abs().max() < 0.15, draws[cloud].mean(0)
        wanted = torch.tensor([0.5, (1 / (1 + 1 / noise**2)) ** 0.5])
        assert ((draws[cloud].std(0) / wanted).log().abs() < 0.25).all(), draws[cloud].std(0)


def test_the_sampler_of_a_gaussian():
    """Where D is exact, mean and variance of the draws are those of the data, within what 48 steps allow."""
    path, mean, std = VE(), 1.0, 0.7

    def denoise(u, alpha, sigma):
        return mean + std**2 / (std**2 + sigma[:, None] ** 2) * (u - mean)

    u = wander(denoise, (20_000, 1), path, 48, pofx.Rng(0))
    assert abs(float(u.mean()) - mean) < 5 * std / 20_000**0.5 + 0.01
    assert abs(float(u.std()) / std - 1) < 0.04, u.std()


def test_the_solve_stops_where_there_is_no_covariance():
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    good, y = root @ root.T + torch.eye(6), torch.arange(1.0, 7).double()[None]
    found = solve(lambda w: (w @ good.T, 2 * w), y, torch.zeros(1, 6).double(), 6)
    assert torch.allclose(found, 2 * torch.linalg.solve(good, y[0])[None])
    tilted, calls = good + 3 * (root - root.T), []
    solve(lambda w: (calls.append(1), (w @ tilted.T, w))[1], y, torch.zeros(1, 6).double(), 6)
    assert len(calls) == 2


def test_draws_in_pairs_of_opposite_noise(oracle):
    """Of a Gaussian the errors of a pair cancel: the mean of four draws is the posterior's, and the spread stays."""
    model, mean, cov = oracle
    matrix = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0]]).double()
    y = torch.tensor([3.5, 11.0]).double()
    want, want_cov = posterior(mean, cov, matrix, y, 1.0)
    for seed in range(3):
        found = pofx.restore(model, y[None], lambda x: x @ matrix.T, 1.0, draws=4, rng=seed)
        error = (found.diagnostics["mean"][0] - want) / want_cov.diagonal().sqrt()
        assert error.abs().max() < 0.05, error
    many = pofx.restore(model, y.expand(400, 2), lambda x: x @ matrix.T, 1.0, draws=9, rng=0).diagnostics["spread"]
    assert torch.allclose(many.square().mean(0), want_cov.diagonal(), rtol=0.12)
    e = torch.randn(9, 20_000, generator=torch.Generator().manual_seed(0))
    for tied in (0.0, 0.7):  # pairs that are independent, or alike
        x = torch.cat([e[:5], tied * e[:4] + (1 - tied**2) ** 0.5 * e[5:]])
        assert float(_spread(x, 4).square().mean()) == pytest.approx(1, rel=0.04)


def test_no_mean_leaves_the_range():
    low, high = -torch.ones(2), torch.tensor([torch.inf, 0.5])
    args = {"noise": 0.01, "within": (low, high)}
    guide = posterior_denoiser(lambda u, a, s: u / 2, lambda u: u, torch.tensor([[-9.0, 9.0], [9.0, -9.0]]), **args)
    d = guide(torch.zeros(2, 2), torch.ones(2), torch.ones(2))
    assert torch.allclose(d, torch.tensor([[-1.0, 0.5], [9.0, -1.0]]), atol=0.01)


def test_a_chain_on_the_score_agrees(oracle):
    model, mean, cov = oracle
    matrix = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0]]).double()
    y = torch.tensor([3.5, 11.0]).double()
    want, want_cov = posterior(mean, cov, matrix, y, 1.0)
    answer = pofx.restore(model, y[None], lambda x: x @ matrix.T, 1.0, draws=1500, rng=0, route="score")
    error = (answer.raw[:, 0].double().mean(0) - want) / want_cov.diagonal().sqrt()
    assert error.abs().max() < 0.25, error


def test_diagnostics_say_whether_y_is_explained(oracle):
    model, _, _ = oracle
    x = model.sample(40, rng=3).double()
    measure = Compressive(3, seed=0)
    y = measure(x) + NOISE * torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    answer = pofx.restore(model, y, measure, NOISE, draws=6, rng=0)
    assert answer.route == "guidance" and len(answer.value) == 6
    assert 0.7 < answer.diagnostics["misfit"] < 1.4
    assert answer.diagnostics["mean"].shape == x.shape
    assert answer.diagnostics["spread"].mean() < x.std(0).mean()


class Linear(Model):
    """x = W z, z ~ N(0, I): the posterior of z given part of x is known."""

    card = Card("none", "fast", "none", "R^2", "none", ("implicit", "direct"), "none", "a plane", "here")

    def _build(self):
        self.register_buffer("W", torch.tensor([[2.0, 0], [1, 1], [0, 3]]).double())

    def _sample(self, count, given, rng):
        return rng.normal((count, 2)).double() @ self.W.T

    def _encode(self, x, given):
        z = x @ torch.linalg.pinv(self.W).T
        return torch.distributions.Independent(torch.distributions.Normal(z, torch.full_like(z, 1e-6)), 1)

    def _decode(self, z, given):
        return Predictive(Point(self.space, "linear"), z.double() @ self.W.T)


def test_a_chain_over_latents_agrees():
    model = Linear().build(real(3))
    seen, y = model.W[:2], torch.tensor([[1.0, 2.0]]).double()
    precision = torch.eye(2).double() + seen.T @ seen / 0.25
    want = model.W @ torch.linalg.solve(precision, seen.T @ y[0] / 0.25)
    cov = model.W @ torch.linalg.inv(precision) @ model.W.T
    answer = pofx.restore(model, y, lambda x: x[:, :2], 0.5, draws=400, rng=0, route="latents")
    draws = answer.raw[:, 0].double()
    error = (draws.mean(0) - want) / (cov.diagonal() / 400).sqrt()
    assert error.abs().max() < 5, error
    assert ((draws.var(0) / cov.diagonal()).log().abs() < 0.4).all()


class Normal(Likelihood):
    """x = m + s e, entry by entry."""

    def __init__(self, space, s):
        self.space, self.s, self.size = space, s, space.size

    def sample(self, params, rng):
        return params + self.s * rng.normal(tuple(params.shape), torch.float64)

    def mean(self, params):
        return params


class Noisy(Linear):
    """x = W z + s e, z ~ N(1, 1/4): of sixteen columns, in units that differ where `units` says so."""

    units = torch.ones(16).double()

    def _build(self):
        W = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).double()
        self.register_buffer("W", W * self.units[:, None])

    def _sample(self, count, given, rng):
        return self._decode(1 + 0.5 * rng.normal((count, 4)), given).sample(rng)

    def _decode(self, z, given):
        return Predictive(Normal(self.space, self.units), z.double() @ self.W.T)

    def log_code(self, z, given=None):
        return -0.5 * ((z.double() - 1) / 0.5).square().sum(1)


class Scaled(Noisy):
    units = torch.logspace(-2, 2, 16).double()


SEEN = torch.arange(16) < 13


@pytest.mark.parametrize(
    "family, measure, noise, dense",  # a dense solve, or conjugate gradients
    [
        (Noisy, Mask(SEEN), 0.5, 256),
        (Noisy, Compressive(13, seed=1), 0.05, 256),
        (Scaled, Compressive(13, seed=1), 0.5, 256),
        (Scaled, Mask(SEEN), 0.05, 0),
        (Noisy, Compressive(13, seed=1), 0.5, 0),
    ],
)
def test_a_chain_over_latents_knows_its_decoders_noise(monkeypatch, family, measure, noise, dense):
    """Sixteen numbers, some not seen: their spread is that of the noise, and a prior of the codes is theirs."""
    monkeypatch.setitem(by_latents.__globals__, "DENSE", dense)
    model = family().build(real(16))
    matrix = measure(torch.eye(16).double()).T
    cov = 0.25 * model.W @ model.W.T + torch.diag(model.units**2)
    x = model.sample(1, rng=3)[0].double()
    y = matrix @ x + noise * torch.randn(13, generator=torch.Generator().manual_seed(1)).double()
    want, want_cov = posterior(model.W.sum(1), cov, matrix, y, noise)
    answer = pofx.restore(model, y[None], measure, noise, draws=800, rng=0, route="latents")
    draws = answer.raw[:, 0].double()
    error = (draws.mean(0) - want) / (want_cov.diagonal() / 800).sqrt()
    assert error.abs().max() < 4.5, error
    spread = draws.std(0) / want_cov.diagonal().sqrt()
    assert ((spread - 1).abs() < 0.15).all(), spread


def test_a_chain_wants_latents_that_are_numbers():
    class Coins(Noisy):
        def _encode(self, x, given):
            return torch.distributions.Independent(torch.distributions.Bernoulli(torch.full((len(x), 4), 0.5)), 1)

    with pytest.raises(pofx.Unsupported, match="codes"):
        pofx.restore(Coins().build(real(16)), torch.zeros(1, 13), lambda x: x[:, :13], 0.5, route="latents")


def test_weighed_draws_agree(oracle):
    model, mean, cov = oracle
    matrix = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0]]).double()
    y = torch.tensor([[3.5, 11.0], [2.0, 8.0]]).double()
    answer = pofx.restore(model, y, lambda x: x @ matrix.T, 1.0, draws=600, rng=0, route="draws")
    for k in range(2):
        want, want_cov = posterior(mean, cov, matrix, y[k], 1.0)
        draws = answer.raw[:, k].double()
        # of 20 000 draws some 800 explain y: the pool's own error is added
        error = (draws.mean(0) - want) / (
            want_cov.diagonal() * (1 / 600 + 1 / answer.diagnostics["effective draws"])
        ).sqrt()
        assert error.abs().max() < 5, error
        assert ((draws.var(0) / want_cov.diagonal()).log().abs() < 0.35).all()


def test_weighed_draws_follow_what_is_given_and_say_when_too_few_agree():
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=4000)
    frame = pd.DataFrame({"a": rng.normal(size=4000) + 6 * side, "b": rng.normal(size=4000), "side": side.astype(str)})
    model = pofx.fit(pofx.open_data(frame, given="side", test=10), "gaussian", seed=0)
    y = torch.zeros(2, 1).double()
    answer = pofx.restore(model, y, lambda x: x[:, 1:], 0.5, {"side": ["0", "1"]}, draws=200, rng=0, route="draws")
    a = answer.diagnostics["mean"][:, 0]
    assert abs(float(a[0])) < 0.4 and abs(float(a[1]) - 6) < 0.4
    with pytest.raises(pofx.Unsupported, match="hardly"):
        pofx.restore(model, y + 1e3, lambda x: x[:, 1:], 0.5, {"side": "0"}, rng=0, route="draws")
    with pytest.raises(pofx.Unsupported, match="13 numbers"):
        pofx.restore(model, torch.zeros(1, 13), lambda x: x[:, :1].expand(-1, 13), 0.5, rng=0, route="draws")


def test_operators():
    x = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(Downsample(4)(x)[0, 0, 0], x[0, :4, :4].mean((0, 1)))
    assert torch.allclose(Blur(1.0)(torch.ones(1, 8, 8, 1).double()), torch.ones(1, 8, 8, 1).double())
    assert Blur(1.5)(x).var() < 0.3 * x.var()
    spike = torch.zeros(1, 9, 9, 1).double()
    spike[0, 4, 4] = 1
    blurred = Blur(1.0)(spike)[0, :, :, 0]
    t = torch.arange(-3, 4).double()
    kernel = torch.softmax(-0.5 * t**2, 0)
    assert torch.allclose(blurred[1:8, 1:8], kernel[:, None] * kernel)
    assert torch.allclose(Grey()(x)[..., 0], x @ torch.tensor([0.299, 0.587, 0.114]).double())
    assert torch.equal(Compressive(3, 5)(x), Compressive(3, 5)(x)) and Compressive(3, 5)(x).shape == (2, 3)
    q = x.clone().requires_grad_()
    Quantise(0.25)(q).sum().backward()
    assert torch.equal(q.grad, torch.ones_like(q)) and torch.allclose(Quantise(0.25)(x) * 4 % 1, torch.zeros_like(x))
    with pytest.raises(ValueError, match="blocks of 3"):
        Downsample(3)(x)
    with pytest.raises(ValueError, match="channels"):
        Grey()(x[..., :1])


def test_what_cannot_be_asked(oracle):
    model, _, _ = oracle
    with pytest.raises(ValueError, match="noise"):
        pofx.restore(model, np.zeros((1, 2)), Compressive(2), 0.0)
    with pytest.raises(ValueError, match="shape"):
        pofx.restore(model, np.zeros((1, 3)), Compressive(2), 1.0)
    mixed = pofx.fit({"a": ["x", "y"] * 30, "b": list(range(60))}, "gaussian", seed=0)
    with pytest.raises(pofx.Unsupported, match="categories"):
        pofx.restore(mixed, np.zeros((1, 1)), lambda x: x[:, :1], 1.0)
