"""Mixture against SciPy and scikit-learn, enumeration, quadrature and itself with gaps."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.decomposition import FactorAnalysis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.engines.bins import interval_moments, log_interval
from pofx.engines.components import Binned, Table
from pofx.engines.em import Mixed, em, initialise
from pofx.engines.factors import Factor
from pofx.engines.normals import Normal
from pofx.families.mixture import Mixture
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng
from pofx.wrappers import Joint

F64 = torch.float64


def plain(d: int) -> Space:
    return Space((d,), tuple(Variable(f"x{j}", mean=0.5 * j, scale=1.0 + j) for j in range(d)))


def fitted(x: Tensor, space: Space, observed: Tensor | None = None, given=None, **knobs) -> Mixture:
    values = {k: v for k, (v, _) in (given or {}).items()}
    spaces = {k: s for k, (_, s) in (given or {}).items()}
    split = {"train": torch.arange(len(x)), "valid": torch.arange(0), "test": torch.arange(0)}
    data = Data(x, space, values, spaces, observed, split)
    model = Mixture(**knobs).build(space, spaces)
    model.fit_closed(data, Rng(0))
    return model


def clusters(n: int, d: int, seed: int = 0) -> Tensor:
    rng = Rng(seed)
    mean = 3 * Rng(7).normal((3, d), F64)
    turn = Rng(8).normal((3, d, d), F64)
    pick = rng.integers(3, (n,))
    return mean[pick] + (turn[pick] @ rng.normal((n, d, 1), F64)).squeeze(2)


MIXED = Space(
    (3,),
    (Variable("kind", "category", 3), Variable("size", "ordinal", 6, mean=2.5, scale=1.5), Variable("is", "binary", 2)),
)


def mixed_rows(n: int, seed: int = 0) -> Tensor:
    rng = Rng(seed)
    a = rng.integers(3, (n,))
    b = (a * 2 + rng.integers(2, (n,))).clamp_max(5)
    c = ((a == 1) ^ rng.bernoulli(0.2, (n,))).long()
    return torch.stack([a, b, c], 1).double()


def every_row() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(n, dtype=F64) for n in (3, 6, 2)])


def test_intervals_agree_with_scipy():
    a = torch.tensor([-40.0, -5.0, -1e-4, 0.3, 7.0, 30.0, -math.inf, 2.0], dtype=F64)
    b = torch.tensor([-39.9, 3.0, 2e-4, 0.3001, 7.5, math.inf, -3.0, 2.0 + 1e-7], dtype=F64)
    got = log_interval(a, b)
    for k in range(len(a)):
        low, high = (float(a[k]), float(b[k])) if a[k] + b[k] < 0 else (-float(b[k]), -float(a[k]))
        top, bottom = stats.norm.logcdf(high), stats.norm.logcdf(low)
        want = top + math.log(-math.expm1(bottom - top))
        assert float(got[k]) == pytest.approx(want, rel=1e-7, abs=1e-7)
        first, second = interval_moments(a[k], b[k], got[k])
        z = stats.truncnorm(float(a[k]), float(b[k]))
        assert float(first) == pytest.approx(z.mean(), rel=1e-5, abs=1e-6)
        assert float(second) == pytest.approx(z.moment(2), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_likelihood_is_that_of_scikit_learn_at_the_same_parameters(full):
    x = clusters(400, 4)
    space = plain(4)
    model = fitted(x, space, components=3, covariance="full" if full else "diagonal")
    scale, shift = (torch.tensor([getattr(v, k) for v in space.variables]).double() for k in ("scale", "mean"))
    peer = GaussianMixture(3, covariance_type="full" if full else "diag")
    peer.weights_, peer.means_ = model.log_pi.exp().numpy(), (model.normal.mean * scale + shift).numpy()
    S = model.normal.covariance
    S = S * scale.unsqueeze(1) * scale if full else S * scale.square()
    peer.precisions_cholesky_ = torch.linalg.inv(torch.linalg.cholesky(S)).mT.numpy() if full else S.rsqrt().numpy()
    value = model.log_prob(x)
    assert value.quality is Quality.EXACT
    assert torch.allclose(value.value, torch.from_numpy(peer.score_samples(x.numpy())), atol=1e-8)


@pytest.mark.parametrize("knobs", [{}, {"longest": 2}])
def test_a_mixed_table_sums_to_one_and_its_marginals_are_sums(knobs):
    model = fitted(mixed_rows(300), MIXED, components=4, **knobs)
    x = every_row()
    p = model.log_prob(x).value.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    observed = torch.tensor([True, False, True]).expand(len(x), -1)
    marginal = model.log_prob(x, observed=observed).value.exp()
    table = p.reshape(3, 6, 2).sum(1, keepdim=True).expand(3, 6, 2).reshape(-1)
    assert torch.allclose(marginal, table, atol=1e-10)
    conditional = model.condition(x, observed)
    assert torch.allclose(conditional.log_prob(x).value.exp(), p / table, atol=1e-9)


def test_conditional_draws_have_the_enumerated_frequencies_and_keep_what_was_observed():
    model = fitted(mixed_rows(300), MIXED, components=4)
    x = torch.tensor([[1.0, 3.0, 0.0], [0.0, 5.0, 1.0]], dtype=F64)
    observed = torch.tensor([[True, False, True], [False, False, True]])
    n = 20_000
    draws = model.condition(x, observed).sample(n, Rng(3))
    assert torch.equal(draws[:, observed], x[observed].expand(n, -1))
    table = model.log_prob(every_row()).value.exp().reshape(3, 6, 2)
    for row, want in ((0, table[1, :, 0]), (1, table[:, :, 1].sum(0))):
        want = want / want.sum()
        share = torch.bincount(draws[:, row, 1].long(), minlength=6) / n
        z = (share - want) / (want * (1 - want) / n).sqrt()
        assert float(z.abs().max()) < 5


def test_bins_and_bounds_sum_and_integrate_to_one():
    space = Space(
        (2,),
        (
            Variable("age", resolution=0.5, mean=3.0, scale=2.0),
            Variable("share", "bounded", low=0.0, high=2.0, mean=1.0, scale=0.5),
        ),
    )
    rng = Rng(0)
    x = torch.stack([((3 + 2 * rng.normal((200,), F64)) * 2).round() / 2, 2 * rng.uniform((200,), F64)], 1)
    model = fitted(x, space, components=3)
    age = torch.arange(-60, 80, dtype=F64) / 2
    edge = torch.linspace(0, 2, 1001, dtype=F64)
    middle = (edge[1:] + edge[:-1]) / 2
    total = model.log_prob(torch.cartesian_prod(age, middle)).value.exp().sum() * 2 / 1000
    assert float(total) == pytest.approx(1, abs=5e-4)
    assert bool(model.log_prob(torch.tensor([[1.0, 2.5]], dtype=F64)).value.isneginf())
    draws = model.sample(500, rng=1)
    assert torch.equal(draws[:, 0] * 2, (draws[:, 0] * 2).round())
    assert bool(((draws[:, 1] > 0) & (draws[:, 1] < 2)).all())


def test_full_covariance_at_a_resolution_is_a_lower_bound_near_the_bin_integral():
    space = Space((1,), (Variable("x", resolution=1.0, scale=2.0),))
    x = (2 * Rng(0).normal((300, 1), F64)).round()
    model = fitted(x, space, components=1, covariance="full")
    value = model.log_prob(x, draws=500, rng=0)
    m, s = 2 * model.normal.mean[0, 0], 2 * model.normal.covariance[0, 0, 0].sqrt()
    exact = log_interval((x[:, 0] - 0.5 - m) / s, (x[:, 0] + 0.5 - m) / s)
    assert value.quality is Quality.LOWER
    assert float((value.value - exact).abs().mean()) < 0.01
    one = torch.stack([model.log_prob(x, rng=k).value.mean() for k in range(20)]).mean()
    assert float(one) < float(exact.mean())


@pytest.mark.parametrize("form", ["table", "blurred", "binned", "diagonal", "full", "gaps"])
def test_em_never_falls(form):
    x, mask = clusters(200, 3), None
    if form in ("table", "blurred"):
        x = (x + 6).round().clamp(0, 9)
        block = Table([10] * 3, 2.0, [1.5] * 3 if form == "blurred" else None)
        rows = block.prepare(x, None, True)
    elif form == "binned":
        block = Binned(3, 2.0)
        rows = block.prepare((x.round() - 0.5, x.round() + 0.5), None, True)
    else:
        mask = Rng(5).bernoulli(0.7, (200, 3)) if form == "gaps" else None
        block = Normal(3, form != "diagonal", 2.0, round_prior=form == "gaps")
        rows = block.prepare(x, mask, True)
    mixture = Mixed([block], torch.zeros(1, dtype=F64))
    initialise(mixture, [rows], x, 4, Rng(1))
    trace = torch.tensor(em(mixture, [rows], 40), dtype=F64)
    assert float(trace.diff().min()) > -1e-9
    assert float(trace[-1] - trace[0]) > 1e-3


def test_products_of_columns_and_differences_give_the_same_likelihood():
    x = clusters(300, 5)
    block = Normal(5, True, 1.0)
    rows = block.prepare(x, None, True)
    mixture = Mixed([block], torch.zeros(1, dtype=F64))
    initialise(mixture, [rows], x, 3, Rng(0))
    em(mixture, [rows], 5)
    assert torch.allclose(block.log_prob(rows), block.log_prob(block.prepare(x, None)), atol=1e-8)
    patterned = block.prepare(x, torch.ones_like(x, dtype=torch.bool))
    assert torch.allclose(block.log_prob(patterned), block.log_prob(rows), atol=1e-8)
    R = block.log_prob(rows).softmax(1)
    for a, b in zip(block._moments(*rows, R), block._moments(*patterned, R), strict=True):
        assert torch.allclose(a, b, atol=1e-8)


def test_em_with_gaps_recovers_the_parameters():
    m, S = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=F64)
    n, z = 2000, []
    for seed in range(6):
        x = m + Rng(seed).normal((n, 2), F64) @ torch.linalg.cholesky(S).T
        observed = torch.ones(n, 2, dtype=torch.bool)
        observed[:, 1] = x[:, 0] < 1.5  # missing at random: the mean of what is seen is far off
        space = Space((2,), (Variable("a"), Variable("b")))
        model = fitted(x * observed, space, observed, components=1, covariance="full", tolerance=1e-9, smoothing=1e-6)
        z.append((model.normal.mean[0] - m) / (S.diagonal() / n).sqrt())
    assert float(torch.stack(z).mean(0).abs().max() * math.sqrt(6)) < 8  # gaps widen the error of the second mean
    assert float(torch.stack(z)[:, 0].abs().max()) < 5


def test_full_conditionals_are_ratios_and_draws_have_their_moments():
    x = clusters(300, 3)
    model = fitted(x, plain(3), components=3)
    row, observed = x[:2], torch.tensor([[True, False, True], [False, True, False]])
    conditional = model.condition(row, observed)
    grid = torch.linspace(-60, 60, 6001, dtype=F64)
    rows = row[:1].repeat(len(grid), 1)
    rows[:, 1] = grid
    joint = model.log_prob(rows).value
    p = (joint - model.log_prob(row[:1], observed=observed[:1]).value).exp()
    width = grid[1] - grid[0]
    assert float(p.sum() * width) == pytest.approx(1, abs=1e-6)
    mean = (p * grid).sum() * width
    variance = (p * (grid - mean).square()).sum() * width
    draws = conditional.sample(20_000, Rng(0))
    assert torch.equal(draws[:, observed], row[observed].expand(20_000, -1))
    assert abs(float((draws[:, 0, 1].mean() - mean) / (variance / 20_000).sqrt())) < 5
    assert float(conditional.log_prob(row).value[0]) == pytest.approx(
        float(model.log_prob(row).value[0] - model.log_prob(row, observed=observed).value[0]), abs=1e-9
    )


def test_givens_weigh_shared_components_and_an_absent_one_is_summed_out():
    x = mixed_rows(600)
    c, d = x[:, 0].long(), x[:, 2].long()
    space = Space((1,), (MIXED.variables[1],))
    model = fitted(x[:, 1:2], space, given={"c": (c, category(3)), "d": (d, category(2))}, components=4)
    level = torch.arange(6, dtype=F64).unsqueeze(1)
    total = torch.zeros(6, dtype=F64)
    for code in range(2):
        given = {"c": torch.full((6,), 1), "d": torch.full((6,), code)}
        p = model.log_prob(level, given).value.exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-9)
        one = {"c": torch.full((1,), 1), "d": torch.full((1,), code)}
        whole, _ = model.joined.whole(level[:1], one, None)
        both = model._log_part(whole, model.joined.given_only(len(whole), one, whole.device), Rng(0))
        single = {"c": one["c"]}
        whole, _ = model.joined.whole(level[:1], single, None)
        total += (
            p * (both - model._log_part(whole, model.joined.given_only(len(whole), single, whole.device), Rng(0))).exp()
        )
    alone = model.log_prob(level, {"c": torch.full((6,), 1)}).value.exp()
    assert torch.allclose(alone, total, atol=1e-9)
    draws = model.sample(20_000, {"c": torch.tensor([1])}, rng=0).reshape(-1).long()
    z = (torch.bincount(draws, minlength=6) / 20_000 - alone) / (alone * (1 - alone) / 20_000).sqrt()
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize("alpha, sigma", [(1.0, 0.7), (0.4, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_denoise_is_the_posterior_mean_by_quadrature(alpha, sigma, covariance):
    x = clusters(300, 2)
    space = Space((2,), (Variable("u"),), dtype="float64")
    model = fitted(x / 4, space, components=3, covariance=covariance)
    axis = torch.linspace(-6, 6, 481, dtype=F64)
    u = torch.cartesian_prod(axis, axis)
    u_t = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=F64)
    log_p = model.log_prob(u).value
    log_w = log_p - 0.5 * ((u_t.unsqueeze(1) - alpha * u) / sigma).square().sum(2)
    want = log_w.softmax(1) @ u
    got = model.denoise(u_t, torch.tensor(alpha), torch.tensor(sigma))
    assert torch.allclose(got, want, atol=1e-5)
    v = u_t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_prob(v).value.sum(), v)
    assert torch.allclose(model.score(u_t), slope, atol=1e-8)


def test_a_spent_budget_keeps_the_best_so_far():
    """The ladder and EM ask before every step; with no time left one component after two iterations remains."""
    x = torch.cat([Rng(k).normal((150, 2), F64) * 0.2 + 4 * k for k in range(4)])
    data = Data(x, plain(2)).splitted(0.1, 0.2)
    spent, patient = Mixture().build(data.space), Mixture().build(data.space)
    lines = []
    spent.fit_closed(data, Rng(0), lambda line=None: line is not None and lines.append(line) is not None)
    patient.fit_closed(data, Rng(0))
    assert len(lines) == 1
    assert len(spent.log_pi) < len(patient.log_pi)
    assert bool(torch.isfinite(spent.log_prob(x).value).all())


def test_auto_finds_the_clusters_and_loads_into_an_unfitted_model():
    x = torch.cat([Rng(k).normal((150, 2), F64) * 0.2 + 4 * k for k in range(4)])
    data = Data(x, plain(2)).splitted(0.1, 0.2)
    lines = []
    model = Mixture().build(data.space)
    model.fit_closed(data, Rng(0), lambda line=None: line is None or lines.append(line) is None)
    fresh = torch.cat([Rng(10 + k).normal((500, 2), F64) * 0.2 + 4 * k for k in range(4)])
    distance = torch.stack([(fresh - 4 * k).square().sum(1) for k in range(4)]) / 0.04
    truth = torch.logsumexp(-0.5 * distance, 0) - math.log(4 * 2 * math.pi * 0.04)
    assert 4 <= len(model.log_pi) <= 32
    assert abs(float((truth - model.log_prob(fresh).value).mean())) < 0.1
    assert all(math.isfinite(line["valid"]) for line in lines)
    other = Mixture().build(data.space)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_prob(x).value, model.log_prob(x).value)
    assert torch.allclose(model.log_prob(x[:5]).value, model.log_prob(x).value[:5], atol=1e-12)


def test_wrong_knobs_say_what_was_expected():
    with pytest.raises(ValueError, match="auto, full, diagonal, tied, factor"):
        Mixture(covariance="round")
    with pytest.raises(ValueError, match="components"):
        Mixture(components=0)
    with pytest.raises(ValueError, match="prior is 'flat'; expected one of marginal, round"):
        Mixture(prior="flat")


@pytest.mark.parametrize("prior", ["marginal", "round"])
def test_covariances_are_pulled_to_the_margins_or_to_a_ball(prior):
    space = Space((3,), tuple(Variable(f"x{j}") for j in range(3)))
    x = clusters(40, 3) * torch.tensor([1.0, 0.01, 3.0], dtype=F64)
    model = fitted(x, space, components=1, covariance="full", smoothing=200.0, prior=prior)
    v = x.var(0, correction=0)
    B = torch.diag(v) if prior == "marginal" else v.mean() * torch.eye(3, dtype=F64)
    C = (40 * x.T.cov(correction=0) + 20 * B) / 60
    want = torch.distributions.MultivariateNormal(x.mean(0), C).log_prob(x)
    torch.testing.assert_close(model.log_prob(x).value, want, atol=1e-6, rtol=1e-6)


# --- factor analysers, and components of each class's own


def factored(n: int, seed: int = 0) -> Tensor:
    rng = Rng(seed)
    L, spread = Rng(5).normal((6, 2), F64), torch.linspace(0.3, 1, 6, dtype=F64)
    return rng.normal((n, 2), F64) @ L.T + rng.normal((n, 6), F64) * spread


SIX = Space((6,), tuple(Variable(f"x{j}") for j in range(6)))


def test_one_factor_analyser_is_that_of_scikit_learn():
    x = factored(2000)
    knobs = {"components": 1, "factors": 2, "smoothing": 1e-7, "tolerance": 1e-9, "iterations": 2000}
    model = fitted(x, SIX, covariance="factor", **knobs)
    peer = FactorAnalysis(2, tol=1e-9, max_iter=5000).fit(x.numpy())
    assert float(model.log_prob(x).value.mean()) == pytest.approx(float(peer.score(x.numpy())), abs=1e-5)


def test_factor_analysers_have_the_density_of_their_covariance_and_draw_from_it():
    x = clusters(600, 4)
    model = fitted(x, SIX.sub([0, 1, 2, 3]), components=3, covariance="factor", factors=2)
    S, m = model.normal.covariance.numpy(), model.normal.mean.numpy()
    parts = [float(p) + stats.multivariate_normal(m[k], S[k]).logpdf(x) for k, p in enumerate(model.log_pi)]
    log_p = torch.logsumexp(torch.from_numpy(np.stack(parts)), 0)
    assert torch.allclose(model.log_prob(x).value, log_p, atol=1e-9)
    draws, own = model.sample(20_000, rng=1), model.log_pi.exp()
    mean = own @ model.normal.mean
    spread = (own[:, None, None] * model.normal.covariance).sum(0)
    between = torch.einsum("k,ki,kj->ij", own, model.normal.mean - mean, model.normal.mean - mean)
    z = (draws.mean(0) - mean) / (draws.var(0) / len(draws)).sqrt()
    assert float(z.abs().max()) < 5
    assert torch.allclose(draws.T.cov(), spread + between, rtol=0.1, atol=0.3)


@pytest.mark.parametrize("gaps", [False, True])
def test_em_of_factor_analysers_never_loses(gaps):
    x = clusters(400, 5)
    observed = Rng(2).bernoulli(0.8, tuple(x.shape)) if gaps else None
    block = Factor(5, 2, 0.2)
    rows = block.prepare(x, observed, True)
    mixture = Mixed([block], torch.zeros(1, dtype=F64))
    initialise(mixture, [rows], x, 3, Rng(0))
    mixture.log_pi = torch.full((3,), -math.log(3), dtype=F64)
    trace = em(mixture, [rows], 30)
    assert all(b > a - 1e-9 for a, b in zip(trace[:-1], trace[1:], strict=True))
    assert trace[-1] > trace[0] + 0.01


@pytest.mark.parametrize(
    ("covariance", "peer"),
    [("diagonal", GaussianNB()), ("tied", LinearDiscriminantAnalysis()), ("full", QuadraticDiscriminantAnalysis())],
)
def test_components_of_their_own_are_the_generative_classifiers(covariance, peer):
    x = clusters(500, 3)
    y = (x[:, 0] + Rng(3).normal((500,), F64) > 0).long()
    given = {"label": (y, category(2))}
    model = fitted(x, plain(3), given=given, components=1, covariance=covariance, separate="label", smoothing=1e-8)
    got = Joint(model, "label", torch.bincount(y).double().log()).posterior(x)
    want = torch.from_numpy(peer.fit(x.numpy(), y.numpy()).predict_proba(x.numpy()))
    assert float((got - want).abs().max()) < 2e-3  # LDA divides by N - 2
    alone = model.log_prob(x).value
    both = [
        model.log_prob(x, {"label": torch.full((500,), c)}).value + math.log((y == c).double().mean()) for c in (0, 1)
    ]
    assert torch.allclose(alone, torch.logsumexp(torch.stack(both), 0), atol=1e-4)


def test_separate_names_a_category():
    with pytest.raises(ValueError, match="separate"):
        Mixture(separate="label").build(plain(2))


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied", "factor"])
def test_conditional_mean_is_that_of_many_draws(covariance):
    """E[x_m | x_o], by closed form, is the mean of draws, in the data's own units, rows with different masks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) * 5 + 30
    x[200:] += np.array([20.0, -10.0, 5.0])
    data = pofx.open_data(x, test=40)
    model = pofx.fit(data, Mixture(components=3, covariance=covariance), seed=0, progress=False)
    rows = torch.from_numpy(x[:6])
    observed = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]).bool()
    found = model.condition(rows, observed)
    assert found.mean is not None
    draws = found.sample(4000, Rng(1)).double()
    z = (draws.mean(0) - found.mean()) / (draws.std(0) / 4000**0.5 + 1e-9)
    assert float(z[~observed].abs().max()) < 5
    assert torch.equal(found.mean()[observed], rows[observed])


def test_a_mean_is_that_of_the_draws():
    """A rounded column beside an unrounded one, and rounded ones alone: E[b | a] = 2 a, never the column's mean."""
    rng = np.random.default_rng(0)
    a = rng.normal(0, 10, 1500)
    b = np.round(2 * a + rng.normal(size=1500), 1)
    for first in (a, np.round(a, 1)):
        model = pofx.fit(pd.DataFrame({"a": first, "b": b}), "mixture", seed=0, progress=False)
        gaps = pd.DataFrame({"a": [-10.0, 0.0, 10.0], "b": [np.nan] * 3})
        mean = pofx.impute(model, gaps, draws=500, rng=0).diagnostics["mean"]["b"].to_numpy()
        assert np.abs(mean - [-20, 0, 20]).max() < 3.5, mean
