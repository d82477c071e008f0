"""Continuous flow: velocities of normal data in closed form, densities by the ODE, traces, pairings, energies."""

import itertools
import math

import pytest
import torch

from pofx.data import Batch
from pofx.engines.transport import assignment, groups
from pofx.families.continuous_flow import ContinuousFlow
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1, "frequencies": 0}


def chart(*shape: int) -> Space:
    return Space(shape, (Variable("u"),), "grid" if len(shape) == 3 else "vector", "chart", "float32")


def made(shape=(2,), size=0.2, given=None, **changes):
    """A model whose weights are away from their start."""
    model = ContinuousFlow(**{**SMALL, **changes}).build(chart(*shape), given).eval()
    rng = Rng(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * rng.normal(tuple(p.shape)))
    return model


def standard(u):
    flat = u.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


@pytest.fixture
def oracle():
    """A normal law, and a flow that has its exact velocity in place of a network."""
    law = Gaussian().build(real(3))
    law.mean.copy_(torch.tensor([0.5, -1.0, 0.2]))
    law.covariance.copy_(torch.tensor([[1.5, 0.6, -0.3], [0.6, 0.8, 0.2], [-0.3, 0.2, 0.5]]))
    flow = ContinuousFlow(**SMALL, solver_steps=24).build(chart(3)).eval()

    def velocity(u, t, c, observed=None):
        d = law._denoise(u, 1 - t, t.clamp_min(1e-6), {})
        return ((u - d) / t.clamp_min(1e-6)[:, None]).to(u.dtype)

    flow._velocity = velocity
    return law, flow


class TestDensity:
    @torch.no_grad()
    @pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
    def test_no_network_is_the_standard_normal(self, shape):
        """The velocity that stands outside F is that of N(0, I): density, draws and codes have closed forms."""
        model = ContinuousFlow(**SMALL, trace="exact").build(chart(*shape)).eval()
        u = Rng(0).normal((5, *shape))
        torch.testing.assert_close(model.log_prob(u).value, standard(u), atol=1e-3, rtol=0)
        torch.testing.assert_close(model.encode(u).mean, u.flatten(1), atol=1e-3, rtol=0)

    @torch.no_grad()
    def test_the_ode_has_the_law_of_the_oracle(self, oracle):
        law, flow = oracle
        u = law.sample(200, rng=1).float()
        value = flow.log_prob(u)
        assert value.quality is Quality.ESTIMATE and value.stderr is None
        torch.testing.assert_close(value.value.double(), law.log_prob(u).value.double(), atol=5e-3, rtol=0)
        drawn = flow.sample(20_000, rng=0).double()
        error = (drawn.mean(0) - law.mean) / (law.covariance.diagonal() / 20_000).sqrt()
        assert float(error.abs().max()) < 5
        torch.testing.assert_close(torch.cov(drawn.T), law.covariance.double(), atol=0.06, rtol=0)

    @torch.no_grad()
    def test_hutchinson_is_unbiased_and_states_its_error(self):
        model, u = made((4,), probes=4, solver_steps=6), Rng(0).normal((30, 4))
        exact = model.log_prob(u).value
        model.trace = "hutchinson"
        found = [model.log_prob(u, rng=seed) for seed in range(16)]
        gap = torch.stack([v.value for v in found]) - exact
        assert float(gap.abs().max()) > 1e-3
        z = gap.mean(0) / (gap.std(0) / 4)
        assert float(z.abs().max()) < 5 and float(z.square().mean()) < 2
        stated = torch.stack([v.stderr for v in found]).square().mean()
        assert float((stated / gap.square().mean()).sqrt()) == pytest.approx(1, abs=0.25)
        more = torch.stack([model.log_prob(u, draws=9, rng=seed).value for seed in range(6)]) - exact
        assert float(more.square().mean() / gap.square().mean()) == pytest.approx(1 / 9, abs=0.05)

    @torch.no_grad()
    def test_there_and_back_and_the_order_of_the_solver(self):
        z, errors = Rng(0).normal((50, 2), torch.float64), []
        for steps in (2, 4, 8):
            model = made((2,), objective="likelihood", solver_steps=steps).double()
            errors.append(float((model._carried(model._carried(z, None, back=True), None) - z).abs().max()))
        assert errors[2] < 1e-4
        assert errors[0] / errors[1] > 8 and errors[1] / errors[2] > 8  # rk4: 2^4 and more
        matched = made((2,), solver_steps=16).double()
        assert float((matched._carried(matched._carried(z, None, back=True), None) - z).abs().max()) < 1e-3

    @torch.no_grad()
    def test_density_integrates_to_one(self):
        model = made((2,))
        axis = torch.linspace(-7, 7, 81)
        log_p = model.log_prob(torch.cartesian_prod(axis, axis)).value.double()
        assert float(log_p.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=0.01)

    def test_score_is_the_slope_of_its_own_density(self):
        model, u = made((2,)), Rng(0).normal((6, 2))
        v = Rng(1).normal((6, 2))
        slope = (model.log_prob(u + 0.01 * v).value - model.log_prob(u - 0.01 * v).value) / 0.02
        torch.testing.assert_close((model.score(u) * v).sum(1), slope, atol=5e-3, rtol=5e-3)

    def test_score_of_many_entries_is_that_of_slightly_noisy_data(self):
        model = ContinuousFlow(**SMALL).build(chart(12)).eval()
        u, s = Rng(0).normal((4, 12)), 0.01 / 0.99
        torch.testing.assert_close(model.score(u), -u / (1 + s**2), atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_rows_are_independent(self):
        model, u = made((2,)), Rng(0).normal((6, 2))
        torch.testing.assert_close(model.log_prob(u[2:3]).value, model.log_prob(u).value[2:3])


class TestMatching:
    def test_the_outer_velocity_is_the_best_linear_one(self):
        """Regression of e - u on u_t for standard normal u; F's target has unit variance and is orthogonal to u_t."""
        rng = Rng(0)
        model = ContinuousFlow(**SMALL).build(chart(1))
        for t in (0.1, 0.5, 0.9):
            u, e = rng.normal((40_000, 1)), rng.normal((40_000, 1))
            u_t, at = (1 - t) * u + t * e, torch.full((40_000,), t)
            rest = (e - u - model._velocity(u_t, at, None)) * math.hypot(1 - t, t)
            assert abs(float((rest * u_t).mean() / (rest * u_t).std() * 200)) < 5
            assert float(rest.var()) == pytest.approx(1, abs=0.04)

    def test_loss_without_a_network_in_closed_form(self):
        """For standard normal data the error of the outer velocity has variance 1 / n^2, and int dt / n^2 = pi / 2."""
        model = ContinuousFlow(**SMALL, times="uniform").build(chart(3)).train()
        loss = model._matching(Batch(Rng(0).normal((20_000, 3))), Rng(1))
        assert float(loss.detach()) == pytest.approx(3 * math.pi / 2, rel=0.02)

    def test_what_the_network_says_is_scaled(self):
        """A network that returns its scaled input adds u_t / n^2: the factors of F are those of its file."""
        model = ContinuousFlow(**SMALL).build(chart(2))
        model.net.forward = lambda scaled, u, level, c, observed: scaled
        u, t = torch.tensor([[0.7, -0.3]]), 0.3
        torch.testing.assert_close(model._velocity(u, torch.tensor([t]), None), 2 * t / (t**2 + (1 - t) ** 2) * u)

    def test_denoise_is_the_same_on_every_path(self):
        model, u_t = made((1, 4, 4)), Rng(0).normal((5, 1, 4, 4))
        a, s = torch.full((5,), 0.3), torch.full((5,), 0.7)
        torch.testing.assert_close(model.denoise(u_t, a, s), model.denoise(u_t / 0.3, torch.ones(5), s / a))
        plain = ContinuousFlow(**SMALL).build(chart(2))
        u = Rng(0).normal((5, 2))
        torch.testing.assert_close(plain.denoise(u, a, s), 0.3 / (0.3**2 + 0.7**2) * u)
        torch.testing.assert_close(plain.denoise(u, 0 * a, s), 0 * u)

    def test_velocity_and_mean_belong_together(self):
        """On the straight path D = u_t - t f."""
        model, u_t = made((2,)), Rng(0).normal((5, 2))
        t = torch.linspace(0.1, 0.9, 5)
        torch.testing.assert_close(model.denoise(u_t, 1 - t, t), u_t - t[:, None] * model._velocity(u_t, t, None))

    @pytest.mark.parametrize("times", ["uniform", "logit-normal", "even"])
    def test_times_fill_their_law(self, times):
        t = ContinuousFlow(**SMALL, times=times).build(chart(2))._times(2000, Rng(0)).double().sort().values
        want = {
            "uniform": lambda p: p,
            "logit-normal": lambda p: torch.special.ndtri(p).sigmoid(),
            "even": _even,
        }[times]
        p = (torch.arange(2000) + 0.5) / 2000
        torch.testing.assert_close(t[10:-10], want(p.double())[10:-10], atol=5e-3, rtol=0)

    def test_missing_entries_teach_nothing(self):
        model = made((2,)).train()
        observed = torch.tensor([[True, False]]).repeat(8, 1)
        one, two = (Batch(torch.tensor([[0.3, v]]).repeat(8, 1), {}, observed) for v in (0.0, 50.0))
        assert torch.equal(model._matching(one, Rng(3)), model._matching(two, Rng(3)))


def _even(p):
    """t / (1 - t) = s, where log(1 + 1 / s^2) falls evenly from least to most noise."""
    high, low = (math.log1p(s**-2) for s in (1e-3, 80.0))
    s = torch.expm1(high + (low - high) * p).rsqrt()
    return s / (1 + s)


class TestPairing:
    def test_assignment_is_the_best_of_all_permutations(self):
        x, y = Rng(0).normal((6, 2)), Rng(1).normal((6, 2))
        cost = torch.cdist(x, y).square()
        best = min(float(cost[range(6), list(p)].sum()) for p in itertools.permutations(range(6)))
        found = assignment(x, y)
        assert sorted(found.tolist()) == list(range(6))
        assert float(cost[range(6), found].sum()) == pytest.approx(best, rel=1e-6)

    def test_pairs_never_cross_groups(self):
        x, y, c = Rng(0).normal((40, 2)), Rng(1).normal((40, 2)), Rng(2).integers(3, (40,))
        found = assignment(x, y, groups([c], 40))
        assert torch.equal(c[found], c) and sorted(found.tolist()) == list(range(40))
        assert bool((groups([c, torch.arange(40.0)], 40).bincount() == 1).all())
        assert bool((groups([], 5) == 0).all())

    def test_noise_stays_normal_given_each_label_although_the_data_differ(self):
        """Paired across labels, noise would follow the label: label 1 sits at +2 and would take the right half."""
        model = ContinuousFlow(**SMALL, pairing="optimal-transport").build(chart(1), {"c": category(2)})
        seen = []
        model._velocity = lambda u, t, c, observed=None: (seen.append((u, t)), torch.zeros_like(u))[1]
        c = torch.arange(64) % 2
        x = 4.0 * c[:, None] - 2 + 0.1 * Rng(9).normal((64, 1))
        for seed in range(30):
            model._matching(Batch(x, {"c": c}), Rng(seed))
        noise = torch.cat([(u - (1 - t[:, None]) * x) / t[:, None] for u, t in seen if True])
        labels = c.repeat(len(seen))
        fine = torch.cat([t for _, t in seen]) > 0.2
        for k in (0, 1):
            e = noise[fine & (labels == k)]
            assert abs(float(e.mean()) * len(e) ** 0.5) < 5 and float(e.std()) == pytest.approx(1, abs=0.1)

    def test_paths_are_shorter_and_denoise_is_not_offered(self):
        model = ContinuousFlow(**SMALL, pairing="optimal-transport").build(chart(2))
        far = ContinuousFlow(**SMALL).build(chart(2))
        x = 2 * Rng(0).normal((128, 2))
        length = {}
        for flow in (model, far):
            flow._velocity = lambda u, t, c, observed=None: torch.zeros_like(u)
            length[flow] = float(flow._matching(Batch(x), Rng(1)))
        assert length[model] < 0.5 * length[far]
        assert "denoise" not in model.offers() and "denoise" in far.offers() and "score" in model.offers()
        assert "score" not in ContinuousFlow(pairing="optimal-transport").build(chart(20)).offers()


class TestLikelihood:
    def test_loss_of_a_linear_field_in_closed_form(self):
        """f = a u: u_1 = u e^a, log p = log N(u e^a) + d a, energy = |u|^2 a (e^2a - 1) / 2."""
        a, u = 0.7, Rng(0).normal((20, 3))
        want = standard(u * math.exp(a)) + 3 * a
        energy = u.square().sum(1) * a * (math.exp(2 * a) - 1) / 2
        for trace in ("exact", "hutchinson"):
            model = ContinuousFlow(**SMALL, objective="likelihood", kinetic=0.5, trace=trace).build(chart(3)).train()
            model._velocity = lambda v, t, c, observed=None: a * v
            loss = model._negative_likelihood(Batch(u), Rng(0))
            torch.testing.assert_close(loss, (-want + 0.5 * energy).mean(), atol=2e-3, rtol=0)
            torch.testing.assert_close(model.log_prob(u, rng=0).value, want, atol=2e-3, rtol=0)

    def test_gradients_through_the_solver_are_slopes_of_the_loss(self):
        model, x = made((2,), objective="likelihood", train_steps=3).train(), Rng(0).normal((10, 2))
        weight = model.net.net.outlet.weight
        (gradient,) = torch.autograd.grad(model._negative_likelihood(Batch(x), Rng(0)), weight)
        direction = gradient / gradient.norm()
        losses = []
        for step in (0.01, -0.01):
            with torch.no_grad():
                weight.add_(step * direction)
                losses.append(float(model._negative_likelihood(Batch(x), Rng(0))))
                weight.sub_(step * direction)
        assert (losses[0] - losses[1]) / 0.02 == pytest.approx(float(gradient.norm()), rel=1e-2)

    def test_complete_rows_only(self):
        model, observed = made((2,), objective="likelihood"), torch.tensor([[True, True], [True, False]])
        x = torch.tensor([[0.3, -0.2], [0.1, 9.0]])
        loss = model._negative_likelihood(Batch(x, {}, observed), Rng(0))
        torch.testing.assert_close(loss, model._negative_likelihood(Batch(x[:1]), Rng(0)))
        with pytest.raises(Unsupported, match="complete"):
            model.train()._negative_likelihood(Batch(x[1:], {}, observed[1:]), Rng(0))
        assert "denoise" not in model.offers() and model.loss_unit == "nats"


def test_refusals():
    for wrong in ({"objective": "x"}, {"pairing": "x"}, {"times": "x"}, {"trace": "x"}, {"solver": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ContinuousFlow(**wrong)
    with pytest.raises(Unsupported, match="complete rows"):
        made((2,)).log_prob(torch.zeros(2, 2), observed=torch.tensor([[True, False]] * 2))


def trained(model, x, steps, rows=128):
    """A few AdamW steps with a falling rate."""
    model.train()
    (player,) = model.players()
    optimiser = torch.optim.AdamW(player.params, player.lr, player.betas, weight_decay=player.weight_decay)
    for k in range(steps):
        rng = Rng.derive(7, k)
        optimiser.param_groups[0]["lr"] = player.lr * 0.5 * (1 + math.cos(math.pi * k / steps))
        optimiser.zero_grad()
        player.loss(Batch(x[rng.integers(len(x), (rows,))]), rng).backward()
        torch.nn.utils.clip_grad_norm_(player.params, 1.0)
        optimiser.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "steps", "allowed"),
    [({}, 600, 0.06), ({"pairing": "optimal-transport"}, 600, 0.06), ({"objective": "likelihood"}, 250, 0.06)],
    ids=["matching", "transport", "likelihood"],
)
def test_it_learns_two_clusters(settings, steps, allowed):
    """log p of held-out rows is within `allowed` nats of the law's, and draws have its moments."""
    rng = Rng(0)
    side = 2.0 * rng.bernoulli(0.3, (4500, 1)).float() - 1
    x = torch.cat([side, 0.5 * side], 1) + 0.3 * rng.normal((4500, 2))
    model = trained(ContinuousFlow(width=48, depth=2, frequencies=0, **settings).build(chart(2)), x[:4000], steps)
    test = x[4000:]
    parts = [torch.distributions.Normal(torch.tensor([s, 0.5 * s]), 0.3).log_prob(test).sum(1) for s in (1.0, -1.0)]
    exact = torch.logsumexp(torch.stack([parts[0] + math.log(0.3), parts[1] + math.log(0.7)]), 0)
    with torch.no_grad():
        gap = exact - model.log_prob(test).value
    assert -0.02 < float(gap.mean()) < allowed
    drawn = model.sample(3000, rng=1)
    assert float((drawn[:, 0] > 0).float().mean()) == pytest.approx(0.3, abs=0.06)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([-0.4, -0.2]), atol=0.1, rtol=0)
