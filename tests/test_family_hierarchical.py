"""HVAE: bounds against quadrature over two groups, exact log q of the whole way down, gaps, towers of both kinds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import pofx
from pofx.check.toys import table
from pofx.data import Batch
from pofx.families.hierarchical import HVAE
from pofx.kinds.base import Space, Variable, real
from pofx.model import Quality
from pofx.randomness import Rng

BINARY = Space((2, 2, 1), (Variable("b", "binary", 2),), "grid", "image", "uint8")
SETTINGS = {"progress": False, "threads": 1, "precision": "32-true"}


def small(space: Space = BINARY, **options: object) -> HVAE:
    """Two groups of one latent each, in float64, with wide posteriors that depend on what is above."""
    model = HVAE(groups=2, latents=1, width=16, dropout=0.0, **options).build(space, seed=0)
    rng = Rng(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * rng.normal(tuple(p.shape)) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    model.double().eval().requires_grad_(False)
    for head in model.tower.heads:
        head.outlet.weight.mul_(0.3)
        head.outlet.bias[1] = 1.0
    return model


def states() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 2, 2, 1).to(torch.uint8)


def exact(model: HVAE, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """log p(x_o) by quadrature over both latents."""
    axis = torch.linspace(-6.5, 6.5, 131, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    log_p = Normal(0.0, 1.0).log_prob(z).sum(1) + 2 * math.log(float(axis[1] - axis[0]))
    h, rows = model._trunk(z, None), []
    for i in range(len(x)):
        seen = None if observed is None else observed[i].expand(len(z), *x.shape[1:])
        fit = model._log_likelihood(x[i].expand(len(z), *x.shape[1:]), seen, h, None)
        rows.append(torch.logsumexp(log_p + fit, 0))
    return torch.stack(rows)


def test_bounds_are_ordered_and_reach_the_truth():
    model, x = small(), states()
    truth = exact(model, x)
    assert abs(float(truth.exp().sum()) - 1) < 1e-5
    means = []
    for draws in (1, 8):
        values = torch.stack([model.log_prob(x, draws=draws, rng=seed).value for seed in range(80)])
        z = (values.mean(0) - truth) / (values.std(0) / 80**0.5)
        assert float(z.max()) < 5
        means.append(values)
    gain = (means[1] - means[0]).mean(1)
    assert float(gain.mean() / (gain.std() / 80**0.5)) > 5
    w = (means[0] - truth).exp()
    assert float(((w.mean(0) - 1).abs() / (w.std(0) / 80**0.5)).max()) < 5
    best = model.log_prob(x, draws=20_000, rng=0)
    assert best.quality is Quality.LOWER
    assert ((best.value - truth).abs() < 5 * best.stderr + 1e-4).all()


def test_log_q_is_that_of_the_way_down():
    model, x = small(), states()[:5]
    q = model.encode(x)
    e = Rng(0).normal((5, 2), torch.float64)
    walk = q.walk(e)
    jacobian = torch.autograd.functional.jacobian(lambda v: q.walk(v).z.sum(0), e).permute(1, 0, 2)
    assert torch.allclose(walk.log_q, Normal(0.0, 1.0).log_prob(e).sum(1) - torch.linalg.slogdet(jacobian)[1])
    assert float(jacobian[:, 1, 0].abs().max()) > 1e-3  # the lower group looks at the upper one
    assert torch.allclose(q.log_prob(walk.z), walk.log_q)
    many = q.sample(torch.Size((7,)))
    assert many.shape == (7, 5, 2)
    assert torch.allclose(q.log_prob(many)[3], q.log_prob(many[3]))
    axis = torch.linspace(-25, 25, 251, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 5, -1)
    assert torch.allclose(q.log_prob(grid).exp().sum(0) * 0.04, torch.ones(5).double(), atol=5e-3)


def test_the_loss_is_minus_the_bound_with_its_weights_and_free_bits():
    x = states()
    one = small()
    losses = torch.stack([one._loss(Batch(x), Rng(s)) + one.log_prob(x, rng=500 + s).value.mean() for s in range(120)])
    assert abs(float(losses.mean() / (losses.std() / 120**0.5))) < 5
    many = small(samples=6)
    assert torch.allclose(many._loss(Batch(x), Rng(3)), -many.log_prob(x, draws=6, rng=3).value.mean(), atol=1e-10)
    walk = one._posterior(x, None, None).walk(Rng(0).normal((16, 2)))
    kl = sum(float(d.mean()) for d in walk.divergences)
    double, free = small(beta=2.0), small(free_bits=40.0)
    base = float(one._loss(Batch(x), Rng(0)))
    assert abs(float(double._loss(Batch(x), Rng(0))) - base - kl) < 1e-9
    assert abs(float(free._loss(Batch(x), Rng(0))) - base - (80.0 - kl)) < 1e-9


def test_gaps_give_the_true_marginal_whatever_stands_in_them():
    model, x = small(), states()[:6]
    observed = Rng(2).bernoulli(0.5, (6, 2, 2, 1))
    truth = exact(model, x, observed)
    value = model.log_prob(x, observed=observed, draws=20_000, rng=0)
    assert ((value.value - truth).abs() < 5 * value.stderr + 1e-4).all()
    other = torch.where(observed, x, 1 - x)
    assert torch.equal(model.log_prob(other, observed=observed, draws=9, rng=0).value,
                       model.log_prob(x, observed=observed, draws=9, rng=0).value)  # fmt: skip


def test_draws_have_their_frequencies():
    model, p = small(), exact(small(), states()).exp()
    code = (model.sample(40_000, rng=0).flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    share = torch.bincount(code, minlength=16).double() / 40_000
    assert ((share - p) / (p * (1 - p) / 40_000).sqrt()).abs().max() < 5


@pytest.mark.parametrize("body", ["mlp", "conv"])
def test_towers_keep_pixels_rows_and_groups_apart(body):
    space = Space((9, 6, 2), (Variable("p", "ordinal", 17, mean=6.0, scale=5.0),), "grid", "image", "uint8")
    model = HVAE(body=body, width=8, groups=2, latents=2).build(space, seed=0).eval()
    x = Rng(0).integers(17, (4, 9, 6, 2)).to(torch.uint8)
    z = model.encode(x).mean
    assert z.shape == (4, model.L)
    assert (4 if body == "mlp" else 2 * 2 * (3 * 2 + 5 * 3)) == model.L
    assert torch.allclose(z[1:2], model.encode(x[1:2]).mean, atol=1e-5)
    predictive = model.decode(z)
    assert torch.allclose(predictive.log_prob(x)[2:], model.decode(z[2:]).log_prob(x[2:]), atol=1e-4)
    bumped = predictive.params.detach().reshape(4, 108, -1).clone()
    bumped[:, 13] += 0.5
    changed = (model.likelihood.log_prob(bumped.flatten(1), x) != predictive.log_prob(x)).flatten(1)
    assert changed[:, 13].any()
    assert not changed[:, :13].any()
    walk = model.encode(x).walk(Rng(0).normal((4, model.L)))
    again = model._trunk(walk.z, None)
    assert torch.allclose(again, walk.h, atol=1e-5)  # decoding goes the way that inference went


def test_what_is_given_is_heard():
    data = table()
    model = pofx.fit(data, HVAE(width=32), budget=120, **SETTINGS)
    ages = [float(model.sample(1000, {"label": torch.tensor(k)}, rng=0)[:, 0].mean()) for k in range(3)]
    assert ages[2] - ages[0] > 10
    value = model.log_prob(data.part("test").x, data.part("test").given, draws=4, rng=0)
    assert len(value.diagnostics["nats by group"]) == 2


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="free bits"):
        HVAE(samples=4, free_bits=0.1)
    with pytest.raises(ValueError, match="body"):
        HVAE(body="tree")
    with pytest.raises(ValueError, match="conv"):
        HVAE(body="conv").build(real(3))
