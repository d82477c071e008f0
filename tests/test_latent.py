"""InLatent: against the closed form of a linear-Gaussian model, against a sum over all codes, through fit and files."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import pofx
from pofx.check.toys import density, pictures, table
from pofx.data import Data
from pofx.families.autoencoder import Autoencoder
from pofx.families.autoregressive import Autoregressive
from pofx.families.diffusion import Diffusion
from pofx.families.flow import Flow
from pofx.families.gaussian import Gaussian
from pofx.families.latent import Latent
from pofx.families.vae import VAE
from pofx.families.vqvae import VQVAE
from pofx.kinds.base import Space, Variable, real
from pofx.model import Card, Model, Predictive, Quality, Unsupported
from pofx.randomness import Rng
from pofx.tasks.impute import by_gibbs
from pofx.wrappers import InLatent

W = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.7]], dtype=torch.float64)
NOISE = 0.5
CARD = Card("lower bound", "fast", "none", "R^2", "linear", ("explicit",), "refuses", "linear", "here", given=False)
SETTINGS = {"progress": False, "threads": 1, "precision": "32-true"}


class Normals:
    """A likelihood of independent normals, for the oracle."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return Normal(params, NOISE).log_prob(x)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        return params + NOISE * rng.normal(tuple(params.shape), torch.float64)

    def mean(self, params: Tensor) -> Tensor:
        return params


class Linear(Model):
    """x = W z + noise, with the posterior under z ~ N(0, I)."""

    card = CARD

    @property
    def latent_space(self) -> Space:
        return Space((2,), (Variable("z"),), dtype="float32")

    def _fit_closed(self, data, rng, report):
        self.fitted = True

    def _encode(self, x, given):
        covariance = torch.linalg.inv(torch.eye(2).double() + W.T @ W / NOISE**2)
        return MultivariateNormal(x @ W @ covariance / NOISE**2, covariance)

    def _decode(self, z, given):
        return Predictive(Normals(), z.double() @ W.T)

    def _log_prob(self, x, given, observed, draws, rng):
        return MultivariateNormal(torch.zeros(3).double(), W @ W.T + NOISE**2 * torch.eye(3).double()).log_prob(x)


MEAN, SPREAD = torch.tensor([1.5, -1.0]).double(), torch.tensor([[0.8, 0.0], [0.5, 0.6]]).double()


def linear_rows(n: int = 4000) -> Data:
    """x = W (mean + S e) + noise: the prior is not the one that the autoencoder supposes."""
    rng = Rng(0)
    z = MEAN + rng.normal((n, 2), torch.float64) @ SPREAD.T
    x = z @ W.T + NOISE * rng.normal((n, 3), torch.float64)
    return Data(x, real(3)).splitted(0.1, 0.1)


@pytest.fixture(scope="module")
def oracle() -> tuple[InLatent, Data]:
    data = linear_rows()
    return pofx.fit(data, InLatent(Linear(), Gaussian()), budget="20 steps", **SETTINGS), data


def prior_of(model: InLatent) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the fitted Gaussian in the autoencoder's units, from its own draws."""
    v = model.inner.sample(400_000, rng=0).double()
    z = v * model.spread + model.centre
    return z.mean(0), torch.cov(z.T)


def test_a_gaussian_prior_gives_the_closed_form(oracle):
    model, data = oracle
    x = data.part("test").x[:40]
    m, S = prior_of(model)
    truth = MultivariateNormal(W @ m, W @ S @ W.T + NOISE**2 * torch.eye(3).double()).log_prob(x)
    value = model.log_prob(x, draws=20_000, rng=0)
    assert value.quality is Quality.LOWER
    assert ((value.value - truth).abs() < 5 * value.stderr + 0.02).all()
    assert float(model.outer.log_prob(x).value.mean() - truth.mean()) < -0.3  # what the prior is for


def test_one_draw_is_the_evidence_bound(oracle):
    """E_q [log p(x|z) + log p(z) - log q(z|x)] = log p(x) - KL(q | p(z|x)), in closed form."""
    model, data = oracle
    x = data.part("test").x[:20]
    m, S = prior_of(model)
    q = model.encode(x)
    inverse = torch.linalg.inv(S)
    true_covariance = torch.linalg.inv(inverse + W.T @ W / NOISE**2)
    true_mean = (inverse @ m + x @ W / NOISE**2) @ true_covariance
    truth = MultivariateNormal(W @ m, W @ S @ W.T + NOISE**2 * torch.eye(3).double()).log_prob(x)
    bound = truth - torch.distributions.kl_divergence(q, MultivariateNormal(true_mean, true_covariance))
    found = torch.stack([model.log_prob(x, rng=seed).value for seed in range(400)])
    assert float(((found.mean(0) - bound) / (found.std(0) / 20 + 0.004)).abs().max()) < 5
    assert (found.mean(0) < truth + 0.02).all()


def test_the_codes_are_standardised_and_the_jacobian_is_counted(oracle):
    model, data = oracle
    v = model._inward(model._codes(data.part("train").x, Rng(0)))
    assert float(v.mean(0).abs().max()) < 0.1
    assert float((v.std(0) - 1).abs().max()) < 0.1
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    m, S = prior_of(model)
    assert torch.allclose(model.log_code(z), MultivariateNormal(m, S).log_prob(z), atol=0.05)
    drawn = model.sample(20_000, rng=0).double()
    assert float((drawn.mean(0) - W @ m).abs().max()) < 0.1
    assert float((torch.cov(drawn.T) - W @ S @ W.T - NOISE**2 * torch.eye(3)).abs().max()) < 0.3


def test_a_noisy_bound_inside_is_averaged_and_an_estimate_stays_one():
    class Fuzzy(Gaussian):
        quality = Quality.LOWER

        def _log_prob(self, x, given, observed, draws, rng):
            value = super()._log_prob(x, given, observed, draws, rng).value
            return pofx.Value(value - rng.normal((len(x),), torch.float64).abs(), self.quality)

    data = linear_rows(600)
    model = pofx.fit(data, InLatent(Linear(), Fuzzy()), budget="5 steps", **SETTINGS)
    x = data.part("test").x[:30]
    one = torch.stack([model.log_prob(x, rng=s).value.mean() for s in range(60)])
    many = torch.stack([model.log_prob(x, draws=30, rng=s).value.mean() for s in range(60)])
    # the mean of noisy bounds stays where it is; log mean exp would rise
    assert abs(float((one.mean() - many.mean()) / ((one.var() + many.var()) / 60).sqrt())) < 5
    assert model.log_prob(x, rng=0).quality is Quality.LOWER
    model.inner.quality = Quality.ESTIMATE
    assert model.log_prob(x, draws=2, rng=0).quality is Quality.ESTIMATE


def test_codes_with_an_autoregressive_prior_are_below_the_sum_over_all_codes():
    data = pictures()
    model = pofx.fit(data, InLatent(VQVAE(codes=2, levels=3), Autoregressive(width=16, depth=1)), budget=80, **SETTINGS)
    states = torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 2, 2, 1).to(torch.uint8)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    with torch.no_grad():
        log_prior = model.log_code(codes)
        table_ = torch.stack(
            [model.decode(codes).log_prob(s.expand(9, 2, 2, 1)).flatten(1).sum(1) + log_prior for s in states]
        )
        bound = model.log_prob(states, draws=3, rng=0)
    assert abs(float(log_prior.exp().sum()) - 1) < 1e-5
    truth = torch.logsumexp(table_, 1)
    assert abs(float(truth.exp().sum()) - 1) < 1e-5
    own = (model.encode(states).mean[:, None] == codes).all(2).int().argmax(1)
    assert torch.allclose(bound.value, table_.gather(1, own[:, None])[:, 0], atol=1e-5)
    assert (bound.value <= truth + 1e-6).all()
    code = (model.sample(20_000, rng=0).flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    share = torch.bincount(code, minlength=16).double() / 20_000
    assert ((share - truth.exp()) / (truth.exp() * (1 - truth.exp()) / 20_000).sqrt()).abs().max() < 5


def test_an_autoencoder_without_a_law_draws_but_does_not_weigh():
    model = pofx.fit(density(), InLatent(Autoencoder(), Gaussian()), budget=40, **SETTINGS)
    assert model.offers() == {"sample", "encode", "decode"}
    with pytest.raises(Unsupported):
        model.log_prob(density().x[:3])
    assert model.sample(3, rng=0).shape == (3, 2)
    assert model.card.density == "none"


def test_what_is_given_moves_the_codes():
    data = table()
    model = pofx.fit(data, InLatent(VAE(), Gaussian()), budget=400, **SETTINGS)
    ages = [float(model.sample(2000, {"label": torch.tensor(k)}, rng=0)[:, 0].mean()) for k in range(3)]
    assert ages[2] - ages[0] > 10  # 20 years in the data
    x, labels = data.part("test").x, data.part("test").given["label"]
    own, other = (model.log_prob(x, {"label": c}, draws=8, rng=0).value.mean() for c in (labels, (labels + 1) % 3))
    assert float(own) > float(other) + 0.3


def test_a_learnt_prior_is_a_better_one_than_the_normal():
    """Two far clusters and a beta that pulls the codes together only a little: N(0, I) wastes its middle."""
    which = Rng(0).bernoulli(0.5, (1500, 1)).double()
    x = (8 * which - 4) * torch.tensor([[1.0, -1.0]]) + 0.3 * Rng(1).normal((1500, 2), torch.float64)
    data = Data(x, Space((2,), (Variable("a", scale=4.0), Variable("b", scale=4.0)))).splitted(0.1, 0.1)
    model = pofx.fit(data, InLatent(VAE(latents=1, beta=0.1, components=1), Flow()), budget=700, **SETTINGS)
    rows = data.part("test").x
    with torch.no_grad():
        normal = model.outer.log_prob(rows, draws=100, rng=0).value.mean()
        learnt = model.log_prob(rows, draws=100, rng=0).value.mean()
    assert float(learnt - normal) > 0.3


def test_two_stages_are_one_history_with_their_shares_of_the_budget():
    seen = []
    model = pofx.fit(
        density(), InLatent(VAE(width=8, depth=1), Flow(layers=2, width=8), share=0.25), budget=80, report=seen.append,
        **SETTINGS,
    )  # fmt: skip
    steps = [line["step"] for line in model.history]
    assert steps == sorted(steps)
    assert 20 in steps
    assert 20 < steps[-1] <= 80
    assert [line["step"] for line in seen] == steps
    seconds = [line["seconds"] for line in model.history]
    assert seconds == sorted(seconds)
    assert model.name == "vae+flow"


def test_the_first_stage_leaves_the_prior_alone_and_the_second_the_autoencoder():
    data = density()
    model = InLatent(VAE(width=8, depth=1), Flow(layers=2, width=8)).build(data.space, seed=0)
    assert {id(p) for player in model.players() for p in player.params} == {id(p) for p in model.outer.parameters()}
    model.begin(1, data, Rng(0))
    assert {id(p) for player in model.players() for p in player.params} == {id(p) for p in model.inner.parameters()}
    model.train()
    assert model.inner.training
    assert not model.outer.training
    assert not any(p.requires_grad for p in model.outer.parameters())


@pytest.mark.parametrize("kind", [InLatent(VAE(width=8, depth=1), Diffusion(width=16, depth=1)), Latent(prior="flow")])
def test_a_folder_gives_it_back(tmp_path, kind):
    model = pofx.fit(density(), kind, budget=12, folder=tmp_path / "run", **SETTINGS)
    again = pofx.load(tmp_path / "run")
    assert type(again) is type(model)
    assert torch.equal(again.sample(4, rng=0), model.sample(4, rng=0))
    x = density().x[:4]
    assert torch.allclose(again.log_prob(x, draws=2, rng=0).value, model.log_prob(x, draws=2, rng=0).value)
    assert len(again.history) == len(model.history)


@pytest.mark.parametrize("stop", [6, 16])
def test_an_interrupted_fit_goes_on_in_its_stage(tmp_path, stop):
    """Stopped in the first or in the second stage and resumed, it ends as the uninterrupted one."""

    def family() -> InLatent:
        return InLatent(VAE(width=8, depth=1), Flow(layers=2, width=8))

    whole = pofx.fit(density(), family(), budget=24, **SETTINGS)

    def halt(line: dict[str, object]) -> None:
        if line["step"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pofx.fit(
            density(), family(), budget=24, folder=tmp_path / "run", checkpoint_seconds=0.0, report=halt, **SETTINGS
        )
    again = pofx.fit(density(), family(), budget=24, folder=tmp_path / "run", resume=True, **SETTINGS)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, again.state_dict()[name], atol=1e-6), name
    assert [line["step"] for line in again.history] == [line["step"] for line in whole.history]


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="share"):
        InLatent(VAE(), Gaussian(), share=1.0)
    with pytest.raises(ValueError, match="decoder"):
        InLatent(Flow(), Gaussian())
    with pytest.raises(ValueError, match="latent_space"):
        InLatent(Autoregressive(), Gaussian()).build(real(2))
    rows = density()
    observed = torch.ones_like(rows.x, dtype=torch.bool)
    observed[0, 0] = False
    gaps = Data(rows.x, rows.space, observed=observed, split=rows.split)
    with pytest.raises(Unsupported, match="missing"):
        pofx.fit(gaps, InLatent(VAE(), Gaussian()), budget=5, **SETTINGS)
    model = pofx.fit(density(), InLatent(VAE(), Gaussian()), budget=5, **SETTINGS)
    with pytest.raises(Unsupported, match="alone"):
        model.log_prob(rows.x[:2], observed=torch.tensor([[True, False]] * 2))
    assert isinstance(model.encode(rows.x[:2]).mean, Tensor)
    assert math.isfinite(float(model.log_prob(rows.x[:2], rng=0).value.sum()))


def test_a_gibbs_chain_knows_the_learnt_prior(oracle):
    """p(x_1, x_2 | x_0) of the linear-Gaussian model: what one number leaves open the prior says."""
    model, data = oracle
    x = data.part("test").x[:100]
    observed = torch.tensor([True, False, False]).expand(100, 3)
    m, S = prior_of(model)
    mean, covariance = W @ m, W @ S @ W.T + NOISE**2 * torch.eye(3).double()
    gain = covariance[1:, 0] / covariance[0, 0]
    expected = mean[1:] + (x[:, :1] - mean[0]) * gain
    spread = (covariance[1:, 1:].diagonal() - gain * covariance[0, 1:]).sqrt()
    found = by_gibbs(model, x, observed, {}, 40, Rng(0)).raw.reshape(40, 100, 3)
    assert torch.equal(found[:, :, 0], x[:, 0].expand(40, 100))
    z = (found[:, :, 1:] - expected) / spread
    assert float(z.mean((0, 1)).abs().max()) < 0.15
    assert float((z.std((0, 1)) - 1).abs().max()) < 0.1


def test_training_rows_can_be_changed_at_every_step():
    """Grey levels drawn anew as bits: the model learns the levels, not the one picture that it was given."""
    rows = pictures()
    level, seen = torch.tensor([0.9, 0.1, 0.5, 0.5]).reshape(2, 2, 1), []

    def draw(batch, rng):
        seen.append(batch.index)
        return replace(batch, x=rng.bernoulli(level, tuple(batch.x.shape)).to(torch.uint8))

    fits = [pofx.fit(rows, VAE(width=16, dropout=0.0), budget=300, augment=draw, **SETTINGS) for _ in range(2)]
    share = fits[0].sample(4000, rng=0).double().mean(0)
    assert float((share - level).abs().max()) < 0.08
    assert torch.equal(fits[0].sample(5, rng=0), fits[1].sample(5, rng=0))  # its noise is of seed and step
    assert int(torch.cat(seen).max()) == len(rows.split["train"]) - 1
