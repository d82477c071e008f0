"""Guidance, Markov chains and annealing against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.engines import guidance, inverse, mcmc
from pofx.engines.ais import ais, reverse_ais
from pofx.engines.diffusion import VP
from pofx.randomness import Rng
from test_engines import COV, MEAN, PATHS, denoise, log_normal, z_scores

VALUES = torch.tensor([1.5, 0.0, -0.8], dtype=torch.float64)


def posterior_of(observed):
    """Mean and covariance of the missing entries given the observed ones of VALUES."""
    o = torch.tensor(observed)
    m = torch.tensor([i for i in range(3) if i not in observed])
    gain = COV[m][:, o] @ torch.linalg.inv(COV[o][:, o])
    return m, MEAN[m] + gain @ (VALUES[o] - MEAN[o]), COV[m][:, m] - gain @ COV[o][:, m]


def mask_of(observed, n):
    mask = torch.zeros(n, 3, dtype=torch.bool)
    mask[:, observed] = True
    return mask


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("observed", [[0], [0, 2]])
@pytest.mark.parametrize("method, steps", [("heun", 64), ("ancestral", 200)])
def test_guided_draws_have_the_posterior(name, observed, method, steps):
    n = 1500
    values = torch.where(mask_of(observed, n), VALUES, float("nan"))
    draws = guidance.guided(denoise, mask_of(observed, n), values, PATHS[name], 3, method=method, steps=steps)
    m, mean, cov = posterior_of(observed)
    assert z_scores(draws[:, m], mean, cov).abs().max() < 5
    assert (draws[:, observed] == VALUES[observed]).all()


@pytest.mark.parametrize("alpha, sigma", [(0.6, 0.8), (1.0, 3.0), (0.05, 1.0)])
def test_posterior_denoiser_is_the_closed_form(alpha, sigma):
    u, ones, n2 = Rng(0).normal((20, 3), torch.float64), torch.ones(20, dtype=torch.float64), 0.3**2
    posterior = guidance.posterior_denoiser(denoise, mask_of([0, 2], 20), VALUES.expand(20, 3), noise=0.3)
    seen = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)) / n2
    precision = torch.linalg.inv(COV) + alpha**2 / sigma**2 * torch.eye(3).double() + seen
    right = torch.linalg.inv(COV) @ MEAN + alpha / sigma**2 * u + seen @ VALUES
    assert torch.allclose(posterior(u, alpha * ones, sigma * ones), right @ torch.linalg.inv(precision), atol=1e-8)


def test_repaint_approaches_the_posterior():
    n, observed = 3000, [0]
    m, mean, cov = posterior_of(observed)
    mask = mask_of(observed, n)
    draws = guidance.repaint(denoise, mask, VALUES.expand(n, 3), VP(), Rng(2), steps=60, repeats=10)
    assert (draws[:, 0] == VALUES[0]).all()
    assert (draws[:, m].mean(0) - mean).abs().max() < 0.1
    assert (draws[:, m].T.cov() - cov).abs().max() < 0.15


def test_rows_have_their_own_masks():
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, True]]).repeat(800, 1)
    draws = guidance.guided(denoise, mask, VALUES.expand(2400, 3), VP(), 5, steps=48)
    assert z_scores(draws[1::3]).abs().max() < 5
    m, mean, cov = posterior_of([0])
    assert z_scores(draws[0::3][:, m], mean, cov).abs().max() < 5
    assert (draws[2::3] == VALUES).all()
    with pytest.raises(ValueError, match="method"):
        guidance.guided(denoise, mask, VALUES.expand(2400, 3), VP(), 5, method="dps")


# --- Markov chains


@pytest.mark.parametrize("kernel, options", [(mcmc.hmc, {"leapfrog": 6}), (mcmc.mala, {})])
def test_adjusted_chains_have_the_moments(kernel, options):
    x = torch.zeros(3000, 3, dtype=torch.float64)
    chain = kernel(log_normal, x, 40 if options else 300, 7, warmup=60, step_size=0.2, **options)
    assert z_scores(chain.x).abs().max() < 5
    assert abs(chain.accept.mean() - (0.8 if options else 0.574)) < 0.08
    assert chain.accept.std() < 0.2


def test_hmc_with_a_large_step_is_still_exact():
    x = MEAN + Rng(0).normal((20000, 3), torch.float64) @ torch.linalg.cholesky(COV).T
    chain = mcmc.hmc(log_normal, x, 3, 1, step_size=0.45, leapfrog=3)
    assert chain.accept.mean() < 0.93
    assert z_scores(chain.x).abs().max() < 5


def test_langevin_has_its_own_known_bias():
    e, n = 0.5, 20000  # on N(0, 1) the chain is x <- (1 - e^2/2) x + e eps: variance 1 / (1 - e^2 / 4)
    chain = mcmc.langevin(lambda x: -0.5 * x.square().sum(1), torch.zeros(n, 1).double(), 80, 3, step_size=e)
    variance = 1 / (1 - e**2 / 4)
    assert z_scores(chain.x, torch.zeros(1).double(), torch.tensor([[variance]]).double()).abs().max() < 5


@pytest.mark.parametrize("kernel", [mcmc.langevin, mcmc.mala, mcmc.hmc])
def test_fixed_entries_never_move_and_the_rest_is_conditional(kernel):
    n, observed = 2000, [0]
    x, fixed = VALUES.expand(n, 3).clone(), mask_of(observed, n)
    chain = kernel(log_normal, x, 300 if kernel is not mcmc.hmc else 60, 5, step_size=0.15, fixed=fixed)
    m, mean, cov = posterior_of(observed)
    assert (chain.x[:, 0] == VALUES[0]).all()
    tolerance = 5 if kernel is not mcmc.langevin else 6  # a bias of order e^2
    assert z_scores(chain.x[:, m], mean, cov).abs().max() < tolerance


def test_chain_outside_the_support_is_refused_or_stopped():
    def log_gamma(x):  # density x e^-x on x > 0
        return torch.where(x > 0, x.clamp_min(1e-30).log() - x, -torch.inf).sum(1)

    chain = mcmc.hmc(log_gamma, torch.ones(4000, 1).double(), 60, 1, step_size=0.3, leapfrog=5, keep=20)
    assert (chain.x > 0).all()
    assert chain.trace.shape == (3, 4000, 1)
    assert abs((chain.x.mean() - 2) / (2 / 4000) ** 0.5) < 5
    with pytest.raises(ValueError, match="not finite"):
        mcmc.hmc(log_gamma, -torch.ones(2, 1), 1, 0)


def test_effective_size_of_an_autoregression():
    n, b, a, rng = 1000, 20, 0.8, Rng(0)
    x, trace = rng.normal((b, 1), torch.float64), []
    for _ in range(n):
        x = a * x + math.sqrt(1 - a * a) * rng.normal((b, 1), torch.float64)
        trace.append(x)
    want = n * b * (1 - a) / (1 + a)
    assert abs(float(mcmc.effective_size(torch.stack(trace))) / want - 1) < 0.15


def autoregression(a, n=1000, b=20, d=1):
    x, trace, rng = Rng(0).normal((b, d), torch.float64), [], Rng(1)
    for _ in range(n):
        x = a * x + math.sqrt(1 - a * a) * rng.normal((b, d), torch.float64)
        trace.append(x)
    return torch.stack(trace)


def test_diagnostics_of_an_autoregression():
    """x <- a x + e: correlation a^k at lag k, (1 + a) / (1 - a) states for one independent draw, R-hat near 1."""
    trace = autoregression(0.8)
    found = mcmc.diagnostics(torch.cat([trace, torch.ones_like(trace)], -1), accept=torch.tensor([0.5, 0.7]))
    assert found["correlation_time"] == pytest.approx(9, rel=0.15)
    assert found["effective_size"] == pytest.approx(20_000 / 9, rel=0.15)
    assert found["lag_1"] == pytest.approx(0.8, abs=0.02) and found["accept"] == pytest.approx(0.6)
    assert found["kept"] == 1000 and found["chains"] == 20 and 1 <= found["r_hat"] < 1.02
    acf = mcmc.autocorrelation(trace, 5)[:, 0]
    torch.testing.assert_close(acf, 0.8 ** torch.arange(6).double(), atol=0.03, rtol=0)
    twice = mcmc.diagnostics(torch.cat([trace, trace.flip(0).roll(3, 1)], -1))  # the worst entry counts
    assert twice["effective_size"] <= found["effective_size"]


def test_diagnostics_see_chains_that_do_not_meet():
    apart = autoregression(0.3, 200, 6) + torch.tensor([0.0, 0.0, 0.0, 8.0, 8.0, 8.0]).double()[:, None]
    found = mcmc.diagnostics(apart)
    assert found["r_hat"] > 3 and found["effective_size"] < 30 and found["lag_1"] > 0.9


def test_diagnostics_refuse_what_they_cannot_judge():
    with pytest.raises(ValueError, match="4 states"):
        mcmc.diagnostics(torch.zeros(3, 5, 1))
    assert math.isnan(mcmc.diagnostics(torch.zeros(4, 5, 1))["r_hat"])


# --- annealed importance sampling

CENTRES = torch.tensor([[2.0, 0.0], [-1.5, 1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
LOG_Z = 1.7


def log_mixture(x):
    """A mixture of two Gaussians of standard deviation 0.7, times e^LOG_Z."""
    d2 = (x[:, None] - CENTRES).square().sum(-1)
    log_part = -0.5 * d2 / 0.49 - math.log(2 * math.pi * 0.49) + WEIGHTS.log()
    return torch.logsumexp(log_part, 1) + LOG_Z


def draw_mixture(n, rng):
    k = (rng.uniform((n,)) > WEIGHTS[0]).long()
    return CENTRES[k] + 0.7 * rng.normal((n, 2), torch.float64)


def log_base(x):
    return -0.5 * x.square().sum(1) / 4 - math.log(2 * math.pi * 4)


def forward(seed, temperatures, chains=64, **options):
    rng = Rng(seed)
    start = lambda n: 2 * rng.normal((n, 2), torch.float64)  # noqa: E731
    return ais(log_mixture, log_base, start, chains, temperatures, rng, step_size=0.4, **options)


def backward(seed, temperatures, chains=64, **options):
    rng = Rng(seed)
    return reverse_ais(log_mixture, log_base, draw_mixture(chains, rng), temperatures, rng, step_size=0.4, **options)


@pytest.mark.parametrize("run, sign", [(forward, 1), (backward, -1)])
@pytest.mark.parametrize("temperatures", [4, 20])
def test_annealed_weights_are_unbiased(run, sign, temperatures):
    w = (sign * (run(1, temperatures, 20000, leapfrog=3).log_weights - LOG_Z)).exp()
    assert abs((w.mean() - 1) / (w.std() / len(w) ** 0.5)) < 5


def test_annealing_sandwiches_log_z():
    low = torch.stack([forward(s, 6, 4, leapfrog=2).value for s in range(24)])
    high = torch.stack([backward(s, 6, 4, leapfrog=2).value for s in range(24)])
    assert low.mean() < LOG_Z < high.mean()
    fine = forward(0, 40, 200), backward(0, 40, 200)
    for result in fine:
        assert abs(result.value - LOG_Z) < 5 * result.stderr
        assert result.stderr < 0.08
        assert 0.5 < result.accept < 0.99
    assert [r.bound for r in fine] == ["lower", "upper"]


def test_rows_are_separate_problems():
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)  # Z of exp(-x^2 / (2 s^2))

    def log_p(x):
        return -0.5 * (x[:, 0] / scale.repeat(len(x) // 3)).square()

    rng = Rng(0)
    base = lambda x: -0.5 * x[:, 0].square() / 4 - 0.5 * math.log(2 * math.pi * 4)  # noqa: E731
    got = ais(log_p, base, lambda n: 2 * rng.normal((n, 1), torch.float64), 500, 30, rng, rows=3)
    want = (scale * math.sqrt(2 * math.pi)).log()
    assert got.log_weights.shape == (500, 3)
    assert ((got.value - want).abs() <= 5 * got.stderr + 1e-9).all()


def test_leapfrog_keeps_the_energy_to_second_order():
    """The error of H of one orbit of a fixed length is of order e^2, with slopes from a graph or written out."""
    x = MEAN + Rng(0).normal((4000, 3), torch.float64) @ torch.linalg.cholesky(COV).T
    sloped = mcmc.Sloped(
        lambda u: mcmc.value_and_slope(log_normal, u), log_normal, lambda u: mcmc.slope_of(log_normal, u)
    )
    refused = []
    for step, leapfrog in ((0.2, 5), (0.1, 10), (0.05, 20)):
        both = [
            mcmc.transition(f, x, torch.full((4000,), step).double(), leapfrog, Rng(1)) for f in (log_normal, sloped)
        ]
        assert torch.equal(both[0][0], both[1][0])
        refused.append(float(1 - both[0][1].mean()))
    assert refused[0] < 0.1
    assert 3 < refused[0] / refused[1] < 5.5 and 3 < refused[1] / refused[2] < 5.5


def test_a_denoiser_whose_slope_is_no_covariance_does_not_run_away():
    """A network is right where the data are and may be anything between: here its slope is a thousand, and turns."""
    push = torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    mask, one = mask_of([0], 500), torch.ones(500, dtype=torch.float64)

    def wild(u, alpha, sigma):
        return torch.tanh(u) + torch.sin(1e3 * u @ push.T)

    found = guidance.posterior_denoiser(wild, mask, VALUES.expand(500, 3), noise=1e-2)(
        2 * Rng(0).normal((500, 3), torch.float64), one, one
    )
    assert float(found.abs().max()) <= inverse.REACH
    values = torch.full((500, 3), 40.0, dtype=torch.float64)  # what is seen may be far out
    far = guidance.posterior_denoiser(lambda u, alpha, sigma: 0.9 * u, mask, values, noise=1e-2)(values, one, one)
    assert float((far[:, 0] - 40).abs().max()) < 0.1
