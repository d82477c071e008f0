"""Engines of diffusion and ordinary differential equations against closed forms on a correlated, non-unit Gaussian."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.engines import diffusion, ode
from pofx.engines.diffusion import VE, VP, Linear
from pofx.randomness import Rng

MEAN = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[1.3, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 0.7]], dtype=torch.float64)
COV = ROOT @ ROOT.T
VALUES, AXES = torch.linalg.eigh(COV)
PATHS = {
    "vp-cosine": VP(),
    "vp-linear": VP("linear"),
    "ve": VE(sigma_min=0.002, sigma_max=300.0),
    "linear": Linear(),
}


def denoise(u, alpha, sigma):
    """E[u | u_t] of N(MEAN, COV), for u (B, 3)."""
    a, s = alpha[:, None].double(), sigma[:, None].double()
    return (MEAN + (a * VALUES / (a**2 * VALUES + s**2) * ((u.double() - a * MEAN) @ AXES)) @ AXES.T).to(u.dtype)


def log_normal(u, mean=MEAN, cov=COV):
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(u)


def z_scores(draws, mean=MEAN, cov=COV):
    """z-scores of every mean and every entry of the covariance of draws (n, d)."""
    n, centred = len(draws), draws.double() - mean
    z_mean = centred.mean(0) / (cov.diagonal() / n).sqrt()
    spread = (cov.diagonal()[:, None] * cov.diagonal()[None, :] + cov**2) / n
    z_cov = ((centred.T @ centred) / n - cov) / spread.sqrt()
    return torch.cat([z_mean, z_cov.flatten()])


def slope(errors):
    """The order of convergence from errors at steps n, 2 n, 4 n, ...: the last ratio."""
    return math.log2(errors[-2] / errors[-1])


# --- ordinary differential equations


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2), ("rk4", 4), ("dopri5", 5)])
def test_fixed_steps_converge_with_the_stated_order(method, order):
    x = torch.tensor([[0.7]], dtype=torch.float64)
    exact = torch.atan(torch.tan(x / 2) * math.exp(1.5)) * 2 + 0.0  # dx/dt = 3 t sin(x)  on [0, 1]

    def error(n):
        return float((ode.odeint(lambda t, y: 3 * t * torch.sin(y), x, method=method, steps=n).x - exact).abs())

    n = 8 if order >= 4 else 64
    assert abs(slope([error(n), error(2 * n)]) - order) < 0.35
    assert ode.METHODS[method].order == order


@pytest.mark.parametrize("method", ["heun", "dopri5"])
def test_adaptive_steps_meet_the_tolerance_in_both_directions(method):
    x = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    there = ode.odeint(lambda t, y: y @ turn, x, 0.0, 2.0, method, rtol=1e-7, atol=1e-7)
    back = ode.odeint(lambda t, y: y @ turn, there.x, 2.0, 0.0, method, rtol=1e-7, atol=1e-7)
    assert there.ok
    assert torch.allclose(there.x, x @ torch.linalg.matrix_exp(2 * turn), atol=1e-4)
    assert torch.allclose(back.x, x, atol=1e-4)
    assert there.evaluations < 40_000


def test_adaptive_solution_says_when_it_fails():
    burst = ode.odeint(lambda t, y: y**2, torch.ones(1, 1), 0.0, 2.0, max_steps=200)
    assert not burst.ok
    with pytest.raises(ValueError, match="steps"):
        ode.odeint(lambda t, y: y, torch.ones(1, 1), method="rk4")
    with pytest.raises(ValueError, match="method"):
        ode.odeint(lambda t, y: y, torch.ones(1, 1), method="rk5")


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_log_likelihood_of_a_linear_flow_is_the_closed_form(divergence):
    a = torch.tensor([[0.5, -0.7], [0.4, -0.1]], dtype=torch.float64)
    x = Rng(0).normal((64, 2), torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    flow = torch.linalg.matrix_exp(a)  # x(1) = flow x(0)
    cov = torch.linalg.inv(flow) @ torch.linalg.inv(flow).T
    got = ode.log_likelihood(
        lambda t, y: y @ a.T,
        x,
        lambda z: log_normal(z, torch.zeros(2).double(), eye),
        divergence=divergence,
        probes=16,
        rng=1,
        rtol=1e-8,
        atol=1e-8,
    )
    want = log_normal(x, torch.zeros(2).double(), cov)
    assert got.ok
    if divergence == "exact":
        assert torch.allclose(got.value, want, atol=1e-6)
        assert (got.stderr == 0).all()
    else:
        z = (got.value - want).mean() / (got.stderr.square().mean() / len(x)).sqrt()
        assert abs(z) < 5
        assert 0.05 < got.stderr.mean() < 0.15  # |a01 + a10| = 0.3 over 4 = sqrt(16)


def test_log_likelihood_trains_through_the_steps():
    a = torch.full((1,), 0.3, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5], [-1.2]], dtype=torch.float64)
    got = ode.log_likelihood(
        lambda t, y: a * y, x, lambda z: -0.5 * z.square().sum(1), method="rk4", steps=20
    ).value.sum()
    got.backward()
    want = (1 - x.square() * math.exp(0.6)).sum()  # log p = a - x^2 e^(2a) / 2
    assert torch.allclose(a.grad, want, atol=1e-5)


# --- paths, samplers, densities


@pytest.mark.parametrize("name", PATHS)
def test_path_ends(name):
    path, t = PATHS[name], torch.linspace(0, 1, 101, dtype=torch.float64)
    ratio = path.sigma(t) / path.alpha(t).clamp_min(1e-300)
    assert (ratio.diff() > 0).all()
    assert path.alpha(t)[0] == 1
    assert path.sigma(t)[0] < 0.01
    assert ratio[-1] > 100
    if isinstance(path, VP):
        assert torch.allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    "method, steps",
    [
        ("heun", 64),
        ("ddim", 400),
        ("ddpm", 400),
        ("dpm++2m", 100),
        ("churn", 150),
    ],
)
def test_samplers_draw_the_gaussian(name, method, steps):
    draws = diffusion.sample(denoise, (8000, 3), PATHS[name], 11, method=method, steps=steps, dtype=torch.float64)
    assert z_scores(draws).abs().max() < 5


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("method, order", [("heun", 2), ("ddim", 1), ("dpm++2m", 2)])
def test_samplers_converge_with_their_order(name, method, order):
    path = PATHS[name]
    u = diffusion.prior(path, (50, 3), Rng(0), dtype=torch.float64)
    solve = {"heun": diffusion.heun, "ddim": diffusion.ddim, "dpm++2m": diffusion.multistep}[method]
    a, s = (float(f(torch.ones((), dtype=torch.float64))) for f in (path.alpha, path.sigma))
    low = float(path.sigma(torch.zeros((), dtype=torch.float64)))  # the flow of a Gaussian is linear; VE ends at low
    factor = ((VALUES + low**2) / (a**2 * VALUES + s**2)).sqrt() * VALUES / (VALUES + low**2)
    fine = MEAN + (((u - a * MEAN) @ AXES) * factor) @ AXES.T
    errors = [float((solve(denoise, u, path, n) - fine).square().mean().sqrt()) for n in (40, 80, 160)]
    assert abs(slope(errors) - order) < 0.35


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("exact", [True, False])
def test_ode_density_is_the_closed_form(name, exact):
    u = MEAN + Rng(1).normal((40, 3), torch.float64) @ ROOT.T
    got = diffusion.ode_log_prob(denoise, u, PATHS[name], 64, 5, exact=exact, probes=8)
    want = log_normal(u)
    assert got.ok
    if exact:
        assert torch.allclose(got.value, want, atol=0.02)
    else:
        assert abs((got.value - want).mean() / (got.stderr.square().mean() / len(u)).sqrt()) < 5
        assert (got.stderr > 0).all()


def test_a_stochastic_sampler_asks_for_its_rng():
    with pytest.raises(ValueError, match="rng"):
        diffusion.ancestral(denoise, torch.zeros(2, 3), VP(), 4)
    with pytest.raises(ValueError, match="method"):
        diffusion.sample(denoise, (2, 3), VP(), 0, method="euler")


@pytest.mark.parametrize("name", PATHS)
def test_ode_density_at_a_late_start_is_that_of_noisy_data(name):
    u, t = Rng(1).normal((20, 3), torch.float64), torch.tensor(0.3, dtype=torch.float64)
    noise = PATHS[name].sigma(t) / PATHS[name].alpha(t)
    got = diffusion.ode_log_prob(denoise, u, PATHS[name], 64, exact=True, t_min=0.3)
    assert torch.allclose(got.value, log_normal(u, MEAN, COV + noise**2 * torch.eye(3).double()), atol=0.02)


@pytest.mark.parametrize("method", ode.METHODS)
def test_tableau_is_consistent(method):
    tableau = ode.METHODS[method]
    assert all(abs(sum(a) - c) < 1e-12 for a, c in zip(tableau.a, tableau.c, strict=True))
    assert all(abs(sum(b) - 1) < 1e-12 for b in (tableau.b, tableau.b_low) if b)
    if method == "dopri5":  # the last stage is the first of the next step
        assert (*tableau.a[-1], 0.0) == tableau.b
