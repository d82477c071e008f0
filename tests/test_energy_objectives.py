"""Objectives of energies: score matching and noise contrast at their minima, contrastive divergence, JEM, kernels."""

import math

import pytest
import torch
from torch import nn

from pofx.data import Batch
from pofx.engines import matching, mcmc
from pofx.families.energy import Energy
from pofx.kinds.base import category, real
from pofx.model import Quality, Unsupported
from pofx.nn.moments import BATCHES
from pofx.nn.scalar import ScalarMLP
from pofx.randomness import Rng
from pofx.wrappers import Joint

torch.set_num_threads(1)
PRECISION = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


class Quadratic(nn.Module):
    """f(u) = a |u|^2 / 2 + b."""

    def __init__(self, a: float, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, u, c=None):
        return 0.5 * self.a * u.square().sum(1) + self.b


def quadratic(a: float, b: float = 0.0, **knobs) -> Energy:
    model = Energy(base_std=2.0, **knobs).build(real(1))
    model.body = Quadratic(a, b)
    model.moments.batches.fill_(BATCHES)
    return model


def normal_rows(n: int, seed: int = 0):
    return Rng(seed).normal((n, 2), torch.float64) @ torch.linalg.cholesky(torch.linalg.inv(PRECISION)).T


# --- losses without chains


def test_explicit_score_matching_is_its_closed_form():
    """s = -P x: the trace is -tr P, the square x' P P x."""
    x = normal_rows(50)
    loss = matching.explicit(lambda u: -u @ PRECISION, x)
    torch.testing.assert_close(loss, -PRECISION.trace() + 0.5 * (x @ PRECISION).square().sum(1))


@pytest.mark.parametrize("reduced", [True, False])
def test_sliced_score_matching_is_unbiased_for_the_explicit_one(reduced):
    x, rng = normal_rows(4), Rng(1)
    score = lambda u: -u @ PRECISION - 0.1 * u**3  # noqa: E731
    want = matching.explicit(score, x).detach()
    got = torch.stack([matching.sliced(score, x, rng, reduced=reduced).detach() for _ in range(3000)])
    assert float(((got.mean(0) - want) / (got.std(0) / 3000**0.5)).abs().max()) < 5
    many = matching.sliced(score, x, Rng(2), slices=3000, reduced=reduced).detach()
    assert float(((many - want) / (got.std(0) / 3000**0.5)).abs().max()) < 5


def test_reduced_slices_have_less_variance():
    x, score = normal_rows(1), lambda u: -3 * u @ PRECISION
    spread = [
        torch.cat([matching.sliced(score, x, Rng(k), reduced=r).detach() for k in range(400)]).std()
        for r in (True, False)
    ]
    assert float(spread[0]) < 0.8 * float(spread[1])


@pytest.mark.parametrize("loss", ["explicit", "sliced"])
def test_score_matching_is_least_at_the_true_precision(loss):
    x, P = normal_rows(40_000), PRECISION.clone().requires_grad_()

    def value(P):
        score = lambda u: -u @ (P + P.T) / 2  # noqa: E731
        return (matching.explicit(score, x) if loss == "explicit" else matching.sliced(score, x, Rng(3), 4)).mean()

    (slope,) = torch.autograd.grad(value(P), P)
    assert float(slope.abs().max()) < 0.05
    for factor in (0.6, 1.5):
        assert float(value(factor * PRECISION)) > float(value(PRECISION)) + 0.05


def test_denoising_is_least_at_the_score_of_the_noised_data():
    x, noise = normal_rows(40_000), 0.5
    best = torch.linalg.inv(torch.linalg.inv(PRECISION) + noise**2 * torch.eye(2))
    P = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(matching.denoising(lambda u: -u @ P, x, noise, Rng(1)).mean(), P)
    assert float(slope.abs().max()) < 0.01
    P = PRECISION.clone().requires_grad_()
    (slope,) = torch.autograd.grad(matching.denoising(lambda u: -u @ P, x, noise, Rng(1)).mean(), P)
    assert float(slope.abs().max()) > 0.05


@pytest.mark.parametrize("k", [1, 5])
def test_contrast_learns_the_constant(k):
    """Data N(0, 1/4), noise N(0, 1): log p - log q = log 2 - 3 x^2 / 2; any other constant or slope costs."""
    n = 60_000
    x, y = 0.5 * Rng(0).normal((n, 1), torch.float64), Rng(1).normal((k * n, 1), torch.float64)
    theta = torch.tensor([1.5, math.log(2)], dtype=torch.float64, requires_grad=True)
    ratio = lambda u: theta[1] - theta[0] * u[:, 0].square()  # noqa: E731
    (slope,) = torch.autograd.grad(matching.contrast(ratio(x), ratio(y)), theta)
    assert float(slope.abs().max()) < 6e-3
    with torch.no_grad():
        theta[1] += 0.5
    (slope,) = torch.autograd.grad(matching.contrast(ratio(x), ratio(y)), theta)
    assert float(slope[1]) > 0.03


# --- the family's objectives


def path(model, x, steps, rate):
    """The parameter a over plain gradient steps, mean of the second half."""
    (player,), seen = model.train().players(), []
    for k in range(steps):
        (slope,) = torch.autograd.grad(player.loss(Batch(x), Rng(k)), model.body.a)
        with torch.no_grad():
            model.body.a.sub_(rate * slope)
        seen.append(model.body.a.item())
    return sum(seen[steps // 2 :]) / (steps - steps // 2)


@pytest.mark.parametrize(
    "objective, knobs, rate",
    [
        ("cd", {"moves": 4, "leapfrog": 4, "shrink": 0.0}, 4.0),
        ("pcd", {"kernel": "mala", "moves": 4, "shrink": 0.0, "restart": 0.0, "chains": 256}, 1.0),
        ("pcd", {"kernel": "langevin", "step": 0.15, "moves": 8, "shrink": 0.0, "restart": 0.0, "chains": 256}, 1.0),
        ("ssm", {}, 4.0),
    ],
)
def test_objectives_learn_the_variance(objective, knobs, rate):
    """1 / v = a + 1 / s^2; here v = 0.25 and s = 2, so a = 3.75."""
    x = 0.5 * Rng(0).normal((256, 1))
    x = 0.5 * x / x.square().mean().sqrt()
    assert path(quadratic(2.5, objective=objective, **knobs), x, 120, rate) == pytest.approx(3.75, rel=0.08)


def test_noise_contrast_learns_the_constant_of_the_energy():
    """p~ = q exp(-f) with q = N(0, 4): at f = 3.75 v^2 / 2 - log 4 it is normalised, and there the slopes vanish."""
    model = quadratic(3.75, -math.log(4), objective="nce", contrasts=4, temperatures=30, leapfrog=3).eval()
    x = 0.5 * Rng(0).normal((40_000, 1))
    slopes = torch.autograd.grad(model._loss(Batch(x), Rng(1)), [model.body.a, model.body.b])
    assert max(abs(float(g)) for g in slopes) < 5e-3
    value = model.log_prob(x[:50])
    law = torch.distributions.Normal(0.0, 0.5).log_prob(x[:50, 0]).double()
    assert value.quality is Quality.ESTIMATE
    torch.testing.assert_close(value.value, law, atol=1e-4, rtol=1e-4)
    model.log_z.fill_(torch.nan)
    assert float(model.partition()[0, :2].mean()) == pytest.approx(0, abs=0.1)  # annealing agrees with the claim


def test_the_noise_of_nce_follows_the_data():
    model = Energy(objective="nce", width=8, depth=1).build(real(2)).train()
    for k in range(BATCHES):
        model._loss(Batch(normal_rows(200, k).float()), Rng(k))
    v = model.moments(normal_rows(4000, 99).float())
    y = model.base.sample(4000, Rng(0))
    torch.testing.assert_close(y.T.cov(), v.T.cov() + 0.05 * torch.eye(2), atol=0.1, rtol=0)
    law = torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=model.base.factor)
    torch.testing.assert_close(model.base.log_prob(y), law.log_prob(y), atol=1e-4, rtol=1e-4)
    moved = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(moved).sum(), moved)
    torch.testing.assert_close(model.base.slope(y), slope, atol=1e-4, rtol=1e-3)


# --- slopes written out


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("c_dim, d_out", [(0, 1), (5, 1), (0, 3)])
def test_slopes_written_out_are_those_of_the_graph(residual, c_dim, d_out):
    net = ScalarMLP(4, 12, 3, c_dim, d_out, residual).double()
    x, c = Rng(0).normal((7, 4), torch.float64).requires_grad_(), Rng(1).normal((7, 5), torch.float64)
    c, weigh = (c if c_dim else None), (lambda g: g.softmax(1)) if d_out > 1 else None
    f = net(x, c)
    (want,) = torch.autograd.grad((torch.logsumexp(f, 1) if d_out > 1 else f).sum(), x)
    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            got, slope = net.value_and_slope(x, c, weigh)
            torch.testing.assert_close(got, f)
            torch.testing.assert_close(slope, want)
            torch.testing.assert_close(net.slope(x, c, weigh), want)


@pytest.mark.parametrize("given", [{}, {"label": torch.tensor([0, 2, 1, 1])}])
@pytest.mark.parametrize("classifier", [True, False])
def test_chains_walk_along_the_density_that_is_asked_about(classifier, given):
    model = Energy(classifier=classifier, width=16, depth=1).build(real(3), {"label": category(3)})
    v, log_p = Rng(0).normal((4, 3)), model._log_tilde(given)
    moved = v.clone().requires_grad_()
    (want,) = torch.autograd.grad(log_p.value(moved).sum(), moved)
    value, slope = mcmc.value_and_slope(log_p, v)
    torch.testing.assert_close(value, log_p(v).detach())
    torch.testing.assert_close(slope, want)
    torch.testing.assert_close(mcmc.slope_of(log_p, v), want)
    b = mcmc.blend(model.base.density, log_p, 0.3)
    moved = v.clone().requires_grad_()
    (want,) = torch.autograd.grad(b(moved).sum(), moved)
    torch.testing.assert_close(mcmc.slope_of(b, v), want)


# --- a classifier that is an energy


def three_blobs(n: int, seed: int = 0):
    """Three blobs of unequal shares, and their labels."""
    rng = Rng(seed)
    y = rng.categorical(torch.tensor([0.2, 0.3, 0.5]).log().expand(n, -1))
    centre = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return centre[y] + 0.6 * rng.normal((n, 2)), y


@pytest.fixture(scope="module")
def jem() -> Energy:
    model = Energy(classifier=True, width=32, depth=1, temperatures=40, sweeps=20, leapfrog=5)
    model.build(real(2), {"label": category(3)}).train()
    (player,), (x, y) = model.players(), three_blobs(2000)
    optimiser = torch.optim.Adam(player.params, lr=3e-3)
    for k in range(200):
        rows = Rng(k).integers(len(x), (64,))
        optimiser.zero_grad()
        player.loss(Batch(x[rows], {"label": y[rows]}), Rng(k)).backward()
        optimiser.step()
    return model.eval()


def test_one_energy_says_the_class_and_the_density(jem):
    x, y = three_blobs(400, 1)
    p = jem.posterior(x)
    assert float((p.argmax(1) == y).float().mean()) > 0.97
    v = jem.moments(x)
    whole, each = jem._log_tilde({})(v), [jem._log_tilde({"label": torch.full((400,), k)})(v) for k in range(3)]
    torch.testing.assert_close(torch.logsumexp(torch.stack(each, 1), 1), whole)
    torch.testing.assert_close(torch.stack(each, 1).softmax(1), p)


def test_bayes_with_the_implied_prior_is_the_classifier(jem):
    x, _ = three_blobs(200, 2)
    joint = Joint(jem, "label", jem.log_prior())
    torch.testing.assert_close(joint.posterior(x), jem.posterior(x).double(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joint.log_prob(x).value, jem.log_prob(x).value, atol=1e-5, rtol=1e-5)
    shares = jem.log_prior().exp()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-6)


def test_log_z_of_labels_is_that_of_a_grid(jem):
    axis = torch.linspace(-9, 9, 300)
    v = torch.cartesian_prod(axis, axis)
    for row in range(4):
        given = {"label": torch.full((len(v),), row - 1)} if row else {}
        with torch.no_grad():
            want = float(torch.logsumexp(jem._log_tilde(given)(v).double(), 0) + 2 * math.log(18 / 299))
        low, high, stderr = jem.partition()[row].tolist()
        assert min(low, high) - 5 * stderr - 0.1 <= want <= max(low, high) + 5 * stderr + 0.1


def test_draws_given_a_label_look_like_it(jem):
    for k in range(3):
        u = jem.sample(100, {"label": torch.tensor(k)}, rng=0)
        assert float((jem.posterior(u).argmax(1) == k).float().mean()) > 0.9
    assert jem.record["mixing"]["kept"] == 20


def test_refusals():
    with pytest.raises(ValueError, match="one category"):
        Energy(classifier=True).build(real(2))
    with pytest.raises(ValueError, match="kernel"):
        Energy(kernel="gibbs")
    with pytest.raises(Unsupported, match="classifier"):
        Energy(width=8).build(real(2), {"label": category(2)}).posterior(torch.zeros(1, 2))


@pytest.mark.parametrize("residual", [True, False])
def test_slopes_have_slopes_of_their_own(residual):
    """Score matching descends along the gradient of a slope, the sliced one along that of its gradient."""
    net = ScalarMLP(3, 8, 2, residual=residual).double()
    x, v, w = (Rng(k).normal((5, 3), torch.float64).requires_grad_() for k in range(3))

    def bends(slope):
        (first,) = torch.autograd.grad((slope * v).sum(), x, create_graph=True)
        second = torch.autograd.grad((first * w).sum(), [x, *net.parameters()], allow_unused=True)
        return [first, *(g for g in second if g is not None)]

    def derived():
        return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]

    for got, right in zip(bends(net.slope(x)), bends(derived()), strict=True):
        torch.testing.assert_close(got, right)
    plain = [torch.autograd.grad((s * v).sum(), net.first[0].weight)[0] for s in (net.slope(x), derived())]
    torch.testing.assert_close(*plain)


def test_the_sample_task_says_how_the_chains_mixed(jem):
    from pofx.tasks.sample import sample

    found = sample(jem, 30, rng=0)
    assert found.quality is Quality.ESTIMATE and found.diagnostics["chains"] == 30
    assert {"effective_size", "r_hat", "lag_1", "correlation_time"} <= set(found.diagnostics)
