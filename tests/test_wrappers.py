"""Wrappers in closed form: the joint is linear discriminant analysis, guidance telescopes, what is fixed stays."""

from __future__ import annotations

import pytest
import torch

from pofx.engines.diffusion import PATHS
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Card, Model, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.tasks.restore import restore
from pofx.wrappers import Ensemble, Fixed, Guided, Joint, Relaxed, adapted, joint

MEANS = torch.tensor([[0.0, 0.0], [1.5, -1.0], [-1.0, 2.0]], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
LOG_PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()


def classes() -> Gaussian:
    model = Gaussian()
    model.build(real(2).replace(dtype="float64"), {"label": category(3)})
    model.mean, model.slope = MEANS.mean(0), MEANS - MEANS.mean(0)
    model.covariance, model.whole = COV.clone(), COV.clone()
    return model


def class_log_p(x):
    return torch.stack([torch.distributions.MultivariateNormal(m, COV).log_prob(x) for m in MEANS], -1)


def test_joint_is_bayes_rule():
    x = Rng(0).normal((50, 2), torch.float64) * 2
    both = Joint(classes(), "label", LOG_PRIOR)
    got = both.log_prob(x)
    assert got.quality is Quality.EXACT
    assert torch.allclose(got.value, torch.logsumexp(class_log_p(x) + LOG_PRIOR, -1), atol=1e-9)
    # linear discriminant analysis: log p(c | x) is linear in x
    w = torch.linalg.solve(COV, MEANS.T)
    linear = x @ w - 0.5 * (MEANS.T * w).sum(0) + LOG_PRIOR
    assert torch.allclose(both.posterior(x), linear.softmax(-1), atol=1e-9)


def test_joint_draws_are_of_the_mixture():
    both = Joint(classes(), "label", LOG_PRIOR)
    p = LOG_PRIOR.exp()
    mean = p @ MEANS
    cov = COV + torch.einsum("k,ki,kj->ij", p, MEANS - mean, MEANS - mean)
    for seed in range(12):
        x = both.sample(2000, None, seed)
        assert ((x.mean(0) - mean) / (cov.diagonal() / 2000).sqrt()).abs().max() < 5
        assert (x.var(0) / cov.diagonal() - 1).abs().max() < 0.25
    assert both.given == {}


def test_joint_score_is_the_slope_of_its_log_prob():
    both = Joint(classes(), "label", LOG_PRIOR)
    u = Rng(1).normal((10, 2), torch.float64)
    step = 1e-5 * torch.tensor([1.0, 0.5], dtype=torch.float64)
    slope = (both.log_prob(u + step).value - both.log_prob(u - step).value) / 2e-5
    assert torch.allclose(both.score(u) @ (step / 1e-5), slope, atol=1e-5)


def test_joint_shares_are_smoothed():
    both = joint(classes(), torch.tensor([0, 0, 0, 1]))
    assert torch.allclose(both.log_prior.exp(), torch.tensor([4.0, 2.0, 1.0]).double() / 7)


class Shifted(Model):
    """N(label + 10 side, 1), whichever is given; for two givens."""

    card = Card("", "", "", "", "", ("explicit",), "", "", "")
    quality, stderr = Quality.EXACT, None

    def _mean(self, given, rows):
        return sum((w * given[k].double() for k, w in (("label", 1), ("side", 10)) if k in given), torch.zeros(rows))

    def _sample(self, count, given, rng):
        return (self._mean(given, count) + rng.normal((count,)))[:, None].double()

    def _log_prob(self, x, given, observed, draws, rng):
        value = torch.distributions.Normal(self._mean(given, len(x)), 1.0).log_prob(x[:, 0])
        return Value(value, self.quality, None if self.stderr is None else torch.full((len(x),), self.stderr))

    def _denoise(self, u_t, alpha_t, sigma_t, given):
        return self._mean(given, len(u_t))[:, None].double()


def shifted(**changes) -> Shifted:
    model = type("Shifted", (Shifted,), changes)()
    model.build(real(1), {"label": category(3), "side": category(2)})
    return model


def test_joint_hands_on_what_else_is_given():
    both, x = Joint(shifted(), "label", LOG_PRIOR), torch.tensor([[11.0], [1.0]]).double()
    side = {"side": torch.tensor([1, 1])}
    normal = torch.distributions.Normal(torch.arange(3).double() + 10, 1.0)
    want = torch.logsumexp(normal.log_prob(x) + LOG_PRIOR, -1)
    assert torch.allclose(both.log_prob(x, side).value, want)
    assert float(both.sample(500, {"side": torch.tensor(1)}, 0).mean()) == pytest.approx(11.1, abs=5 * 1.3 / 500**0.5)


def test_joint_quality_and_stderr():
    x = torch.zeros(4, 1).double()
    low = Joint(shifted(quality=Quality.LOWER, stderr=0.2), "label", LOG_PRIOR)
    found = low.log_prob(x)
    assert found.quality is Quality.LOWER
    posterior = low.posterior(x)
    assert torch.allclose(found.stderr, 0.2 * posterior.square().sum(-1).sqrt())
    with pytest.raises(Unsupported, match="constant"):
        Joint(shifted(quality=Quality.UNNORMALISED), "label", LOG_PRIOR).log_prob(x)
    assert "score" not in Joint(_silent(), "label", LOG_PRIOR).offers()


def _silent() -> Model:
    return shifted(offers=lambda self: frozenset({"sample"}))


def test_guidance_telescopes():
    u, ones = Rng(0).normal((6, 2), torch.float64), torch.ones(6, dtype=torch.float64)
    c = {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    model = classes()
    free, held = model.denoise(u, ones, ones), model.denoise(u, ones, ones, c)
    for weight, want in [(0.0, free), (1.0, held), (3.0, free + 3 * (held - free))]:
        assert torch.allclose(Guided(model, {"label": weight}).denoise(u, ones, ones, c), want)
    # for classes with one covariance guidance moves the mean alone: D_w is the denoiser of m + w (m_c - m)
    moved = classes()
    moved.slope = 3 * moved.slope
    assert torch.allclose(Guided(model, {"label": 3.0}).denoise(u, ones, ones, c), moved.denoise(u, ones, ones, c))


def test_guidance_by_two_givens_has_a_weight_each():
    c = {"label": torch.tensor([2, 1]), "side": torch.tensor([1, 1])}
    one = torch.ones(2)
    got = Guided(shifted(), {"label": 3.0, "side": 0.5}).denoise(torch.zeros(2, 1), one, one, c)
    assert torch.allclose(got[:, 0], torch.tensor([11.0, 8.0]).double())
    got = Guided(shifted(), {"label": 3.0}).denoise(torch.zeros(2, 1), one, one, c)
    assert torch.allclose(got[:, 0], torch.tensor([16.0, 13.0]).double())
    got = Guided(shifted(), {"label": 3.0, "side": 0.5}).denoise(torch.zeros(2, 1), one, one, {"side": c["side"]})
    assert torch.allclose(got[:, 0], torch.tensor([5.0, 5.0]).double())


def test_guidance_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="colour"):
        Guided(classes(), {"colour": 2.0})
    with pytest.raises(Unsupported, match="denoise"):
        Guided(_silent(), {})
    assert Guided(classes(), {"label": 2.0}).offers() == {"denoise", "sample"}
    with pytest.raises(ValueError, match="solver"):
        Guided(classes(), {"label": 2.0}, solver="euler")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver, steps", [
    ("heun", 24), ("churn", 100), ("ddim", 200), ("ddpm", 200), ("dpm++2m", 60),
])  # fmt: skip
def test_guidance_draws_by_every_solver(solver, steps, path):
    """Where it is exact (classes with one covariance), draws are of N(m + w (m_c - m), S)."""
    model = classes()
    c = {"label": torch.tensor([2])}
    want = model.mean + 2 * (MEANS[2] - model.mean)
    x = Guided(model, {"label": 2.0}, solver, steps, path).sample(3000, c, 3)[:, 0]
    assert ((x.mean(0) - want) / (COV.diagonal() / 3000).sqrt()).abs().max() < 5
    assert (torch.cov(x.T) - COV).abs().max() < 0.12


def test_fixed_is_the_model_given_that():
    model, x = classes(), Rng(0).normal((5, 2), torch.float64)
    held, c = Fixed(model, {"label": torch.tensor(1)}), {"label": torch.ones(5, dtype=torch.long)}
    one, mask = torch.ones(5), torch.tensor([True, False]).expand(5, -1)
    assert held.given == {}
    assert torch.equal(held.log_prob(x).value, model.log_prob(x, c).value)
    assert torch.equal(held.denoise(x, one, one), model.denoise(x, one, one, c))
    assert torch.equal(held.score(x), model.score(x, c))
    assert torch.equal(held.sample(5, None, 3), model.sample(1, c, 3)[0])
    assert torch.equal(held.decode(x).mean(), model.decode(x, c).mean())
    assert torch.equal(held.condition(x, mask).sample(2, Rng(0)), model.condition(x, mask, c).sample(2, Rng(0)))
    with pytest.raises(ValueError, match="unknown"):
        held.sample(2, {"label": torch.tensor(0)})


def test_fixed_leaves_the_other_given_free():
    held = Fixed(shifted(), {"side": torch.tensor(1)})
    x = held.sample(2000, {"label": torch.tensor(2)}, 0)
    assert float(x.mean()) == pytest.approx(12, abs=5 / 2000**0.5)
    nothing = Fixed(shifted(), {})
    assert nothing.sample(3, None, 0).shape == (3, 1)


def test_relaxed_forwards_how_the_family_is_trained():
    inner = type("Odd", (Gaussian,), {"batch_size": 7, "validate_by": "samples", "loss_unit": "none"})()
    model = Relaxed(inner)
    assert (model.batch_size, model.validate_by, model.loss_unit, model.closed) == (7, "samples", "none", True)
    assert adapted(inner, real(2)) is inner
    assert isinstance(adapted(inner, Space((1,), (Variable("k", "binary", 2),))), Relaxed)


def test_relaxed_keeps_observed_entries_bit_identical():
    model = Relaxed(Gaussian())
    model.build(Space((2,), (Variable("a", mean=1e6, scale=1e-3), Variable("b", scale=3.0))))
    x = torch.tensor([[1e6 + 1 / 3, 0.1]], dtype=torch.float64)
    done = model.condition(x, torch.tensor([[True, False]])).sample(3, Rng(0))
    assert (done[:, 0, 0] == x[0, 0]).all()
    assert (done[:, 0, 1] != x[0, 1]).all()


class _NoisyBound(Gaussian):
    """A Gaussian whose log p is shaken by noise of mean -s^2/2: its exponential is unbiased, its mean is a bound."""

    def _log_prob(self, x, given, observed, draws, rng):
        exact = super()._log_prob(x, given, observed, draws, rng).value
        return Value(exact - 0.5 + 4.0 * rng.normal((len(x),), torch.float64), Quality.LOWER)


def test_relaxed_averages_the_noisy_bounds_of_its_inner_model():
    """log mean exp of noisy bounds would lie far above log p; their mean lies below it."""
    space = Space((1,), (Variable("k", "ordinal", 5, mean=2.0, scale=1.5),))
    noisy, exact = (Relaxed(kind()).build(space) for kind in (_NoisyBound, Gaussian))
    x = torch.arange(5.0).double().repeat(200)[:, None]
    bound = noisy.log_prob(x, draws=64, rng=0)
    truth = exact.log_prob(x, draws=64, rng=1).value
    gap = bound.value - truth
    assert bound.quality is Quality.LOWER
    assert float(gap.mean()) < -0.3
    assert float(gap.mean()) > -0.9


def test_an_ensemble_is_the_mean_of_its_members_densities():
    """Two Gaussians far apart: log p against the closed form, and draws half from each."""
    space, members = real(1), []
    for mean in (-4.0, 4.0):
        member = Gaussian().build(space)
        member.mean[:] = mean
        members.append(member)
    both = Ensemble(members)
    x = torch.linspace(-6, 6, 25).double()[:, None]
    law = 0.5 * sum(torch.distributions.Normal(m, 1.0).log_prob(x[:, 0]).exp() for m in (-4.0, 4.0))
    assert torch.allclose(both.log_prob(x).value, law.log())
    assert both.log_prob(x).quality is Quality.EXACT
    drawn = both.sample(4000, rng=0)[:, 0]
    assert abs(float((drawn > 0).double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    assert abs(float(drawn.abs().mean()) - 4) < 5 / 4000**0.5
    noisy = Ensemble([_NoisyBound().build(space), _NoisyBound().build(space)])
    rows = torch.zeros(4000, 1).double()
    assert noisy.log_prob(rows, rng=0).quality is Quality.LOWER
    assert float(noisy.log_prob(rows, rng=0).value.mean()) < float(
        members[0].log_prob(rows + members[0].mean).value.mean()
    )
    with pytest.raises(ValueError, match="same Space"):
        Ensemble([Gaussian().build(real(1)), Gaussian().build(real(2))])


def test_relaxed_bounds_the_observed_part_of_rows_with_gaps():
    """A Gaussian on two ordinals: the bound of one entry alone nears its bin's probability, whatever fills the gap."""
    space = Space((2,), tuple(Variable(n, "ordinal", 7, mean=3.0, scale=1.5) for n in "ab"))
    model = Relaxed(Gaussian()).build(space)
    model.inner.covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    x = torch.stack([torch.arange(7.0), torch.full((7,), 5.0)], 1).double()
    seen = torch.tensor([[True, False]]).expand(7, 2)
    value = model.log_prob(x, observed=seen, draws=4000, rng=0)
    edges = (torch.arange(8.0).double() - 0.5 - 3) / 1.5
    truth = torch.distributions.Normal(0.0, 1.0).cdf(edges).diff().log()
    assert value.quality is Quality.LOWER
    assert bool(((value.value - truth).abs() < 5 * value.stderr + 1e-3).all())


@pytest.mark.parametrize("resolution", [0.0, 0.1])
def test_relaxed_knows_what_cannot_be(resolution):
    """Beyond a bound nothing has a probability, unless the entry is not asked for; at the last value it has one."""
    share = Variable("share", "bounded", low=0.0, high=1.0, mean=0.5, scale=0.2, resolution=resolution)
    model = Relaxed(Gaussian()).build(Space((2,), (share, Variable("free")), dtype="float64"))
    x = torch.tensor([[0.5, 9.0], [1.0, 0.0], [1.2, 0.0], [-50.0, 0.0]], dtype=torch.float64)
    log_p = model.log_prob(x, rng=Rng(0)).value
    assert bool(torch.isfinite(log_p[:2]).all()) and log_p[2:].tolist() == [-torch.inf, -torch.inf]
    seen = torch.tensor([False, True]).expand(4, 2)
    assert bool(torch.isfinite(model.log_prob(x, observed=seen, rng=Rng(0)).value).all())


def test_what_a_relaxed_model_decodes_is_rounded_and_has_the_slope_of_the_unrounded():
    """A Gaussian with covariance A A' decodes z to round(mean + scale A z); between categories there is no slope."""
    space = Space((2,), tuple(Variable(n, "ordinal", 50, mean=20.0, scale=10.0) for n in "ab"))
    model = Relaxed(Gaussian()).build(space)
    model.inner.covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    z = torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64, requires_grad=True)
    x = model.decode(z).mean()
    assert torch.equal(x, x.round()) and x.dtype == torch.float64
    (pull,) = torch.autograd.grad(x[:, 1].sum(), z)
    assert torch.allclose(pull.norm(dim=1), torch.full((2,), 10.0, dtype=torch.float64), atol=1e-4)
    assert not model.decode(z.detach()).mean().requires_grad
    with torch.no_grad():
        assert torch.equal(model.decode(z).mean(), x) and not model.decode(z).mean().requires_grad
    mixed = Relaxed(Gaussian()).build(Space((2,), (Variable("a", "category", 3), Variable("b")), "vector"))
    assert not mixed.decode(torch.zeros(1, mixed.core.space.size, requires_grad=True)).mean().requires_grad


def test_restore_by_latents_agrees_with_guidance_on_a_relaxed_gaussian():
    """Exact on a normal by both routes: the means of x given two rounded sums of it."""
    space = Space((3,), tuple(Variable(n, resolution=1.0, scale=50.0) for n in "abc"), dtype="float64")
    model = Relaxed(Gaussian()).build(space)
    model.inner.covariance = torch.tensor([[1.0, 0.6, 0], [0.6, 1.0, 0.6], [0, 0.6, 1.0]], dtype=torch.float64)
    y = torch.tensor([[40.0, -60.0]], dtype=torch.float64)
    ways = {"rng": 0, "draws": 300}
    chain, exact = (restore(model, y, lambda x: x[:, :2], 15.0, **ways, route=r) for r in ("latents", "guidance"))
    apart = (chain.diagnostics["mean"] - exact.diagnostics["mean"]) / exact.diagnostics["spread"]
    assert float(apart.abs().max()) < 0.4, apart
    assert chain.diagnostics["accept"] > 0.6 and not chain.raw.requires_grad


def test_wrappers_tell_the_law_of_codes():
    class Wide(Gaussian):
        def log_code(self, z, given=None):
            return -z.double().square().sum(1) / 8

    inner = Relaxed(Wide()).build(real(2).replace(dtype="float64"))
    z = Rng(0).normal((5, 2))
    for model in (inner, Fixed(inner, {})):
        assert torch.equal(model.log_code(z), -z.double().square().sum(1) / 8)
