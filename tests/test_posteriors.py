"""Posteriors and estimators: densities against numerical Jacobians, inverses, and exact gradients by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pofx.engines.estimators import Point, antithetic, disarm, drawn, vimco
from pofx.nn.posteriors import KINDS, Head, Posterior
from pofx.randomness import Rng


def head_and_raw(kind: str, L: int = 3, rows: int = 4, shake: float = 0.05) -> tuple[Head, Tensor]:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        head = Head(kind, L, layers=3, width=24).double()
    rng = Rng(1)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(shake * rng.normal(tuple(p.shape)))
    raw = 1.5 * rng.normal((rows, head.numbers), torch.float64)
    raw[:, L : 2 * L] = 0.3 * raw[:, L : 2 * L] + 2.0
    return head, raw


@pytest.mark.parametrize("kind", KINDS)
def test_log_q_is_that_of_the_map_and_the_map_has_an_inverse(kind):
    head, raw = head_and_raw(kind)
    q, e = head(raw), Rng(2).normal((4, 3), torch.float64)
    z, log_q = q.push(e)
    jacobian = torch.autograd.functional.jacobian(lambda v: q.push(v)[0].sum(0), e).permute(1, 0, 2)
    expected = Normal(0.0, 1.0).log_prob(e).sum(-1) - torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(log_q, expected, atol=1e-9)
    assert torch.allclose(q.log_prob(z), log_q, atol=1e-6)
    many = q.push(Rng(3).normal((5, 4, 3), torch.float64))
    assert torch.allclose(q.log_prob(many[0]), many[1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_q_integrates_to_one_and_depends_on_its_row(kind):
    head, raw = head_and_raw(kind, L=2, rows=2)
    q = head(raw)
    axis = torch.linspace(-15, 15, 151, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 2, -1)
    with torch.no_grad():
        mass = q.log_prob(grid).exp().sum(0) * float(axis[1] - axis[0]) ** 2
    assert torch.allclose(mass, torch.ones(2).double(), atol=2e-3)
    swapped = head(raw.flip(0))
    assert torch.allclose(swapped.log_prob(grid[:5].flip(1)).flip(1), q.log_prob(grid[:5]), atol=1e-8)


def test_full_is_a_multivariate_normal_and_flows_bend():
    head, raw = head_and_raw("full")
    q = head(raw)
    reference = MultivariateNormal(q.mu, scale_tril=q.scale)
    z = Rng(0).normal((4, 3), torch.float64)
    assert torch.allclose(q.log_prob(z), reference.log_prob(z))
    assert torch.allclose(q.variance, reference.variance)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert torch.allclose(q.divergence()[:, 0], kl_divergence(reference, prior))
    assert float(q.scale.tril(-1).abs().max()) > 0.05
    for kind in ("planar", "iaf"):
        head, raw = head_and_raw(kind, shake=0.2)
        ends, q = Rng(0).normal((2, 4, 3), torch.float64), head(raw)
        middle = q.push(ends.mean(0))[0] - q.push(ends)[0].mean(0)  # of an affine map, 0
        assert float(middle.abs().max()) > 0.05
        with pytest.raises(ValueError, match="closed form"):
            head(raw).divergence()


@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_draws_agree(kind):
    head, raw = head_and_raw(kind, L=2, rows=3)
    q = head(raw)
    z = torch.stack([drawn(q, Rng(seed)) for seed in range(4)])
    assert z.shape == (4, 3, 2)
    assert torch.equal(drawn(q, Rng(0)), drawn(q, Rng(0)))
    assert not torch.equal(z[0], z[1])
    with torch.no_grad():
        many = q.push(Rng(0).normal((20000, 3, 2), torch.float64))[0]
    exact = kind in ("diagonal", "full")
    gap = (many.mean(0) - q.mean.detach()).abs() / many.std(0)
    assert float(gap.max()) < (0.04 if exact else 0.4)


def test_drawing_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    drawn(Normal(torch.zeros(3), 1.0), Rng(0))
    assert torch.equal(before, torch.random.get_rng_state())


def table(L: int, seed: int = 0) -> Tensor:
    """f(b) for every b of L bits."""
    return Rng(seed).normal((2,) * L, torch.float64)


def test_disarm_is_unbiased_and_calmer_than_one_score():
    L, rows = 3, 40000
    f, logits = table(L) + 1, torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    a = logits.clone().requires_grad_()
    p = torch.sigmoid(a)
    exact = sum(
        f[b] * torch.prod(torch.where(torch.tensor(b) == 1, p, 1 - p)) for b in itertools.product((0, 1), repeat=L)
    )
    exact.backward()
    many = logits.expand(rows, -1).clone().requires_grad_()
    value, surrogate = disarm(many, lambda b: f[tuple(b.long().T)], Rng(0))
    assert float(surrogate.abs().max()) == 0
    surrogate.sum().backward()
    g = many.grad
    z = (g.mean(0) - a.grad) / (g.std(0) / rows**0.5)
    assert float(z.abs().max()) < 5
    assert abs(float((value.mean() - exact.detach()) / (value.std() / rows**0.5))) < 5
    b = (Rng(1).uniform((rows, L), torch.float64) < torch.sigmoid(logits)).double()
    score = f[tuple(b.long().T)].unsqueeze(-1) * (b - torch.sigmoid(logits))
    assert float(g.var(0).sum()) < 0.7 * float(score.var(0).sum())


def test_an_antithetic_pair_has_the_right_law_each():
    logits = torch.tensor([[-2.0, 0.5]]).expand(40000, -1).double()
    b, other = antithetic(logits, Rng(0))
    for draw in (b, other):
        z = (draw.mean(0) - torch.sigmoid(logits[0])) / (draw.std(0) / 200)
        assert float(z.abs().max()) < 5
    assert float(((b - b.mean(0)) * (other - other.mean(0))).mean(0).max()) < 0


def test_vimco_is_unbiased():
    """One coin, K = 2: the gradient of E log 1/2 (w_1 + w_2) by enumeration of four pairs."""
    log_p, a = torch.tensor([-0.4, -2.0], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)

    def log_q(b: Tensor, a: Tensor) -> Tensor:
        return torch.where(b == 1, torch.nn.functional.logsigmoid(a), torch.nn.functional.logsigmoid(-a))

    at = a.clone().requires_grad_()
    exact = torch.zeros(()).double()
    for pair in itertools.product((0, 1), repeat=2):
        b = torch.tensor(pair)
        q = log_q(b, at)
        exact = exact + q.sum().exp() * (torch.logsumexp(log_p[b] - q, 0) - math.log(2))
    exact.backward()
    rows = 40000
    many = a.expand(rows).clone().requires_grad_()
    b = (Rng(0).uniform((2, rows), torch.float64) < torch.sigmoid(a)).long()
    q = log_q(b, many)
    log_w = log_p[b] - q
    (torch.logsumexp(log_w, 0) + vimco(log_w, q)).sum().backward()
    g = many.grad
    assert abs(float((g.mean() - at.grad) / (g.std() / rows**0.5))) < 5
    assert float(g.std()) > 0


def test_a_point_is_itself():
    codes = torch.tensor([[1, 2], [3, 0]])
    q = Point(codes, discrete=True)
    assert torch.equal(q.log_prob(codes), torch.zeros(2))
    assert q.log_prob(torch.stack([codes, codes.flip(0)]))[1].tolist() == [-math.inf, -math.inf]
    assert torch.equal(drawn(q, Rng(0)), codes)
    with pytest.raises(NotImplementedError, match="density"):
        Point(torch.zeros(2, 3), discrete=False).log_prob(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="posterior"):
        Head("cubic", 2)


def test_a_frozen_posterior_is_the_same_law():
    head, raw = head_and_raw("full")
    raw.requires_grad_()
    q = head(raw)
    z = Rng(0).normal((4, 3), torch.float64)
    assert torch.equal(q.frozen().log_prob(z), q.log_prob(z))
    assert not q.frozen().log_prob(z).requires_grad
    assert isinstance(q.frozen(), Posterior)
