"""VQ-VAE: the bound against the sum over all codes, the codebook against running means by hand, gradients, files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pofx
from pofx.check.toys import pictures, table
from pofx.data import Batch
from pofx.families.vqvae import VQVAE
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.nn.quantise import Codebook, perplexity
from pofx.randomness import Rng

BINARY = Space((2, 2, 1), (Variable("b", "binary", 2),), "grid", "image", "uint8")
SETTINGS = {"progress": False, "threads": 1, "precision": "32-true"}


def states() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 2, 2, 1).to(torch.uint8)


def fitted(steps: int = 60) -> VQVAE:
    return pofx.fit(pictures(), VQVAE(codes=2, levels=3, width=32), budget=steps, **SETTINGS)


def test_the_bound_is_one_term_of_the_sum_over_all_codes():
    model, x = fitted(), states()
    model.requires_grad_(False)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    log_prior = model._log_prior(codes)
    assert abs(float(log_prior.exp().sum()) - 1) < 1e-5
    fits = [model.decode(codes).log_prob(s.expand(9, 2, 2, 1)).flatten(1).sum(1) for s in x]
    table_ = torch.stack(fits).detach() + log_prior
    truth = torch.logsumexp(table_, 1)
    assert abs(float(truth.exp().sum()) - 1) < 1e-5
    value = model.log_prob(x)
    assert value.quality is Quality.LOWER
    own = (model.encode(x).mean[:, None] == codes).all(2).int().argmax(1)
    assert torch.allclose(value.value, table_.gather(1, own[:, None])[:, 0].double(), atol=1e-5)
    code = (model.sample(20_000, rng=0).flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    share = torch.bincount(code, minlength=16).double() / 20_000
    p = truth.exp().double()
    assert ((share - p) / (p * (1 - p) / 20_000).sqrt()).abs().max() < 5
    assert value.diagnostics["codes"] == 3
    assert 1 <= value.diagnostics["perplexity"] <= 3


def test_the_loss_is_minus_the_bound_when_it_does_not_train_and_codes_stay():
    model, x = fitted(10), pictures().part("test").x
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss = model._loss(Batch(x), Rng(0))
    assert torch.allclose(loss.double(), -model.log_prob(x).value.mean(), atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.train()._loss(Batch(x), Rng(0))
    assert not torch.equal(model.book.codes, before["book.codes"])
    assert not torch.equal(model.usage, before["usage"])


def test_the_gradient_passes_straight_through_and_commits():
    model = VQVAE(codes=2, levels=3, dropout=0.0).build(BINARY, seed=0).double().train()
    x = states()
    model._loss(Batch(x), Rng(0))  # seeds the book
    weight = model.encoder.body.outlet.bias
    model.commitment = 0.0
    (straight,) = torch.autograd.grad(model._loss(Batch(x), Rng(1)), weight)
    # the same slope as if h itself were moved at the decoder's entrance
    h = model._vectors(x, None, None).detach()
    e = model.book.vectors(model.book.nearest(h)).double().requires_grad_()
    (by_hand,) = torch.autograd.grad(-model._log_likelihood(x, None, e, None).mean(), e)
    assert torch.allclose(straight, by_hand.flatten(1).sum(0), atol=1e-6)
    model.commitment = 2.0
    (both,) = torch.autograd.grad(model._loss(Batch(x), Rng(1)), weight)
    h = model._vectors(x, None, None).detach()
    e = model.book.vectors(model.book.nearest(h)).double()
    pull = 2.0 * 2 * (h - e).flatten(1).mean(0) / 8
    e.requires_grad_()
    (by_hand,) = torch.autograd.grad(-model._log_likelihood(x, None, e, None).mean(), e)
    assert torch.allclose(both, by_hand.flatten(1).sum(0) + pull, atol=1e-5)


def test_codes_are_running_means_of_the_vectors_that_chose_them():
    book = Codebook(4, 2, decay=0.9).double()
    centres = 5 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()

    def vectors(seed: int) -> Tensor:
        which = torch.arange(400) % 4
        return centres[which] + 0.1 * Rng(seed).normal((400, 2), torch.float64)

    for seed in range(150):
        book.follow(vectors(seed), Rng(seed))
    assert torch.allclose(torch.sort(book.codes.sum(1)).values, torch.sort(centres.sum(1)).values, atol=0.1)
    assert perplexity(book.nearest(vectors(99)), 4) > 3.99
    count, total, h = book.count.clone(), book.total.clone(), vectors(100)
    k = book.nearest(h)
    book.follow(h, Rng(0))
    one = torch.nn.functional.one_hot(k, 4).double()
    assert torch.allclose(book.count, 0.9 * count + 0.1 * one.sum(0))
    assert torch.allclose(book.codes, (0.9 * total + 0.1 * one.T @ h) / book.count[:, None])


def test_a_dead_code_is_moved_onto_the_vectors():
    book = Codebook(8, 2, decay=0.5)
    for seed in range(3):
        book.follow(Rng(seed).normal((256, 2)), Rng(seed))
    book.codes[3], book.total[3], book.count[3] = 1e4, 1e4, 1.0
    for seed in range(10):
        book.follow(Rng(seed).normal((256, 2)), Rng(seed))
    assert float(book.codes.abs().max()) < 10
    assert perplexity(book.nearest(Rng(50).normal((4000, 2))), 8) > 6
    assert perplexity(torch.zeros(10, dtype=torch.long), 8) == 1.0


def test_pictures_of_any_size_are_a_grid_of_codes():
    space = Space((9, 6, 2), (Variable("p", "ordinal", 17, mean=6.0, scale=5.0),), "grid", "image", "uint8")
    model = VQVAE(body="conv", width=8, levels=5).build(space, seed=0).eval()
    assert model.latent_space.shape == (model.n,)
    assert model.n == 5 * 3
    x = Rng(0).integers(17, (4, 9, 6, 2)).to(torch.uint8)
    z = model.encode(x).mean
    assert z.shape == (4, 15)
    predictive = model.decode(z)
    assert torch.allclose(predictive.log_prob(x)[2:], model.decode(z[2:]).log_prob(x[2:]), atol=1e-5)
    # its parameters are in the order of the entries: a push at one of them moves it alone
    bumped = predictive.params.detach().reshape(4, 108, -1).clone()
    bumped[:, 13] += 0.5
    changed = model.likelihood.log_prob(bumped.flatten(1), x) != predictive.log_prob(x)
    assert changed.flatten(1)[:, 13].any()
    assert not changed.flatten(1)[:, :13].any()
    model.train()._loss(Batch(x), Rng(0)).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_gaps_are_neither_seen_nor_scored_and_what_is_given_is_heard():
    data = table()
    model = pofx.fit(data, VQVAE(width=32), budget=120, **SETTINGS)
    x = data.part("test").x[:20]
    observed = Rng(0).bernoulli(0.6, tuple(x.shape))
    other = torch.where(observed, x, torch.full_like(x, float("nan")))
    assert torch.equal(model.log_prob(x, None, observed).value, model.log_prob(other, None, observed).value)
    nothing = torch.zeros_like(observed)
    assert (model.log_prob(x, None, nothing).value <= 0).all()
    ages = [float(model.sample(1000, {"label": torch.tensor(k)}, rng=0)[:, 0].mean()) for k in range(3)]
    assert ages[2] - ages[0] > 5
    assert isinstance(model.given["label"], type(category(3)))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="body"):
        VQVAE(body="tree")
    with pytest.raises(ValueError, match="levels"):
        VQVAE(levels=1)
    with pytest.raises(ValueError, match="conv"):
        VQVAE(body="conv").build(table().space)
