"""VAE: bounds against quadrature over a one-dimensional latent, gaps against the true marginal, draws against both."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pofx.data import Batch
from pofx.families.vae import VAE
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality
from pofx.nn.posteriors import Posterior
from pofx.randomness import Rng

BINARY = Space((2, 2, 1), (Variable("b", "binary", 2),), "grid", "image", "uint8")
MIXED = Space(
    (4,),
    (
        Variable("size", resolution=0.1, mean=3.0, scale=2.0),
        Variable("colour", "category", 3),
        Variable("count", "ordinal", 12, mean=5.0, scale=3.0),
        Variable("share", "bounded", low=0.0, high=1.0, mean=0.4, scale=0.3),
    ),
)


def shake(net: torch.nn.Module, size: float = 0.3, seed: int = 1) -> torch.nn.Module:
    """Move every parameter off its start."""
    rng = Rng(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * rng.normal(tuple(p.shape)).to(p.dtype) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    return net


def small(space: Space, given: dict[str, Space] | None = None, **options: object) -> VAE:
    """A VAE in float64 with one latent that matters."""
    vae = VAE(latents=1, width=16, depth=1, **options).build(space, given, seed=0)
    shake(vae, 0.7).double().eval().requires_grad_(False)
    vae.encoder.body.outlet.weight.mul_(0.1)
    # as wide as the prior, so that no weight has an infinite variance
    vae.encoder.body.outlet.bias.copy_(torch.tensor([0.1, 2.2]))
    return vae


def exact(vae: VAE, x: Tensor, observed: Tensor | None = None, c: Tensor | None = None) -> Tensor:
    """log p(x_o | c) by quadrature over z, `(B,)`."""
    z = torch.linspace(-9, 9, 3001, dtype=torch.float64)[:, None]
    log_prior = Normal(0.0, 1.0).log_prob(z[:, 0]) + math.log(float(z[1] - z[0]))
    rows = []
    for i in range(len(x)):
        o = None if observed is None else observed[i : i + 1].expand(len(z), *x.shape[1:])
        own = None if c is None else c[i : i + 1].expand(len(z), -1)
        log_p = vae._log_likelihood(x[i : i + 1].expand(len(z), *x.shape[1:]), o, z, own)
        rows.append(torch.logsumexp(log_prior + log_p, 0))
    return torch.stack(rows)


def rows_of(space: Space) -> Tensor:
    if space is BINARY:
        return torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 2, 2, 1).to(torch.uint8)
    if space is MIXED:
        return torch.tensor([[3.1, 0, 4, 0.2], [1.0, 2, 11, 0.9], [-2.4, 1, 0, 0.5]], dtype=torch.float64)
    return Rng(5).normal((6, *space.shape), torch.float64)


@pytest.mark.parametrize("space", [BINARY, MIXED, real(3)], ids=["binary", "mixed", "real"])
def test_bound_is_below_the_truth_grows_with_draws_and_reaches_it(space):
    vae, x = small(space), rows_of(space)
    truth, many = exact(vae, x), x.repeat(20, *[1] * len(space.shape))
    means = []
    for draws in (1, 4, 16):
        values = torch.stack([vae.log_prob(many, draws=draws, rng=seed).value for seed in range(60)])
        means.append(values)
        z = (values.mean(0) - truth.repeat(20)) / (values.std(0) / 60**0.5)
        assert (z < 5).all()
    for fewer, more in zip(means[:-1], means[1:], strict=True):
        gain = (more - fewer).mean(1)  # paired by row; seeds are the repetitions
        assert float(gain.mean() / (gain.std() / 60**0.5)) > 3
    best = vae.log_prob(x, draws=20000, rng=0)
    assert best.quality is Quality.LOWER
    assert ((best.value - truth).abs() < 5 * best.stderr + 1e-4).all()


def test_mean_weight_is_the_probability_and_stderr_is_honest():
    vae, x = small(MIXED), rows_of(MIXED)
    truth = exact(vae, x)
    runs = [vae.log_prob(x, draws=400, rng=seed) for seed in range(80)]
    values = torch.stack([r.value for r in runs])
    w = (values - truth).exp()
    assert ((w.mean(0) - 1) / (w.std(0) / 80**0.5)).abs().max() < 5
    ratio = values.std(0) / torch.stack([r.stderr for r in runs]).mean(0)
    assert (ratio > 0.6).all() and (ratio < 1.6).all()


def test_gaps_give_the_true_marginal_whatever_stands_in_them():
    vae, x = small(MIXED), rows_of(MIXED)
    observed = torch.tensor([[True, False, True, False], [False, True, True, True], [False, False, False, False]])
    truth = exact(vae, x, observed)
    assert abs(float(truth[2])) < 1e-6  # nothing observed: log 1
    value = vae.log_prob(x, observed=observed, draws=20000, rng=0)
    assert ((value.value - truth).abs() < 5 * value.stderr + 1e-4).all()
    other = torch.where(observed, x, torch.full_like(x, float("nan")))
    again = vae.log_prob(other, observed=observed, draws=20000, rng=0)
    assert torch.equal(value.value, again.value)
    # a marginal by another way: the sum over the codes of one missing category
    one = torch.ones_like(observed)
    one[:, 1] = False
    parts = torch.stack([exact(vae, torch.cat([x[:, :1], x[:, 1:2] * 0 + k, x[:, 2:]], 1)) for k in range(3)])
    assert torch.allclose(torch.logsumexp(parts, 0), exact(vae, x, one), atol=1e-8)


def test_binary_pictures_sum_to_one_and_draws_have_their_frequencies():
    vae, x = small(BINARY), rows_of(BINARY)
    p = exact(vae, x).exp()
    assert abs(float(p.sum()) - 1) < 1e-6
    weights = torch.tensor([8, 4, 2, 1])
    for seed in range(10):
        code = (vae.sample(4000, rng=seed).flatten(1).long() * weights).sum(1)
        share = torch.bincount(code, minlength=16).double() / 4000
        assert ((share - p) / (p * (1 - p) / 4000).sqrt()).abs().max() < 5


def test_loss_is_minus_the_bound_and_beta_weighs_the_divergence():
    vae, x = small(MIXED, samples=8), rows_of(MIXED)
    assert torch.allclose(vae._loss(Batch(x), Rng(3)), -vae.log_prob(x, draws=8, rng=3).value.mean(), atol=1e-10)
    one, two = small(MIXED), small(MIXED, beta=2.0)
    q = one._posterior(x, None, None)
    kl = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).sum(1).mean()
    assert float(kl) > 0.01
    assert torch.allclose(two._loss(Batch(x), Rng(0)) - one._loss(Batch(x), Rng(0)), kl, atol=1e-10)
    free = small(MIXED, free_bits=50.0)
    assert torch.allclose(free._loss(Batch(x), Rng(0)) - one._loss(Batch(x), Rng(0)), 50.0 - kl, atol=1e-10)
    # on average the loss of one draw is minus the bound of one draw
    difference = torch.stack(
        [one._loss(Batch(x), Rng(s)) + one.log_prob(x, rng=1000 + s).value.mean() for s in range(300)]
    )
    assert abs(float(difference.mean() / (difference.std() / 10**0.5))) < 5


def test_given_is_heard_may_be_missing_and_conditions_the_bound():
    given = {"label": category(3), "size": real(2)}
    vae, x = small(BINARY, given), rows_of(BINARY)
    seen = []
    for g in ({}, {"label": torch.full((16,), 1)}, {"label": torch.full((16,), 2), "size": torch.ones(16, 2)}):
        truth = exact(vae, x, c=vae._condition_on({k: v.double() if k == "size" else v for k, v in g.items()}, 16))
        assert abs(float(truth.exp().sum()) - 1) < 1e-6
        value = vae.log_prob(x, g, draws=5000, rng=0)
        assert ((value.value - truth).abs() < 5 * value.stderr + 1e-4).all()
        assert all(float((truth - other).abs().max()) > 1e-3 for other in seen)
        seen.append(truth)
    assert vae.sample(2, {"label": torch.tensor([0, 1, 2])}, rng=0).shape == (2, 3, 2, 2, 1)


@pytest.mark.parametrize("body", ["mlp", "conv"])
def test_pictures_keep_their_pixels_and_rows_do_not_see_each_other(body):
    space = Space((5, 4, 2), (Variable("p", "ordinal", 17, mean=6.0, scale=5.0),), "grid", "image", "uint8")
    vae = shake(VAE(body=body, width=8, depth=1, latents=3).build(space, seed=0), 0.3).double().eval()
    x = Rng(0).integers(17, (4, 5, 4, 2)).to(torch.uint8)
    z = vae.encode(x).mean
    predictive = vae.decode(z)
    assert torch.allclose(predictive.log_prob(x)[2:], vae.decode(z[2:]).log_prob(x[2:]), atol=1e-10)
    assert torch.allclose(z[1:2], vae.encode(x[1:2]).mean, atol=1e-10)
    # a decoder that is pushed towards one pixel's code moves that pixel alone
    params = predictive.params.detach()
    bumped = params.reshape(4, 40, -1).clone()
    bumped[:, 13] += 0.5
    changed = (vae.likelihood.log_prob(bumped.reshape(params.shape), x) != predictive.log_prob(x)).flatten(1)
    assert changed[:, 13].any() and not changed[:, :13].any() and not changed[:, 14:].any()


def test_training_with_gaps_uses_its_latents_and_every_parameter_has_a_gradient():
    space = Space((6,), tuple(Variable(f"x{i}", mean=0.0, scale=1.4) for i in range(6)))
    cause, noise = Rng(0).normal((2000, 1), torch.float64), Rng(1).normal((2000, 6), torch.float64)
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1])
    x = cause * signs + 0.3 * noise
    observed = Rng(2).bernoulli(0.8, (2000, 6))
    vae = VAE(latents=2, width=32, depth=1, components=1).build(space, seed=0)
    player = vae.players()[0]
    player.loss(Batch(x[:64], observed=observed[:64]), Rng(0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())
    optimiser = torch.optim.Adam(player.params, lr=5e-3)
    for step in range(200):
        rng = Rng.derive(0, step)
        rows = rng.integers(len(x), (128,))
        optimiser.zero_grad()
        player.loss(Batch(torch.where(observed, x, torch.nan)[rows], observed=observed[rows]), rng).backward()
        optimiser.step()
    vae.eval()
    with torch.no_grad():
        value = vae.log_prob(x[:500], draws=50, rng=0)
    S = torch.outer(signs, signs) + 0.09 * torch.eye(6)
    truth = torch.distributions.MultivariateNormal(torch.zeros(6).double(), S.double())
    gap = float((truth.log_prob(x[:500]) - value.value).mean())
    assert -0.1 < gap < 0.6  # the independent normal is 6 nats away
    assert value.diagnostics["active latents"] >= 1


def test_training_drops_the_given_so_that_it_may_be_missing():
    vae = VAE(width=8, depth=1).build(real(2), {"label": category(3)}, seed=0)
    vae._loss(Batch(Rng(0).normal((64, 2)).double(), {"label": Rng(1).integers(3, (64,))}), Rng(2)).backward()
    null = vae.conditioner.parts[0].null.grad
    assert null is not None and null.abs().sum() > 0


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="free bits"):
        VAE(samples=4, free_bits=0.1)
    with pytest.raises(ValueError, match="body"):
        VAE(body="tree")
    with pytest.raises(ValueError, match="conv"):
        VAE(body="conv").build(real(3))


# --- other posteriors, coins, and gradients


def two(space: Space, **options: object) -> VAE:
    """A VAE in float64 with two latents and wide posteriors."""
    vae = VAE(latents=2, width=16, depth=1, layers=2, **options).build(space, seed=0)
    shake(vae, 0.4).double().eval().requires_grad_(False)
    if vae.head is not None:
        vae.encoder.body.outlet.weight.mul_(0.1)
        vae.encoder.body.outlet.bias[2:4] = 2.1
    return vae


def exact_of_two(vae: VAE, x: Tensor) -> Tensor:
    """log p(x) by quadrature over two latents, or by adding up the codes."""
    if vae.coins:
        z, log_p = torch.cartesian_prod(*[torch.arange(2.0).double()] * 2), torch.full((4,), -2 * math.log(2))
    else:
        axis = torch.linspace(-6.5, 6.5, 131, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        log_p = Normal(0.0, 1.0).log_prob(z).sum(1) + 2 * math.log(float(axis[1] - axis[0]))
    fit = [vae._log_likelihood(row.expand(len(z), *row.shape), None, z, None) for row in x]
    return torch.stack([torch.logsumexp(log_p + f, 0) for f in fit])


VARIANTS = [{"posterior": "full"}, {"posterior": "planar"}, {"posterior": "iaf"}, {"prior": "bernoulli"}]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: next(iter(o.values())))
@pytest.mark.parametrize("space", [BINARY, MIXED], ids=["binary", "mixed"])
def test_every_posterior_gives_a_bound_that_reaches_the_truth(space, options):
    vae, x = two(space, **options), rows_of(space)
    truth = exact_of_two(vae, x)
    one = torch.stack([vae.log_prob(x, rng=seed).value for seed in range(200)])
    z = (one.mean(0) - truth) / (one.std(0) / 200**0.5)
    assert float(z.max()) < 5
    assert float((truth - one.mean(0)).max()) > 1e-3  # a bound, and no more
    many = vae.log_prob(x, draws=4000, rng=0)
    assert ((many.value - truth).abs() < 5 * many.stderr + 1e-4).all()
    w = (one - truth).exp()
    assert ((w.mean(0) - 1).abs() / (w.std(0) / 200**0.5)).max() < 5


def test_coins_add_up_and_draws_have_their_frequencies():
    vae, x = two(BINARY, prior="bernoulli"), rows_of(BINARY)
    p = exact_of_two(vae, x).exp()
    assert abs(float(p.sum()) - 1) < 1e-6
    code = (vae.sample(40000, rng=0).flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    share = torch.bincount(code, minlength=16).double() / 40000
    assert ((share - p) / (p * (1 - p) / 40000).sqrt()).abs().max() < 5
    assert set(vae.encode(x).sample().unique().tolist()) <= {0.0, 1.0}
    assert vae.latent_space.variables[0].levels == 2


def gradients(vae: VAE, x: Tensor, seeds: int) -> Tensor:
    """Gradients of the loss with respect to the encoder's last bias and the decoder's, `(seeds, numbers)`."""
    watched = [vae.encoder.body.outlet.bias, vae.decoder.body.outlet.bias]
    for p in watched:
        p.requires_grad_()
    rows = []
    for seed in range(seeds):
        parts = torch.autograd.grad(vae._loss(Batch(x), Rng(seed)), watched)
        rows.append(torch.cat([g.flatten() for g in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_gradient_of_coins_is_that_of_the_bound_itself(samples):
    """Against numerical derivatives of the exact expected bound, which is a sum over all codes of all draws."""
    vae, x = two(BINARY, prior="bernoulli", samples=samples), rows_of(BINARY)[5:6].expand(32, -1, -1, -1)
    found = gradients(vae, x, 400)[:, :2].double()
    codes = torch.cartesian_prod(*[torch.arange(2.0).double()] * 2)
    fit = vae._log_likelihood(x[:1].expand(4, -1, -1, -1), None, codes, None) - 2 * math.log(2)

    def bound(shift: Tensor) -> float:
        logits = vae.encoder(vae.enter.encode(x[:1]).double()).detach()[0] + shift
        log_q = torch.distributions.Bernoulli(logits=logits).log_prob(codes).sum(1)
        picks = torch.cartesian_prod(*[torch.arange(4)] * samples).reshape(-1, samples)
        value = torch.logsumexp((fit - log_q)[picks], 1) - math.log(samples)
        return float((log_q[picks].sum(1).exp() * value).sum())

    for j in range(2):
        step = torch.zeros(2).double()
        step[j] = 1e-4
        slope = -(bound(step) - bound(-step)) / 2e-4
        assert abs(float((found[:, j].mean() - slope) / (found[:, j].std() / 400**0.5))) < 5


def test_doubly_reparametrised_gradients_have_the_same_mean():
    vae, x = two(MIXED, samples=5, posterior="full"), rows_of(MIXED)
    double = gradients(vae, x, 300)

    def plain(self: VAE, batch: Batch, c: Tensor | None, q: object, rng: Rng) -> Tensor:
        log_w = self._log_weights(batch.x, None, c, *self._draw(q, 5, rng))
        return torch.logsumexp(log_w, 0) - math.log(5)

    vae._weighted = plain.__get__(vae)
    usual = gradients(vae, x, 300)
    error = ((double.var(0) + usual.var(0)) / 300).sqrt()
    assert float(((double.mean(0) - usual.mean(0)) / error.clamp_min(1e-12)).abs().max()) < 5
    L = vae.L
    assert float(double[:, :L].var(0).sum()) < float(usual[:, :L].var(0).sum())  # less noise in the encoder's


def test_with_the_true_posterior_one_draw_is_the_truth():
    """A linear-Gaussian model, whose posterior is full: every weight is p(x)."""
    W, noise = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.7]]).double(), 0.4
    vae = VAE(latents=2, posterior="full").build(real(3), seed=0).double()
    covariance = torch.linalg.inv(torch.eye(2).double() + W.T @ W / noise**2)
    x = Rng(0).normal((5, 3), torch.float64)
    q = Posterior((x @ W) @ covariance / noise**2, torch.linalg.cholesky(covariance).expand(5, 2, 2))
    vae._posterior = lambda *rest: q
    vae._log_likelihood = lambda x, observed, z, c: Normal(z @ W.T, noise).log_prob(x).sum(1)
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(3).double(), W @ W.T + noise**2 * torch.eye(3).double()
    )
    for draws in (1, 7):
        assert torch.allclose(vae.log_prob(x, draws=draws, rng=0).value, marginal.log_prob(x), atol=1e-9)
    losses = torch.stack([vae._loss(Batch(x), Rng(seed)) for seed in range(400)]).detach()
    z = (losses.mean() + marginal.log_prob(x).mean()) / (losses.std() / 20)
    assert abs(float(z)) < 5


def test_options_of_the_latents_are_checked():
    with pytest.raises(ValueError, match="Bernoulli"):
        VAE(prior="bernoulli", posterior="full")
    with pytest.raises(ValueError, match="posterior"):
        VAE(posterior="cubic")
    with pytest.raises(ValueError, match="prior"):
        VAE(prior="cauchy")
