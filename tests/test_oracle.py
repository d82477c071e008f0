"""The Gaussian against SciPy; then every engine, route and wrapper against it, correlated and far from unit scale."""

from __future__ import annotations

import functools
import math

import pytest
import scipy.stats
import torch

from pofx.data import Data
from pofx.engines import diffusion, guidance
from pofx.engines.diffusion import VE, VP, Linear
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category, real
from pofx.kinds.relax import CODE_NOISE, Chart
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.density import density
from pofx.tasks.impute import impute
from pofx.tasks.sample import sample
from pofx.wrappers import Relaxed

MEAN = torch.tensor([0.5, -0.4, 0.3], dtype=torch.float64)
ROOT = torch.tensor([[1.2, 0.0, 0.0], [0.7, 0.6, 0.0], [-0.5, 0.2, 0.8]], dtype=torch.float64)
COV = ROOT @ ROOT.T
PATHS = {"vp": VP(), "vp-linear": VP("linear"), "ve": VE(0.002, 300.0), "linear": Linear()}
SEEDS = range(12)


def gaussian(mean=MEAN, cov=COV) -> Gaussian:
    """The oracle with known parameters, in standard coordinates."""
    model = Gaussian()
    model.build(real(len(cov)).replace(dtype="float64"))
    model.mean, model.covariance = mean.clone(), cov.clone()
    return model


def scipys(mean=MEAN, cov=COV):
    return scipy.stats.multivariate_normal(mean.numpy(), cov.numpy())


def conditional(x, pattern, mean=MEAN, cov=COV):
    """Mean and covariance of the missing entries of one row, by the precision matrix, not as the model does."""
    precision = torch.linalg.inv(cov)
    m, o = ~pattern, pattern
    inner = torch.linalg.inv(precision[m][:, m])
    return mean[m] - inner @ precision[m][:, o] @ (x[o] - mean[o]), inner


def draws_z(x, mean, cov):
    """z-scores of means and covariances of draws `(n, d)`."""
    n, centred = len(x), x.double() - mean
    z_mean = centred.mean(0) / (cov.diagonal() / n).sqrt()
    spread = ((cov.diagonal()[:, None] * cov.diagonal() + cov**2) / n).sqrt()
    return torch.cat([z_mean, (((centred.T @ centred) / n - cov) / spread).flatten()])


# --- the oracle itself


def test_log_prob_is_scipys():
    x = Rng(0).normal((50, 3), torch.float64) * 2
    got = gaussian().log_prob(x)
    assert got.quality is Quality.EXACT
    assert torch.allclose(got.value, torch.as_tensor(scipys().logpdf(x.numpy())), atol=1e-10)


def test_marginals_are_scipys_row_by_row():
    x = Rng(1).normal((8, 3), torch.float64)
    mask = torch.tensor([[bool(k >> j & 1) for j in range(3)] for k in range(8)])
    got = gaussian().log_prob(x, observed=mask).value
    for row in range(1, 8):
        o = mask[row]
        want = scipys(MEAN[o], COV[o][:, o]).logpdf(x[row, o].numpy())
        assert got[row] == pytest.approx(float(want), abs=1e-10)
    assert got[0] == 0


def test_conditional_density_and_draws():
    x, pattern = torch.tensor([[1.0, -2.0, 0.7]], dtype=torch.float64), torch.tensor([True, False, True])
    answer = gaussian().condition(x, pattern[None])
    mean, cov = conditional(x[0], pattern)
    assert answer.log_prob(x).value.item() == pytest.approx(float(scipys(mean, cov).logpdf(x[0, ~pattern].numpy())))
    for seed in SEEDS:
        done = answer.sample(2000, Rng(seed))[:, 0]
        assert (done[:, pattern] == x[0, pattern]).all()
        assert draws_z(done[:, ~pattern], mean, cov).abs().max() < 5


@pytest.mark.parametrize("alpha, sigma", [(1.0, 0.5), (1.0, 4.0), (0.6, 0.8), (0.2, 0.05), (0.0, 1.0)])
def test_denoise_is_the_regression_of_u_on_its_noisy_self(alpha, sigma):
    u_t, ones = Rng(2).normal((20, 3), torch.float64), torch.ones(20, dtype=torch.float64)
    gain = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(3).double())
    want = MEAN + (u_t - alpha * MEAN) @ gain.T
    assert torch.allclose(gaussian().denoise(u_t, alpha * ones, sigma * ones), want, atol=1e-9)


def test_score_is_the_slope_of_log_prob():
    u = Rng(3).normal((20, 3), torch.float64).requires_grad_()
    slope = torch.autograd.grad(torch.distributions.MultivariateNormal(MEAN, COV).log_prob(u).sum(), u)[0]
    assert torch.allclose(gaussian().score(u.detach()), slope, atol=1e-9)


def test_draws_and_code():
    model = gaussian()
    for seed in SEEDS:
        x = model.sample(3000, None, seed)
        assert draws_z(x, MEAN, COV).abs().max() < 5
        assert draws_z(model.encode(x).mean, torch.zeros(3).double(), torch.eye(3).double()).abs().max() < 5


def rows_with_gaps(n, seed):
    rng = Rng(seed)
    x = MEAN + rng.normal((n, 3), torch.float64) @ ROOT.T
    observed = rng.bernoulli(0.7, (n, 3))
    return x, observed


def fitted(x, observed=None, **knobs):
    space = real(x.shape[1])
    data = Data(x, space, observed=observed, split={"train": torch.arange(len(x))})
    model = Gaussian(**knobs)
    model.build(space)
    model.fit_closed(data, Rng(0))
    return model


def test_complete_rows_give_the_sample_moments():
    x, _ = rows_with_gaps(500, 0)
    model = fitted(x, shrinkage=0.0)
    assert torch.allclose(model.mean, x.mean(0))
    assert torch.allclose(model.covariance, torch.cov(x.T, correction=0), atol=1e-10)
    assert torch.allclose(fitted(x, torch.ones_like(x, dtype=torch.bool), shrinkage=0.0).covariance, model.covariance)


def test_em_reaches_a_maximum_of_the_observed_likelihood():
    x, observed = rows_with_gaps(400, 1)
    model = fitted(torch.where(observed, x, 1e6), observed, shrinkage=0.0, iterations=120)
    assert (model.mean.abs() < 10).all()  # what stands where nothing was observed is not read
    mean, root = model.mean.clone(), torch.linalg.cholesky(model.covariance)
    mean, root = mean.requires_grad_(), root.requires_grad_()
    total = 0.0
    for pattern in torch.unique(observed, dim=0):
        rows = (observed == pattern).all(1)
        if pattern.any():
            cov = (root @ root.T)[pattern][:, pattern]
            total = (
                total + torch.distributions.MultivariateNormal(mean[pattern], cov).log_prob(x[rows][:, pattern]).sum()
            )
    slopes = torch.autograd.grad(total, (mean, root))
    assert max(float(s.tril().abs().max() if s.ndim > 1 else s.abs().max()) for s in slopes) < 1e-2 * 400


def test_em_is_near_the_truth():
    x, observed = rows_with_gaps(4000, 2)
    model = fitted(x, observed, shrinkage=0.0)
    assert (model.mean - MEAN).abs().max() < 5 * (COV.diagonal().max() / (0.7 * 4000)) ** 0.5
    assert (model.covariance - COV).abs().max() < 5 * (2 * COV.max() ** 2 / (0.5 * 4000)) ** 0.5


# --- engines on the oracle


@functools.cache
def oracle() -> Gaussian:
    return gaussian()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("method, steps", [("heun", 48), ("ddpm", 200)])
def test_samplers_draw_the_law(path, method, steps):
    x = diffusion.sample(oracle().denoise, (6000, 3), path, 0, method=method, steps=steps, dtype=torch.float64)
    blocks = (x, *x.split(600)) if method == "heun" else x.split(600)  # 200 steps of first order leave a small bias
    assert max(float(draws_z(part, MEAN, COV).abs().max()) for part in blocks) < 5


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ode_density_is_the_closed_form(path):
    x = oracle().sample(40, None, 0)
    found = diffusion.ode_log_prob(oracle().denoise, x, path, 64, exact=True)
    assert torch.allclose(found.value, oracle().log_prob(x).value, atol=0.02)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_guidance_draws_the_posterior(path):
    pattern = torch.tensor([True, False, False])
    x = torch.tensor([[1.5, 0.0, 0.0]], dtype=torch.float64)
    mean, cov = conditional(x[0], pattern)
    rows, mask = x.expand(4000, -1), pattern.expand(4000, -1)
    done = guidance.guided(oracle().denoise, mask, rows, path, 0, steps=32, iterations=2)
    for part in done[:, ~pattern].split(400):
        assert draws_z(part, mean, cov).abs().max() < 5


# --- routes and the wrapper, in the data's own units

SCALE, SHIFT = (
    torch.tensor([3.0, 0.2, 40.0], dtype=torch.float64),
    torch.tensor([10.0, -1.0, 500.0], dtype=torch.float64),
)


def in_units(variables=None) -> Relaxed:
    """The same Gaussian of x = SHIFT + SCALE u."""
    columns = [Variable(f"x{j}", mean=float(SHIFT[j]), scale=float(SCALE[j])) for j in range(3)]
    model = Relaxed(Gaussian())
    model.build(Space((3,), tuple(variables or columns)))
    model.inner.mean, model.inner.covariance = MEAN.clone(), COV.clone()
    return model


X_MEAN, X_COV = SHIFT + SCALE * MEAN, SCALE[:, None] * COV * SCALE


def test_relaxed_change_of_units_is_exact():
    model = in_units()
    x = model.sample(100, None, 0)
    got = model.log_prob(x)
    assert got.quality is Quality.EXACT
    assert torch.allclose(got.value, torch.as_tensor(scipys(X_MEAN, X_COV).logpdf(x.numpy())), atol=2e-3)
    mask = torch.tensor([True, False, True]).expand(100, -1)
    part = scipys(X_MEAN[[0, 2]], X_COV[[0, 2]][:, [0, 2]]).logpdf(x[:, [0, 2]].numpy())
    assert torch.allclose(model.log_prob(x, observed=mask).value, torch.as_tensor(part), atol=2e-3)
    for seed in SEEDS:
        assert draws_z(model.sample(1000, None, seed), X_MEAN, X_COV).abs().max() < 5


def test_relaxed_bounded_parts_multiply_and_integrate():
    bounded = [Variable("a", "bounded", low=2.0, high=5.0), Variable("b", mean=1.0, scale=2.0), Variable("c")]
    model = in_units(bounded)
    grid = torch.linspace(2, 5, 2002, dtype=torch.float64)[1:-1]
    rows = torch.stack([grid, 0 * grid, 0 * grid], 1)
    part = model.log_prob(rows, observed=torch.tensor([True, False, False]).expand(len(rows), -1)).value
    assert float(torch.trapezoid(part.exp(), grid)) == pytest.approx(1, abs=1e-3)
    x, mask = model.sample(50, None, 0), torch.tensor([True, False, False]).expand(50, -1)
    rest = model.condition(x, mask).log_prob(x).value
    assert torch.allclose(model.log_prob(x, observed=mask).value + rest, model.log_prob(x).value, atol=1e-6)


@pytest.mark.parametrize("route", ["sampler", "probability flow"])
def test_sample_routes_draw_the_law(route):
    for seed in range(10):
        x = sample(in_units(), 800, rng=seed, route=route).raw
        assert draws_z(x, X_MEAN, X_COV).abs().max() < 5


def test_density_routes_are_the_closed_form():
    model = in_units()
    x = model.sample(30, None, 0)
    want = torch.as_tensor(scipys(X_MEAN, X_COV).logpdf(x.numpy()))
    for route, quality in [("log prob", Quality.EXACT), ("probability flow", Quality.ESTIMATE)]:
        found = density(model, x, route=route)
        assert found.quality is quality
        assert torch.allclose(found.value, want, atol=0.03)


@pytest.mark.parametrize("route, seeds, n", [("condition", 12, 500), ("guidance", 3, 1000)])
def test_impute_routes_draw_the_conditional(route, seeds, n):
    model, pattern = in_units(), torch.tensor([True, False, True])
    x = torch.tensor([[12.0, 0.0, 480.0]], dtype=torch.float64)
    mean, cov = conditional(x[0], pattern, X_MEAN, X_COV)
    for seed in range(seeds):
        done = impute(model, x, observed=pattern[None], draws=n, rng=seed, route=route).raw[:, 0]
        assert (done[:, pattern] == x[0, pattern]).all()
        assert draws_z(done[:, ~pattern], mean, cov).abs().max() < 5


@pytest.mark.parametrize("route", ["langevin", "nearest"])
def test_rough_impute_routes_are_near_the_conditional(route):
    model, pattern = in_units(), torch.tensor([True, False, False])
    x = torch.tensor([[13.0, 0.0, 0.0]], dtype=torch.float64)
    mean, cov = conditional(x[0], pattern, X_MEAN, X_COV)
    done = impute(model, x, observed=pattern[None], draws=400, rng=0, route=route).raw[:, 0]
    assert ((done[:, ~pattern].mean(0) - mean).abs() / cov.diagonal().sqrt()).max() < 0.3
    assert (done[:, ~pattern].std(0) / cov.diagonal().sqrt() - 1).abs().max() < 0.35


# --- the bound of relaxed data


def one_ordinal(levels=8, std=1.1, mean=3.2) -> tuple[Relaxed, torch.Tensor]:
    """A 1-D Gaussian of an ordinal variable, and its exact bin probabilities by differences of the normal CDF."""
    model = Relaxed(Gaussian())
    model.build(Space((1,), (Variable("k", "ordinal", levels, mean=3.0, scale=2.0),)))
    model.inner.mean[:], model.inner.covariance[:] = (mean - 3) / 2, (std / 2) ** 2
    k = torch.arange(levels, dtype=torch.float64)
    cdf = scipy.stats.norm(mean, std).cdf
    return model, torch.as_tensor(cdf(k + 0.5) - cdf(k - 0.5)).log()


def test_relaxed_bound_is_below_the_bin_probability_and_tightens():
    model, exact = one_ordinal(std=0.4)
    x = torch.arange(8, dtype=torch.float64)[:, None].repeat(400, 1)
    gaps = []
    for draws in (1, 8, 64):
        found = model.log_prob(x, draws=draws, rng=0)
        assert found.quality is Quality.LOWER
        values = found.value.reshape(400, 8)
        low, error = values.mean(0), values.std(0) / 20
        assert (low <= exact + 5 * error).all()
        gaps.append((exact - low)[2:5])
    assert (gaps[0] > 2 * gaps[1]).all()
    assert (gaps[1] > 2 * gaps[2]).all()
    assert (gaps[2] < 0.1).all()


def test_relaxed_weights_are_unbiased():
    model, exact = one_ordinal()
    x = torch.arange(8, dtype=torch.float64)[:, None]
    for seed in SEEDS:
        w = model.log_prob(x.repeat(3000, 1), draws=1, rng=seed).value.exp().reshape(3000, 8)
        assert ((w.mean(0) - exact.exp()) / (w.std(0) / 3000**0.5)).abs().max() < 5


def test_relaxed_category_weights_are_unbiased():
    model = Relaxed(Gaussian())
    model.build(Space((1,), (Variable("k", "category", 3),)))
    model.inner.mean[:] = torch.tensor([0.2, -0.3], dtype=torch.float64)
    x = torch.arange(3, dtype=torch.float64)[:, None]
    w = model.log_prob(x.repeat(20_000, 1), draws=1, rng=0).value.exp().reshape(20_000, 3)
    total, error = w.sum(1).mean(), w.sum(1).std() / 20_000**0.5
    assert abs(total - 1) / error < 5
    counts = torch.bincount(model.sample(20_000, None, 1).long().flatten(), minlength=3) / 20_000
    error = (w.var(0) / 20_000 + counts * (1 - counts) / 20_000).sqrt()
    assert ((w.mean(0) - counts) / error).abs().max() < 5


def test_relaxed_stderr_is_the_spread_between_seeds():
    model, _ = one_ordinal()
    x = torch.full((4000, 1), 3.0, dtype=torch.float64)
    found = model.log_prob(x, draws=32, rng=0)
    assert float(found.stderr.mean() / found.value.std()) == pytest.approx(1, abs=0.1)


def test_given_a_label_means_differ_and_others_are_refused():
    model = Gaussian()
    model.build(real(2), {"label": category(2)})
    model.slope[1] = 5.0
    x = model.sample(500, {"label": torch.tensor(1)}, 0)
    assert ((x.mean(0) - 5).abs() * math.sqrt(500) < 5).all()
    with pytest.raises(ValueError, match="unknown"):
        model.denoise(torch.zeros(2, 2), torch.ones(2), torch.ones(2), {"colour": torch.zeros(2)})
    with pytest.raises(Unsupported, match="4000"):
        Gaussian().build(real(2), {"much": real(4000)})


def test_paths_are_pinned():
    """A wrong but self-consistent schedule passes every law, so the formulas are pinned at a few times."""
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    linear = torch.exp(-0.25 * t**2 * 19.9 - 0.05 * t)
    assert torch.allclose(VP("linear").alpha(t), linear)
    assert torch.allclose(VP().alpha(t), torch.tensor([0.98768834, 0.70710678, 0.15643447]).double())
    assert torch.allclose(
        VE(0.002, 80.0, 7.0).sigma(t), torch.tensor([0.01672075, 2.51521898, 45.31373409]).double(), rtol=1e-3
    )
    assert torch.allclose(Linear().alpha(t) + Linear().sigma(t), torch.ones(3).double())


def test_category_weight_is_bayes_rule():
    """Weights of a narrow q have a heavy tail that hides errors from z-scores, so the formula itself is checked."""
    chart = Chart(Space((1,), (Variable("k", "category", 5),)))
    x = torch.arange(5, dtype=torch.float64)[:, None].repeat(20, 1)
    u = chart.encode(x, Rng(0)).double()
    centres = chart.encode(torch.arange(5, dtype=torch.float64)[:, None]).double()
    log_q = torch.distributions.Normal(centres, CODE_NOISE).log_prob(u[:, None]).sum(-1)  # (100, 5)
    index = x.long()
    want = (log_q.log_softmax(1) - log_q).gather(1, index)[:, 0]
    assert torch.allclose(chart.log_weight(u, x), want, atol=1e-4)


def test_relaxed_resolution_is_the_width_of_the_bin():
    model = Relaxed(Gaussian())
    model.build(Space((1,), (Variable("x", resolution=0.25, mean=3.0, scale=2.0),)))
    x = torch.tensor([[2.0], [3.25], [6.5]], dtype=torch.float64)
    exact = torch.as_tensor(scipy.stats.norm(3, 2).cdf(x + 0.125) - scipy.stats.norm(3, 2).cdf(x - 0.125))[:, 0]
    w = model.log_prob(x.repeat(2000, 1), draws=1, rng=0).value.exp().reshape(2000, 3)
    assert ((w.mean(0) - exact) / (w.std(0) / 2000**0.5)).abs().max() < 5
    assert (w.std(0) < 0.2 * exact).all()


def test_without_its_class_a_row_has_the_normal_law_of_all_rows():
    """Two distant classes: asked without the class, the spread between them counts too."""
    x = torch.cat([Rng(0).normal((4000, 2), torch.float64), Rng(1).normal((4000, 2), torch.float64) + 6])
    label = torch.arange(8000) // 4000
    data = Data(x, real(2), {"label": label}, {"label": category(2)}, split={"train": torch.arange(8000)})
    model = Gaussian(shrinkage=0.0).build(data.space, data.given_spaces)
    model.fit_closed(data, Rng(0))
    law = scipy.stats.multivariate_normal(x.mean(0), torch.cov(x.T, correction=0))
    assert torch.allclose(model.log_prob(x[:50]).value, torch.from_numpy(law.logpdf(x[:50].numpy())), atol=1e-4)
    assert (
        float(model.log_prob(x[:4000], {"label": label[:4000]}).value.mean()) > law.logpdf(x[:4000].numpy()).mean() + 1
    )
