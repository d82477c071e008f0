"""GAN: which z made x?  Closed forms of a linear generator, draws found again, gaps completed."""

import math

import pytest
import torch
from torch import nn

import pofx
from pofx.data import Batch, open_data
from pofx.engines.inversion import invert, starts
from pofx.families.gan import GAN
from pofx.kinds.base import Space, Variable, category, real
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng
from pofx.wrappers import Relaxed

torch.set_num_threads(1)
A = torch.tensor([[2.0, 0.0], [1.0, -1.0], [0.0, 0.5], [0.3, 0.3]])
S = 0.3


def linear(z, rows):
    return z @ A.T


def test_a_linear_generator_in_closed_form():
    """y = A z + s e: mean (A^T A / s^2 + I)^-1 A^T y / s^2, covariance (A^T A / s^2 + I)^-1, at the s that is found."""
    y = Rng(0).normal((5, 2)) @ A.T + S * Rng(1).normal((5, 4))
    found = invert(linear, y, torch.ones(5, 4, dtype=torch.bool), Rng(2).normal((2, 5, 2)), steps=60)
    for b in range(5):
        s = found.noise[0, b]
        H = (A.T @ A).double() / s**2 + torch.eye(2)
        mean = torch.linalg.solve(H, A.T.double() @ y[b].double() / s**2)
        for r in range(2):
            torch.testing.assert_close(found.mean[r, b], mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.root[r, b] @ found.root[r, b].T, torch.linalg.inv(H), rtol=1e-3, atol=1e-6)
        left = (y[b].double() - A.double() @ mean).square().sum()
        spread = torch.trace(A.double() @ torch.linalg.inv(H) @ A.T.double())
        assert s.item() ** 2 == pytest.approx(float(left + spread + 10 * 0.05**2) / 14, rel=0.02)


def test_what_is_not_observed_has_no_say_and_keeps_its_spread():
    """With the first entry alone, z_1 = y_1 / 2 and z_2 stays standard normal; with nothing, z ~ N(0, I)."""
    y = torch.tensor([[3.0, 1e6, -1e6, float("nan")], [1e6] * 4])
    observed = torch.tensor([[True, False, False, False], [False] * 4])
    found = invert(linear, y, observed, Rng(2).normal((1, 2, 2)), steps=30)
    assert found.mean[0, 0].tolist() == pytest.approx([1.5, 0.0], abs=0.01)
    covariance = found.root[0] @ found.root[0].mT
    assert covariance[0, 1, 1].item() == pytest.approx(1.0) and float(covariance[0, 0, 0]) < 0.01
    torch.testing.assert_close(covariance[1], torch.eye(2).double())
    assert found.mean[0, 1].abs().max().item() < 1e-6
    z = found.draw(torch.zeros(4000, 2, dtype=torch.long), Rng(0))
    torch.testing.assert_close(z[:, 1].T.cov(), torch.eye(2).double(), rtol=0, atol=0.1)


def test_two_modes_are_both_found():
    """y = z^2 has two answers; each start goes to its own, and both weigh the same."""

    def square(z, rows):
        return z.square()

    y = torch.tensor([[1.44]])
    found = invert(square, y, torch.ones(1, 1, dtype=torch.bool), torch.tensor([[[0.8]], [[-0.9]]]), steps=30)
    assert found.mean.flatten().tolist() == pytest.approx([1.2, -1.2], abs=0.02)
    assert found.evidence[0, 0].item() == pytest.approx(found.evidence[1, 0].item(), abs=1e-3)
    near = starts(square, y, torch.ones(1, 1, dtype=torch.bool), torch.linspace(-2, 2, 41)[:, None], 2, None)
    assert sorted(near.flatten().tolist()) == pytest.approx([-1.2, 1.2], abs=1e-6)


def model_of(shape, **settings):
    """A generator that is not trained, but far from flat."""
    model = GAN(**{"width": 32, "latent": 6, "cells": False, **settings}).build(shape, seed=3).eval()
    with torch.no_grad():
        for layer in model.generator.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2.0)
    return model


def picture(C, H, W):
    return Space((C, H, W), (Variable("u"),), "grid", "chart", "float32")


@pytest.mark.parametrize("shape, settings", [
    (real(12), {}), (picture(1, 6, 6), {}), (picture(1, 6, 6), {"body": "dcgan", "width": 8}),
    (real(12), {"cells": True}),
])  # fmt: skip
def test_draws_are_found_again(shape, settings):
    model = model_of(shape, **settings)
    z = Rng(1).normal((12, 6))
    x = model.decode(z).mean()
    q = model.encode(x)
    again = model.decode(q.mean).mean()
    error = (again - x).flatten(1).square().mean(1).sqrt() / x.std()
    assert error.median().item() < 0.05
    if not settings.get("cells"):  # a law around z, of which z itself could be a draw
        assert float((z - q.mean).abs().median()) < 0.2
    alone = model.encode(x[3:4]).mean
    torch.testing.assert_close(alone, q.mean[3:4], rtol=1e-2, atol=1e-2)


def test_completions_agree_with_what_is_seen():
    """Eight of a draw's twelve entries tell the others; with none, completions are draws."""
    model = model_of(real(12))
    x = model.sample(60, rng=5).float()
    observed = (torch.arange(12) % 3 > 0).expand(60, 12)
    conditional = model.condition(x, observed)
    drawn = conditional.sample(3, Rng(0))
    assert conditional.quality is Quality.ESTIMATE and conditional.log_prob is None
    assert torch.equal(drawn[:, observed], x[observed].expand(3, -1))
    hidden = ~observed
    error = (drawn.mean(0) - x)[hidden].square().mean().sqrt()
    assert float(error) < 0.35 * float(x.std())
    free = model.condition(x, torch.zeros_like(observed)).sample(8, Rng(1)).flatten(0, 1)
    fresh = model.sample(4000, rng=9)
    z = (free.double().mean(0) - fresh.double().mean(0)) / (fresh.double().std(0) / 60**0.5)
    assert float(z.abs().max()) < 5


def test_given_is_inverted_too():
    model = GAN(width=32, latent=4, cells=False).build(real(6), {"label": category(3)}).eval()
    given = {"label": torch.tensor([0, 1, 2, 1])}
    z = Rng(1).normal((4, 4))
    x = model.decode(z, given).mean()
    torch.testing.assert_close(model.decode(model.encode(x, given).mean, given).mean(), x, rtol=0, atol=0.05)


def test_an_encoder_is_fitted_beside():
    """Latent regression: its loss is -log q(z | G(z)); after some steps it beats what knows nothing of x."""
    model = model_of(real(12), encoder=True)
    model.train()
    critic, generator, encoder = model.players()
    names = {id(p) for p in encoder.params}
    assert not names & {id(p) for p in [*critic.params, *generator.params]}
    optimiser = torch.optim.Adam(encoder.params, lr=3e-3)
    batch = Batch(Rng(0).normal((64, 12)))
    for k in range(150):
        optimiser.zero_grad()
        encoder.loss(batch, Rng(k)).backward(inputs=encoder.params)
        optimiser.step()
    model.eval()
    assert encoder.loss(batch, Rng(999)).item() < 0.5 * (1 + math.log(2 * math.pi)) - 0.5
    z = Rng(7).normal((200, 6))
    q = model.encode(model.decode(z).mean())
    assert float(((q.mean - z) / q.stddev).square().mean()) == pytest.approx(1.0, abs=0.5)


def test_relaxed_pictures_decode_without_a_likelihood():
    data = open_data("digits", test=300)
    model = Relaxed(GAN(width=16, latent=4)).build(data.space).eval()
    x = data.x[:3]
    assert {"encode", "decode", "condition"} <= model.offers()
    predictive = model.decode(model.encode(x).mean)
    assert predictive.sample(Rng(0)).shape == x.shape and predictive.sample(Rng(0)).dtype == x.dtype
    with pytest.raises(Unsupported, match="log p"):
        predictive.log_prob(x)
    conditional = model.condition(x, torch.ones_like(x, dtype=torch.bool))
    assert conditional.quality is Quality.ESTIMATE and conditional.log_prob is None


@pytest.mark.slow
def test_in_painting_beats_the_mean_on_digits():
    data = open_data("digits", test=300)
    model = pofx.fit(data, "gan", budget="1500 steps", seed=0, threads=1, progress=False)
    x = data.part("test").x[:60]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 4:] = False
    answer = pofx.impute(model, x, observed=observed, draws=5, rng=0)
    assert answer.route == "condition"
    filled, mean = answer.raw.double().mean(0), data.part("train").x.double().mean(0)
    errors = [(fill - x.double())[~observed].square().mean().sqrt() for fill in (filled, mean.expand(x.shape))]
    assert float(errors[0]) < 0.95 * float(errors[1])
