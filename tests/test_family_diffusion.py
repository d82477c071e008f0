"""Diffusion: EDM's constants, conversions between paths, the loss and the bound in closed form, the law of samples."""

import math

import pytest
import torch

from pofx.data import Batch
from pofx.engines.bound import Range, variational_bound
from pofx.families.diffusion import FAR, Diffusion
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1, "frequencies": 2}


def picture(height: int = 4, width: int = 4) -> Space:
    return Space((1, height, width), (Variable("u"),), "grid", "chart", "float32")


@pytest.fixture
def oracle() -> Gaussian:
    model = Gaussian().build(real(3))
    model.mean.copy_(torch.tensor([0.5, -1.0, 0.2]))
    model.covariance.copy_(torch.tensor([[1.5, 0.6, -0.3], [0.6, 0.8, 0.2], [-0.3, 0.2, 0.5]]))
    return model


def trained(model, x, steps=300, given=None, rows=128):
    """A few AdamW steps with a falling rate on every player; x is the whole of the data."""
    model.train()
    players = model.players()
    optimisers = [torch.optim.AdamW(p.params, p.lr, p.betas, weight_decay=p.weight_decay) for p in players]
    for k in range(steps):
        rng = Rng.derive(7, k)
        index = rng.integers(len(x), (rows,))
        batch = Batch(x[index], {n: v[index] for n, v in (given or {}).items()}, None, index)
        for player, optimiser in zip(players, optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = player.lr * 0.5 * (1 + math.cos(math.pi * k / steps))
            optimiser.zero_grad()
            player.loss(batch, rng).backward()
            torch.nn.utils.clip_grad_norm_(player.params, 1.0)
            optimiser.step()
    return model.eval()


class TestPreconditioning:
    def test_zero_network_is_edm_skip(self):
        model = Diffusion(**SMALL).build(real(2))
        u = torch.tensor([[1.0, -2.0]]).repeat(3, 1)
        sigma = torch.tensor([0.01, 1.0, 7.0])
        d = model.denoise(u, torch.ones(3), sigma)
        torch.testing.assert_close(d, u / (1 + sigma[:, None] ** 2))

    def test_constants_of_edm(self):
        """c_out and c_in: a network that returns its scaled input gives (c_skip - c_out c_in) u_t, as v is EDM's -F."""
        model = Diffusion(**SMALL).build(real(2))
        model.net.forward = lambda scaled, u, level, c, observed: scaled
        u, s = torch.tensor([[0.7, -0.3]]), 0.5
        d = model.denoise(u, torch.ones(1), torch.full((1,), s))
        skip, out, into = 1 / (s**2 + 1), s / math.sqrt(s**2 + 1), 1 / math.sqrt(s**2 + 1)
        torch.testing.assert_close(d, (skip - out * into) * u)

    @pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (0.3, 0.7), (0.05, 0.99)])
    def test_any_path_is_the_same_denoiser(self, alpha, sigma):
        """D(u_t; alpha, sigma) = D(u_t / alpha; 1, sigma / alpha): VP and straight paths are VE rescaled."""
        model = _noisy_weights(Diffusion(**SMALL).build(picture()))
        u_t = Rng(0).normal((5, 1, 4, 4))
        a, s = torch.full((5,), alpha), torch.full((5,), sigma)
        torch.testing.assert_close(model.denoise(u_t, a, s), model.denoise(u_t / alpha, torch.ones(5), s / a))

    def test_pure_noise_is_finite(self):
        model = _noisy_weights(Diffusion(**SMALL).build(real(2)))
        assert torch.isfinite(model.denoise(Rng(0).normal((4, 2)), torch.zeros(4), torch.ones(4))).all()

    def test_rows_are_independent(self):
        model = _noisy_weights(Diffusion(**SMALL).build(picture())).eval()
        u, sigma = Rng(0).normal((6, 1, 4, 4)), torch.linspace(0.1, 2, 6)
        every = model.denoise(u, torch.ones(6), sigma)
        torch.testing.assert_close(every[2:3], model.denoise(u[2:3], torch.ones(1), sigma[2:3]))


class TestLoss:
    def test_zero_network_in_closed_form(self):
        """F = 0 is the Gaussian N(0, I): E r^2 = (s^2 u^2 + 1) / (s^2 + 1), so the loss has a closed integral."""
        model = Diffusion(**SMALL, sigma_min=0.01).build(real(2)).train()
        u = torch.tensor([[1.5, -0.5]]).repeat(40_000, 1)
        loss = float(model._loss(Batch(u), Rng(1)).detach())
        low, high = model.span.ends
        # 1 / (s^2 + 1) = 1 - exp(-v): the mean of (u^2 s^2 + 1) / (s^2 + 1) over v
        mean_signal = (math.exp(-low) - math.exp(-high)) / (high - low)
        r2 = float(u[0].square().sum()) * mean_signal + 2 * (1 - mean_signal)
        want = 0.5 * (high - low) * r2 - float(model.span.constant(u[:1]))
        # one row in FAR is of large noise, where |r|^2 is |u|^2 (up to the average of (1 - |u|^2 / 2) / s^2)
        square = float(u[0].square().sum())
        extra = 0.5 * (high - low) / FAR * (square - r2 + (2 - square) * 0.03)
        assert loss == pytest.approx(want + extra, abs=0.06)
        assert want == pytest.approx(0.5 * float(u[0].square().sum()) + math.log(2 * math.pi), abs=1e-3)

    def test_levels_are_those_of_the_bound(self):
        model = Diffusion(**SMALL).build(real(2))
        sigma = model._training_levels(20_000, Rng(0))[0].double()
        assert float((sigma > 10).double().mean()) == pytest.approx(math.log(8) / math.log(40) / FAR, rel=0.25)
        v = torch.log1p(1 / sigma[sigma < 2] ** 2).sort().values
        grid = torch.linspace(math.log1p(0.25), model.span.ends[1], len(v) + 1, dtype=torch.float64)
        assert bool(((v - grid[:-1]).abs() < 0.15).all())

    def test_missing_entries_teach_nothing(self):
        model = _noisy_weights(Diffusion(**SMALL).build(real(2))).train()
        observed = torch.tensor([[True, False]]).repeat(8, 1)
        one, two = (Batch(torch.tensor([[0.3, v]]).repeat(8, 1), {}, observed) for v in (0.0, 50.0))
        assert torch.equal(model._loss(one, Rng(3)), model._loss(two, Rng(3)))


class TestBound:
    def test_oracle_bound_is_below_and_tight(self, oracle):
        u = oracle.sample(300, rng=1)
        exact = oracle.log_prob(u).value
        gaps = []
        for seed in range(10):
            bound = variational_bound(lambda v, a, s: oracle._denoise(v, a, s, {}), u, seed, draws=24)
            gaps.append(exact - bound.value)
        gap = torch.stack(gaps)
        error = float(gap.std() / gap.numel() ** 0.5)
        assert -5 * error < float(gap.mean()) < 5 * error + 0.01
        assert error < 0.03

    def test_wide_noise_floor_costs_what_it_should(self, oracle):
        """With sigma_min not small the loss is E log N(u; u_0) against the posterior, still a bound: known by KL."""
        u, s = oracle.sample(2000, rng=1), 0.5
        bound = variational_bound(lambda v, a, t: oracle._denoise(v, a, t, {}), u, 2, draws=64, sigma_min=s)
        # KL( N(m, P) | N(u_0, s^2) ) averaged over u, for S diagonal with eigenvalues w: half log(1 + s^2 / w)
        w = torch.linalg.eigvalsh(oracle.covariance)
        gap = oracle.log_prob(u).value - bound.value
        assert float(gap.mean()) == pytest.approx(float(0.5 * torch.log1p(s**2 / w).sum()), abs=0.05)

    def test_a_wrong_denoiser_loses(self, oracle):
        u = oracle.sample(500, rng=1)
        bound = variational_bound(lambda v, a, s: 0.9 * oracle._denoise(v, a, s, {}), u, 2, draws=64)
        assert float((oracle.log_prob(u).value - bound.value).mean()) > 1.0

    def test_stderr_is_the_spread_over_seeds(self, oracle):
        u = oracle.sample(50, rng=1)
        runs = [variational_bound(lambda v, a, s: oracle._denoise(v, a, s, {}), u, k, draws=16) for k in range(40)]
        spread = torch.stack([r.value for r in runs]).std(0).square().mean().sqrt()
        stated = torch.stack([r.stderr for r in runs]).square().mean().sqrt()
        assert 0.8 < float(stated / spread) < 1.6

    def test_model_bound_of_zero_network_is_the_standard_normal(self):
        model = Diffusion(**SMALL).build(picture()).eval()
        u = Rng(0).normal((30, 1, 4, 4))
        value = model.log_prob(u, draws=16, rng=0)
        exact = -0.5 * u.flatten(1).square().sum(1) - 8 * math.log(2 * math.pi)
        assert value.quality is Quality.LOWER
        # what the network would do is what the control variate knows: no noise is left but that of the levels
        torch.testing.assert_close(value.value.float(), exact, atol=0.6, rtol=0)

    def test_refusals(self):
        with pytest.raises(ValueError, match="sigma_min"):
            Range(1.0, 0.5)
        with pytest.raises(ValueError, match="at least 2"):
            variational_bound(lambda u, a, s: u, torch.zeros(1, 2), draws=1)
        model = Diffusion(**SMALL).build(real(2))
        with pytest.raises(Unsupported, match="complete rows"):
            model.log_prob(torch.zeros(2, 2), observed=torch.tensor([[True, False]] * 2))


class TestFit:
    @pytest.mark.slow
    def test_gaussian_given_a_class(self):
        """Means -1 and 1 by class: draws have the right law given c, and the bound meets the exact density."""
        rng = Rng(0)
        label = rng.integers(2, (4000,))
        centre = torch.stack([2.0 * label - 1, torch.zeros(4000)], 1)
        x = centre + rng.normal((4000, 2)) @ torch.tensor([[0.5, 0.3], [0.0, 0.4]])
        model = Diffusion(width=48, depth=2, frequencies=2, sigma_min=0.02).build(real(2), {"label": category(2)})
        trained(model, x, 250, {"label": label})
        draws = model.sample(1500, {"label": torch.tensor([0, 1])}, rng=1)
        torch.testing.assert_close(draws.mean(0)[:, 0].float(), torch.tensor([-1.0, 1.0]), atol=0.12, rtol=0)
        covariance = torch.cov(draws[:, 1].T.float())
        want = torch.tensor([[0.25, 0.15], [0.15, 0.25]])
        torch.testing.assert_close(covariance, want, atol=0.07, rtol=0)
        bound = model.log_prob(x[:500], {"label": label[:500]}, draws=16, rng=0).value.mean()
        exact = torch.distributions.MultivariateNormal(centre[:500], want).log_prob(x[:500]).mean()
        assert float(exact) - 0.15 < float(bound) < float(exact) + 0.05
        mixed = model.sample(1500, rng=1)[:, 0]
        assert float((mixed > 0).float().mean()) == pytest.approx(0.5, abs=0.1)


def _noisy_weights(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()
