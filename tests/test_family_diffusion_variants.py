"""Diffusion's arguments: predictions, paths, losses, schedules and solvers; two densities of one model; tables."""

import math

import pytest
import torch

from pofx.data import Batch
from pofx.engines import diffusion as engine
from pofx.engines.bound import Schedule, variational_bound
from pofx.engines.diffusion import PATHS, SAMPLERS, ode_log_prob, path_of
from pofx.families.diffusion import Diffusion
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng
from pofx.wrappers import Guided, Relaxed
from test_family_diffusion import SMALL, _noisy_weights, picture, trained

torch.set_num_threads(1)
MEANS = torch.tensor([[1.0, 0.6], [-1.2, 0.2], [0.3, -1.1]], dtype=torch.float64)
SHARES, SPREAD = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.15


def denoise(u, alpha, sigma, spread=SPREAD):
    """E[u | u_t] of the mixture of three round Gaussians."""
    a, s = (v.double().reshape(-1, 1) for v in (alpha, sigma))
    total = a**2 * spread + s**2
    away = u.double()[:, None] - a[:, None] * MEANS
    w = (SHARES.log() - 0.5 * away.square().sum(-1) / total).softmax(-1)
    return (w[..., None] * (MEANS + (a * spread / total)[:, None] * away)).sum(1).to(u.dtype)


def log_mixture(u):
    away = (u.double()[:, None] - MEANS).square().sum(-1)
    return torch.logsumexp(SHARES.log() - 0.5 * away / SPREAD, 1) - math.log(2 * math.pi * SPREAD)


def draw_mixture(n, rng, spread=SPREAD):
    rng = Rng(rng)
    k = rng.categorical(SHARES.log().expand(n, -1))
    return MEANS[k] + spread**0.5 * rng.normal((n, 2), torch.float64)


class TestPrediction:
    @pytest.mark.parametrize("predict", ["v", "eps", "x"])
    @pytest.mark.parametrize("path", PATHS)
    def test_the_right_network_gives_the_data_back(self, path, predict):
        model = Diffusion(**SMALL, path=path, predict=predict).build(real(2))
        u, e = Rng(0).normal((50, 2)), Rng(1).normal((50, 2))
        t = Rng(2).uniform((50,), torch.float64).clamp(0.05, 0.9)
        way = path_of(path)
        alpha, sigma = way.alpha(t).float()[:, None], way.sigma(t).float()[:, None]
        u_t, n = alpha * u + sigma * e, torch.hypot(alpha, sigma)
        v = e - u if path == "linear" else (alpha * e - sigma * u) / n
        k, g = model._reading(alpha, sigma)
        torch.testing.assert_close(k * u_t - g * {"v": v, "eps": e, "x": u}[predict], u, atol=2e-3, rtol=1e-3)

    @pytest.mark.parametrize("path, predict", [("vp", "eps"), ("vp-linear", "x"), ("linear", "v"), ("vp", "v")])
    def test_the_simple_loss_is_the_error_of_what_is_predicted(self, path, predict):
        """A network that says 0 has the mean square of the target: of noise 1, of u its own, of e - u their sum."""
        model = Diffusion(**SMALL, path=path, predict=predict, weighting="simple").build(real(2)).train()
        u = torch.tensor([[1.5, -0.5]]).repeat(60_000, 1)
        found = float(model._loss(Batch(u), Rng(0)).detach())
        square = float(u[0].square().sum())
        # uniform t on the cosine path: alpha^2 and sigma^2 are 1/2 on average
        want = {"eps": 2.0, "x": square, "v": 2 + square if path == "linear" else 1 + square / 2}[predict]
        assert found == pytest.approx(want, rel=0.03)

    def test_the_even_loss_lies_between_the_picture_and_the_flow(self):
        """A network that says u = 0 has |u|^2 / sigma, where E 1 / max(t, 1/20) is 1 + log 20 at uniform t."""
        model = Diffusion(**SMALL, path="linear", predict="x", weighting="even").build(real(2)).train()
        u = torch.tensor([[1.5, -0.5]]).repeat(60_000, 1)
        want = float(u[0].square().sum()) * (1 + math.log(20))
        assert float(model._loss(Batch(u), Rng(0)).detach()) == pytest.approx(want, rel=0.01)
        # and it validates by what it learns
        assert float(model.eval()._loss(Batch(u), Rng(0)).detach()) == pytest.approx(want, rel=0.01)
        assert model.loss_unit != "nats"

    def test_predictions_are_one_denoiser_in_other_words(self):
        """At alpha = 1 a network of eps that says (v sigma... ) is that of v: D agrees where F is converted by hand."""
        u_t, s = Rng(0).normal((20, 2)), torch.full((20, 1), 0.7)
        one = torch.ones_like(s)
        models = {p: Diffusion(**SMALL, predict=p).build(real(2)) for p in ("v", "eps", "x")}
        d = denoise(u_t, one[:, 0], s[:, 0])
        e = (u_t - d) / s
        said = {"v": (e - s * d) / (1 + s**2).sqrt(), "eps": e, "x": d}
        for predict, model in models.items():
            k, g = model._reading(one, s)
            torch.testing.assert_close(k * u_t - g * said[predict], d)

    def test_words_are_checked(self):
        for wrong in ({"path": "euler"}, {"predict": "noise"}, {"solver": "x"}, {"density": "exact"}, {"schedule": ""}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                Diffusion(**wrong)


class TestSolvers:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("solver, steps", [
        ("heun", 48), ("churn", 128), ("ddim", 256), ("ddpm", 256), ("dpm++2m", 96),
    ])  # fmt: skip
    def test_they_draw_the_mixture(self, path, solver, steps):
        """The share of each hump and the density that the draws have, by z-scores."""
        n, way = 6000, path_of(path)
        x = engine.sample(denoise, (n, 2), way, 7, method=solver, steps=steps, dtype=torch.float64)
        share = torch.bincount((x[:, None] - MEANS).square().sum(-1).argmin(1), minlength=3) / n
        exact = draw_mixture(200_000, 1)
        want = torch.bincount((exact[:, None] - MEANS).square().sum(-1).argmin(1), minlength=3) / len(exact)
        assert ((share - want) / (want * (1 - want) / n).sqrt()).abs().max() < 5
        ours, theirs = log_mixture(x), log_mixture(exact)
        assert abs(float((ours.mean() - theirs.mean()) / (theirs.std() / n**0.5))) < 5

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("solver, order", [("ddim", 1), ("dpm++2m", 2), ("heun", 2)])
    def test_they_converge_with_their_order_on_the_mixture(self, path, solver, order):
        way, solve = path_of(path), {"ddim": engine.ddim, "dpm++2m": engine.multistep, "heun": engine.heun}[solver]
        u = engine.prior(way, (60, 2), Rng(0), dtype=torch.float64)
        fine = engine.heun(denoise, u, way, 1200)
        errors = [float((solve(denoise, u, way, n) - fine).norm(dim=1).median()) for n in (64, 128, 256)]
        # where pure noise has log(alpha / sigma) = -inf, the multistep rule starts with log-many first-order steps
        assert order - 0.6 < math.log2(errors[-2] / errors[-1]) < order + 0.5

    @pytest.mark.parametrize("solver", SAMPLERS)
    def test_a_model_and_its_guidance_take_every_solver(self, solver):
        model = _noisy_weights(Diffusion(**SMALL, solver=solver, solver_steps=4, path="vp").build(
            real(2).replace(dtype="float32"), {"label": category(2)}
        ))  # fmt: skip
        c = {"label": torch.tensor([0, 1])}
        assert torch.isfinite(model.sample(3, c, 0)).all()
        assert torch.equal(model.sample(3, c, 0), model.sample(3, c, 0))
        guided = Guided(model, {"label": 2.0}, solver, 4).sample(3, c, 0)
        assert guided.shape == (3, 2, 2)
        assert torch.isfinite(guided).all()


class TestTwoDensities:
    def test_the_bound_is_below_the_flow_and_the_flow_is_exact_on_the_oracle(self):
        u = draw_mixture(300, 3)
        exact = log_mixture(u)
        flow = ode_log_prob(denoise, u, path_of("edm"), 96, exact=True)
        assert torch.allclose(flow.value, exact, atol=0.02)
        gaps = torch.stack([exact - variational_bound(denoise, u, seed, draws=24).value for seed in range(10)])
        error = float(gaps.std() / gaps.numel() ** 0.5)
        assert -5 * error < float(gaps.mean()) < 5 * error + 0.02

    @pytest.mark.parametrize("predict, path", [("v", "edm"), ("eps", "vp"), ("v", "linear")])
    @pytest.mark.slow
    def test_one_trained_model_read_twice(self, predict, path):
        """A hierarchical VAE (the bound) and a continuous flow (the ODE): in this order, both near the truth."""
        x = draw_mixture(4000, 0).float()
        # an error of eps is sigma times as large in D, so that its range ends where the prior is good enough
        words = {"predict": predict, "path": path, "sigma_max": 8.0 if predict == "eps" else 80.0}
        model = Diffusion(width=64, depth=2, frequencies=2, sigma_min=0.02, **words).build(real(2))
        trained(model, x, 500)
        u = draw_mixture(400, 9).float()
        low = model.log_prob(u, draws=16, rng=0)
        model.density, model.solver_steps = "ode", 24
        flow = model.log_prob(u, draws=4, rng=1)
        assert low.quality is Quality.LOWER
        assert flow.quality is Quality.ESTIMATE
        error = float((low.stderr.square().mean() + flow.stderr.square().mean()).sqrt() / len(u) ** 0.5)
        assert float(low.value.mean()) < float(flow.value.mean()) + 4 * error
        exact = float(log_mixture(u).mean())
        assert abs(float(flow.value.mean()) - exact) < 0.15
        assert exact - 0.3 < float(low.value.mean()) < exact + 0.05

    def test_the_flow_of_a_zero_network_is_the_standard_normal(self):
        model = Diffusion(**SMALL, density="ode", solver_steps=6).build(picture(2, 2)).eval()
        u = Rng(0).normal((6, 1, 2, 2))
        value = model.log_prob(u, rng=0)
        exact = -0.5 * u.flatten(1).square().sum(1) - 2 * math.log(2 * math.pi)
        assert value.quality is Quality.ESTIMATE
        assert value.stderr.shape == (6,)
        torch.testing.assert_close(value.value.float(), exact, atol=0.05, rtol=0)


class TestSchedule:
    def made(self, seed: int = 0) -> Schedule:
        made = Schedule(1e-3, 80.0)
        with torch.no_grad():
            made.shares.copy_(Rng(seed).normal((len(made.shares),)))
        return made

    def test_it_is_monotone_and_its_weight_is_its_slope(self):
        made = self.made()
        position = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
        place, weight = made(position)
        assert bool((place.diff() > 0).all())
        assert float(place[0].detach()) == 0
        slope = place.diff() * 20_000
        outside = (slope - weight[:-1]).abs() > 1e-6  # the joints of the pieces
        assert int(outside.sum()) <= 24
        assert float(weight.detach().mean()) == pytest.approx(1.0, abs=1e-3)

    def test_its_levels_are_those_of_its_range(self):
        made, place = self.made(), torch.linspace(0, 0.999, 50, dtype=torch.float64)
        torch.testing.assert_close(made.sigma(place), made.range.sigma(place), rtol=1e-6, atol=0)
        assert made.range.sigma_min == pytest.approx(1e-3)

    def test_the_bound_does_not_depend_on_the_spacing(self):
        u, made = draw_mixture(200, 1), self.made(3)
        place = torch.no_grad()(lambda p: made(p))
        pairs = [[variational_bound(denoise, u, k, draws=16, place=p).value for p in (place, None)] for k in range(10)]
        gaps = torch.stack([ours - even for ours, even in pairs])
        assert abs(float(gaps.mean() / (gaps.std() / gaps.numel() ** 0.5))) < 5

    def square(self, made: Schedule, u: torch.Tensor, seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
        """|r|^2 at one level a row, and the level's weight."""
        rng, n = Rng(seed), len(u)
        place, weight = made((torch.arange(n) + rng.uniform((n,), torch.float64)) / n)
        sigma = made.sigma(place.detach())
        u_t = u + sigma[:, None] * rng.normal((n, 2), torch.float64)
        return (u - denoise(u_t, torch.ones(n), sigma, spread)).square().sum(1) * (1 + 1 / sigma**2), weight

    def learned(self, made: Schedule, spread: float, points: torch.Tensor | None) -> Schedule:
        optimiser = torch.optim.Adam(made.parameters(), 3e-2)
        for k in range(200):
            u = draw_mixture(256, 50 + k, spread)
            r2, weight = self.square(made, u, k, spread)
            optimiser.zero_grad()
            made.loss(r2, weight, u, None, points).backward()
            optimiser.step()
        return made

    def test_it_learns_ends_that_raise_the_bound(self):
        made = self.learned(Schedule(0.3, 3.0), SPREAD, None)
        assert float(made.ends[0].detach()) < 0.15  # the other end hardly matters: little is said beyond 3

    def test_it_learns_spacing_that_lowers_the_variance(self):
        """Of three points all is said at middle levels, and at small ones there is nothing left to say."""
        made, spread = self.learned(Schedule(1e-3, 80.0, free=False), 0.0, torch.tensor([True, True])), {}
        assert float(made.ends[0].detach()) == pytest.approx(1e-3)
        u = draw_mixture(40_000, 1, 0.0)
        for name, one in {"learned": made, "even": Schedule(*made.ends.tolist())}.items():
            r2, weight = self.square(one, u, 3, 0.0)
            spread[name] = float((weight * r2).var().detach())
        assert spread["learned"] < 0.7 * spread["even"]

    def test_a_model_trains_it_beside_the_network(self):
        model = _noisy_weights(Diffusion(**SMALL, schedule="learned").build(real(2))).train()
        names = [p.name for p in model.players()]
        assert names == ["denoiser", "spacing"]
        x = Rng(0).normal((300, 2))
        trained(model, x, 20)
        assert bool((model.spacing.shares != 0).any())
        assert bool((model.spacing.log_ends != 0).all())
        assert model.log_prob(x[:5], rng=0).quality is Quality.LOWER


class TestTables:
    def space(self) -> Space:
        variables = (
            Variable("n", "ordinal", 5, mean=1.6, scale=1.2),
            Variable("c", "category", 3),
            Variable("b", "binary", 2),
            Variable("r", resolution=1.0, mean=10.0, scale=4.0, integer=True),
        )
        return Space((4,), variables, kind="table")

    def rows(self, n: int, seed: int = 0) -> torch.Tensor:
        rng = Rng(seed)
        level = rng.categorical(torch.tensor([0.6, 0.02, 0.1, 0.2, 0.08]).log().expand(n, -1))
        code = rng.categorical(torch.tensor([0.2, 0.5, 0.3]).log().expand(n, -1))
        yes = rng.bernoulli(0.3, (n,))
        number = (10 + 4 * rng.normal((n,), torch.float64)).round()
        return torch.stack([level.double(), code.double(), yes.double(), number], 1)

    def test_a_zero_network_is_independent_columns(self):
        """What each column says by itself is exact, so the bound of a network that adds nothing is their entropy."""
        model = Relaxed(Diffusion(width=16, depth=1)).build(self.space())
        model.train()
        for part in self.rows(24_000).split(500):
            model.inner.columns.measure(model.chart.encode(part, Rng(1)))
        model.eval()
        x = self.rows(600, 5)
        value = model.log_prob(x, draws=8, rng=0)
        assert value.quality is Quality.LOWER
        shares = ([0.6, 0.02, 0.1, 0.2, 0.08], [0.2, 0.5, 0.3], [0.7, 0.3])
        logs = [torch.tensor(p, dtype=torch.float64).log() for p in shares]
        number = torch.distributions.Normal(10.0, 4.0).log_prob(x[:, 3])
        want = sum(log[x[:, i].long()] for i, log in enumerate(logs)) + number
        gap = value.value - want
        assert abs(float(gap.mean())) < 5 * float(gap.std()) / 600**0.5 + 0.08

    def test_its_draws_are_cells_of_the_table(self):
        model = Relaxed(Diffusion(width=16, depth=1)).build(self.space())
        model.train()
        model.inner.columns.measure(model.chart.encode(self.rows(4000), Rng(1)))
        model.eval()
        x = model.sample(3000, rng=0)
        assert bool((x[:, :3] == x[:, :3].round()).all())
        share = torch.bincount(x[:, 0].long(), minlength=5) / 3000
        torch.testing.assert_close(share, torch.tensor([0.6, 0.02, 0.1, 0.2, 0.08]), atol=0.04, rtol=0)
        torch.testing.assert_close(x[:, 3].std().float(), torch.tensor(4.0), atol=0.3, rtol=0)

    def test_levels_have_no_flow_and_no_slope(self):
        model = Relaxed(Diffusion(width=16, depth=1, density="ode")).build(self.space()).eval()
        assert "score" not in model.offers()
        with pytest.raises(Unsupported, match="density='bound'"):
            model.log_prob(self.rows(3), rng=0)

    def test_a_gap_says_nothing_and_teaches_nothing(self):
        model = Relaxed(Diffusion(width=16, depth=1)).build(self.space())
        _noisy_weights(model).train()
        model.inner.columns.filled.fill_(10**6)  # measured
        x = self.rows(32)
        observed = torch.ones_like(x, dtype=torch.bool)
        observed[:, 1] = False
        other = x.clone()
        other[:, 1] = (x[:, 1] + 1) % 3
        loss = model.players()[0].loss
        assert torch.equal(loss(Batch(x, {}, observed), Rng(3)), loss(Batch(other, {}, observed), Rng(3)))

    @pytest.mark.slow
    def test_it_learns_what_columns_say_of_each_other(self):
        """Three categories of which each is certain given another: nearly all mass on three rows."""
        variables = (Variable("a", "category", 3), Variable("n", "ordinal", 3, mean=1.0, scale=0.8))
        space = Space((2,), variables, kind="table")
        code = Rng(0).integers(3, (4000,)).double()
        x = torch.stack([code, 2 - code], 1)
        model = trained(Relaxed(Diffusion(width=64, depth=2)).build(space), x, 300)
        draws = model.sample(600, rng=0)
        assert float((draws.sum(1) == 2).float().mean()) > 0.97
        assert float(model.log_prob(x[:300], draws=8, rng=0).value.mean()) > -math.log(3) - 0.25
        observed = torch.tensor([[True, False]]).expand(60, 2)
        for seen in (observed, ~observed):
            filled = model.condition(x[:60], seen).sample(5, Rng(1))
            assert torch.equal(filled[:, seen], x[:60][seen].expand(5, -1))
            assert float((filled.sum(-1) == 2).float().mean()) > 0.6  # a third by chance
