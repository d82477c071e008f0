"""GSN: with the exact posterior the chain has the data's law; its eigenvalues; clamping; walk-back; gaps."""

import math

import pytest
import torch

from pofx.check.probe import states
from pofx.data import Batch
from pofx.families.gsn import GSN, _rhat
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng

torch.set_num_threads(1)
SMALL = {"width": 16, "depth": 1}
LAW = torch.tensor([0.1, 0.35, 0.05, 0.3, 0.2], dtype=torch.float64)
ONE = Space((1,), (Variable("x", "category", 5),), dtype="int64")
TABLE = Space(
    (3,), (Variable("k", "category", 3), Variable("n", "ordinal", 4, mean=1.5, scale=1.1), Variable("r", scale=2.0))
)
PIXELS = Space((2, 2, 1), (Variable("pixel", "ordinal", 3, mean=1, scale=0.8),), "grid", "image", "uint8")


def corruption(noise, levels):
    return (1 - noise) * torch.eye(levels, dtype=torch.float64) + noise / levels


def exact(noise=0.4, **changes):
    """A model of one category whose posterior is Bayes' rule under LAW, and the matrix of its chain."""
    model = GSN(**SMALL, noise=noise, **changes).build(ONE).eval()
    C = corruption(noise, 5)
    joint = LAW[:, None] * C  # (x, x~)
    posterior = (joint / joint.sum(0)).T  # (x~, x)
    model._posterior = lambda x, u, c: (torch.zeros(len(x), 1), posterior.log()[x[:, 0].long()].unsqueeze(1))
    return model, C @ posterior


def made(space, given=None, size=0.3, **changes):
    model = GSN(**{**SMALL, "burn_in": 5, **changes}).build(space, given).eval()
    rng = Rng(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * rng.normal(tuple(p.shape)))
    return model


def z_scores(codes, p):
    n = len(codes)
    return (torch.bincount(codes.flatten().long(), minlength=len(p)) - n * p) / (n * p * (1 - p)).sqrt()


class TestChain:
    def test_the_law_of_the_data_is_stationary(self):
        model, T = exact(burn_in=40)
        torch.testing.assert_close(LAW @ T, LAW)
        torch.testing.assert_close(LAW[:, None] * T, (LAW[:, None] * T).T)  # and the chain is reversible
        assert float(z_scores(model.sample(8000, rng=0), LAW).abs().max()) < 5

    def test_one_step_is_the_matrix(self):
        model, T = exact()
        for k in range(5):
            start = torch.full((4000, 1), k)
            assert float(z_scores(model._step(start, None, Rng(k)), T[k]).abs().max()) < 5

    def test_corruption_is_what_it_says(self):
        model = made(TABLE, noise=0.4, spread=0.7)
        x = torch.tensor([[2.0, 1.0, 3.0]], dtype=torch.float64).repeat(8000, 1)
        codes, u = model._corrupt(x, Rng(0))
        assert float(z_scores(codes[:, 0], corruption(0.4, 3)[2]).abs().max()) < 5
        assert float(z_scores(codes[:, 1], corruption(0.4, 4)[1]).abs().max()) < 5
        torch.testing.assert_close(u[:, :1], ((codes[:, 1:2] - 1.5) / 1.1).float())
        number = u[:, 1]
        assert float(number.std()) == pytest.approx(0.7, abs=0.03)
        assert float(number.mean()) == pytest.approx(1.5, abs=0.05)

    def test_burn_in_thinning_and_chains(self):
        model, _ = exact(burn_in=7, thinning=3, chains=4)
        steps = []
        step = model._step
        model._step = lambda x, c, rng: (steps.append(len(x)), step(x, c, rng))[1]
        assert model.sample(10, rng=0).shape == (10, 1)
        assert steps == [4] * (7 + 2 * 3)  # 4 draws after burn-in, then two rounds of thinning
        steps.clear()
        model.chains = None
        model.sample(10, rng=0)
        assert steps == [10] * 7
        assert model.sampler is Quality.ESTIMATE and "log_prob" not in model.offers()

    def test_mixing_knows_the_second_eigenvalue(self):
        """In the chain with noise e, x~ is fresh with probability e: T = (1-e) ... ; all by numpy's eigenvalues."""
        model, T = exact(noise=0.3, burn_in=30)
        f = model.coordinates.encode(torch.arange(5)[:, None]).double()
        centred = f - LAW @ f
        variance = LAW @ centred.square()
        want = torch.stack([(LAW @ (centred * (torch.matrix_power(T, k) @ centred))) / variance for k in range(6)])
        found = model.mixing(chains=64, steps=400, lags=5, rng=0)
        torch.testing.assert_close(found.autocorrelation, want, atol=0.05, rtol=0)
        long = torch.stack([(LAW @ (centred * (torch.matrix_power(T, k) @ centred))) / variance for k in range(1, 200)])
        size = 64 * 400 / (1 + 2 * long.sum(0))
        assert float((found.effective / size - 1).abs().max()) < 0.25
        assert float((found.rhat - 1).abs().max()) < 0.02

    def test_rhat_sees_chains_that_do_not_meet(self):
        trace = Rng(0).normal((200, 8, 2), torch.float64)
        trace[:, ::2, 1] += 3
        assert float(_rhat(trace)[0]) < 1.02 and float(_rhat(trace)[1]) > 1.5


class TestConditions:
    def test_observed_entries_stay_and_the_rest_has_its_law(self):
        """Two independent codes: given one, the other keeps its own law."""
        space = Space((2,), (Variable("x", "category", 5),), dtype="int64")
        model = GSN(**SMALL, noise=0.4, burn_in=30).build(space).eval()
        C = corruption(0.4, 5)
        joint = LAW[:, None] * C
        posterior = (joint / joint.sum(0)).T
        model._posterior = lambda x, u, c: (torch.zeros(len(x), 1), posterior.log()[x.long()].flatten(1).unsqueeze(1))
        x, seen = torch.tensor([[3, 0]]), torch.tensor([[True, False]])
        drawn = model.condition(x, seen).sample(4000, Rng(0))[:, 0]
        assert bool((drawn[:, 0] == 3).all())
        assert float(z_scores(drawn[:, 1], LAW).abs().max()) < 5

    def test_clamped_entries_are_corrupted_too(self):
        """The chain's network must see what it was trained on: noisy observed entries, then clamped again."""
        model = made(PIXELS, noise=0.9)
        seen = []
        posterior = model._posterior
        model._posterior = lambda x, u, c: (seen.append(x), posterior(x, u, c))[1]
        x, mask = model._start(50, Rng(0)), Rng(1).bernoulli(0.5, (50, 2, 2, 1))
        drawn = model.condition(x, mask).sample(1, Rng(2))[0]
        assert torch.equal(drawn[mask], x[mask]) and bool((seen[0][mask] != x[mask]).any())

    def test_given_rows_keep_their_own_condition(self):
        model = made(TABLE, {"c": category(2)}, chains=1)
        c = torch.tensor([0, 1])
        draws = model.sample(500, {"c": c}, rng=0)
        assert draws.shape == (500, 2, 3)
        assert not torch.equal(draws[:, 0], draws[:, 1])


class TestTraining:
    def test_loss_is_the_mean_over_the_walk(self):
        model = made(PIXELS, walkback=3).train()
        x = model._start(20, Rng(0))
        seen = []
        posterior = model._posterior
        model._posterior = lambda *a: (seen.append(posterior(*a)), seen[-1])[1]
        loss = model._loss(Batch(x), Rng(1))
        want = -torch.stack([model._log_posterior(p, x, None).mean() for p in seen]).mean()
        assert len(seen) == 3
        torch.testing.assert_close(loss, want)

    @torch.no_grad()
    def test_the_posterior_is_a_normalised_mixture_and_draws_follow_it(self):
        model = made(PIXELS, modes=3)
        x = states(PIXELS)
        params = model._posterior(*model._corrupt(x[:1], Rng(0)), None)[1]
        log_pi = torch.tensor([[0.7, 0.25, 0.05]]).log()
        posterior = log_pi.expand(len(x), -1), params.expand(len(x), -1, -1)
        p = model._log_posterior(posterior, x, None).double().exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-5)
        drawn = model._drawn((log_pi.expand(6000, -1), params.expand(6000, -1, -1)), Rng(1))
        counts = (drawn[:, None] == x[None]).flatten(2).all(2).sum(0)
        z = (counts - 6000 * p) / (6000 * p * (1 - p)).sqrt()
        assert float(z[6000 * p > 5].abs().max()) < 5
        product = torch.stack([model.likelihood.log_prob(q.expand(81, -1), x).flatten(1).sum(1) for q in params[0]])
        torch.testing.assert_close(p, (log_pi[0, :, None] + product).logsumexp(0).exp().double())

    def test_missing_entries_teach_nothing(self):
        model = made(TABLE)
        observed = torch.tensor([[True, False, True], [True, True, False]])
        one = torch.tensor([[1.0, 0.0, 0.3], [2.0, 3.0, 0.0]], dtype=torch.float64)
        two = torch.where(observed, one, torch.tensor(2.0, dtype=torch.float64))
        losses = [model._loss(Batch(x, {}, observed), Rng(0)) for x in (one, two)]
        assert torch.equal(*losses) and math.isfinite(float(losses[0]))

    def test_wrong_settings_are_refused(self):
        for wrong in ({"noise": 0.0}, {"spread": 0}, {"walkback": 0}, {"burn_in": 0}, {"thinning": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                GSN(**wrong)


def trained(model, x, steps=150):
    model.train()
    (player,) = model.players()
    optimiser = torch.optim.AdamW(player.params, 3e-3)
    for k in range(steps):
        rng = Rng.derive(5, k)
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - k / steps)
        optimiser.zero_grad()
        player.loss(Batch(x[rng.integers(len(x), (128,))]), rng).backward()
        torch.nn.utils.clip_grad_norm_(player.params, 1.0)
        optimiser.step()
    return model.eval()


@pytest.mark.slow
def test_it_learns_two_clusters_and_walking_back_makes_chains_mix():
    """Draws sit on the clusters, started from anywhere; with walk-back chains also go from one to the other."""
    rng = Rng(0)
    side = 2.0 * rng.bernoulli(0.5, (3000, 1)).double() - 1
    x = torch.cat([side, 0.5 * side], 1) + 0.1 * rng.normal((3000, 2), torch.float64)
    space = Space((2,), (Variable("a"), Variable("b")))
    lost, effective = {}, {}
    for walkback in (1, 4):
        settings = {"width": 48, "depth": 2, "components": 4, "burn_in": 60, "walkback": walkback}
        model = trained(GSN(**settings).build(space), x)
        far = torch.tensor([[3.0, -3.0]], dtype=torch.float64).repeat(500, 1)
        with torch.no_grad():
            for _ in range(6):
                far = model._step(far, None, rng)
        lost[walkback] = float((_away(far) > 0.6).float().mean())
        effective[walkback] = float(model.mixing(8, 100, 5, rng=0).effective.min())
    draws = model.sample(1500, rng=1)
    assert float((_away(draws) < 0.5).float().mean()) > 0.95
    assert 0.4 < float((draws[:, 0] > 0).float().mean()) < 0.6
    assert lost[4] < 0.06 and lost[4] <= lost[1] + 0.03
    assert effective[4] > 5 * effective[1]


def _away(x):
    """Distance from the nearer centre."""
    centre = torch.tensor([1.0, 0.5], dtype=x.dtype)
    return torch.minimum((x - centre).norm(dim=1), (x + centre).norm(dim=1))
