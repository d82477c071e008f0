"""Autoencoder: what it promises and what it does not, corruption, gaps, and a line that it must find."""

from __future__ import annotations

import pytest
import torch

import pofx
from pofx.check.toys import pictures, table
from pofx.data import Batch, Data
from pofx.families.autoencoder import Autoencoder
from pofx.kinds.base import Space, Variable, real
from pofx.model import Unsupported
from pofx.randomness import Rng

SETTINGS = {"progress": False, "threads": 1, "precision": "32-true"}
SPACE = Space((6,), tuple(Variable(f"x{i}", scale=1.4) for i in range(6)))


def line(n: int = 1500) -> Data:
    """Six numbers that one cause moves together."""
    cause, noise = Rng(0).normal((n, 1), torch.float64), Rng(1).normal((n, 6), torch.float64)
    return Data(cause * torch.tensor([1.0, -1, 1, -1, 1, -1]) + 0.1 * noise, SPACE).splitted(0.1, 0.1)


def test_it_is_a_representation_and_no_distribution():
    model = pofx.fit(pictures(), "autoencoder", budget=40, **SETTINGS)
    assert model.offers() == {"encode", "decode"}
    assert model.card.density == "none"
    for ask in (lambda: model.sample(2), lambda: model.log_prob(pictures().x[:2])):
        with pytest.raises(Unsupported):
            ask()
    with pytest.raises(NotImplementedError, match="density"):
        model.encode(pictures().x[:2]).log_prob(torch.zeros(2, model.L))


def test_one_number_tells_the_line():
    data = line()
    model = pofx.fit(data, Autoencoder(latents=1, width=32, depth=1), budget=400, **SETTINGS)
    x = data.part("test").x
    with torch.no_grad():
        back = model.decode(model.encode(x).mean).mean()
    assert float((back - x).square().mean()) < 0.05  # the noise's 0.01 times 5/6, and the variance is 1
    a, b = model.encode(x).mean[:, 0].double(), x @ torch.tensor([1.0, -1, 1, -1, 1, -1]).double()
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    assert abs(float(torch.corrcoef(ranks)[0, 1])) > 0.99


@pytest.mark.parametrize("corruption", ["noise", "hide"])
def test_a_denoising_one_repairs_better_than_a_plain_one(corruption):
    data = line()
    plain = {"latents": 4, "width": 32, "depth": 1, "components": 1}
    options = {**plain, "corruption": corruption, "strength": 0.5}
    models = [pofx.fit(data, Autoencoder(**o), budget=250, **SETTINGS) for o in (options, plain)]
    x = data.part("test").x
    u, mask = models[0]._seen(Batch(x))
    u, mask = models[0]._corrupted(u, mask, Rng(5))
    errors = []
    for model in models:
        with torch.no_grad():
            back = model.decode(model.encoder(u, mask, None)).mean()
        errors.append(float((back - x).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_corruption_is_of_training_alone_and_hidden_entries_are_not_seen():
    model = Autoencoder(corruption="hide", strength=0.5).build(SPACE, seed=0)
    batch = Batch(line().x[:8])
    assert model.training
    assert float(model._loss(batch, Rng(0))) != float(model._loss(batch, Rng(1)))
    model.eval()
    assert float(model._loss(batch, Rng(0))) == float(model._loss(batch, Rng(1)))
    u, mask = model._corrupted(*model._seen(batch), Rng(0))
    assert 0.3 < float(mask.mean()) < 0.7
    assert torch.equal(model.encoder(u, mask, None), model.encoder(torch.where(mask > 0, u, 7.0), mask, None))
    noisy = Autoencoder(corruption="noise", strength=0.3).build(SPACE, seed=0)
    e = noisy._corrupted(*noisy._seen(Batch(line().x)), Rng(0))[0] - noisy._seen(Batch(line().x))[0]
    assert abs(float(e.std()) - 0.3) < 0.01


def test_gaps_are_neither_seen_nor_scored():
    model, x = Autoencoder().build(SPACE, seed=0).eval(), line().x[:8]
    observed = Rng(0).bernoulli(0.6, (8, 6))
    losses = [
        model._loss(Batch(torch.where(observed, x, fill), observed=observed), Rng(0)) for fill in (0.0, float("nan"))
    ]
    assert torch.equal(losses[0], losses[1])
    rest = Batch(x[:, :], observed=torch.ones_like(observed))
    assert torch.allclose(model._loss(rest, Rng(0)), model._loss(Batch(x), Rng(0)), atol=1e-6)


def test_the_penalty_keeps_codes_small_and_a_given_is_heard():
    data = table()
    free, held = (pofx.fit(data, Autoencoder(penalty=p, width=32), budget=120, **SETTINGS) for p in (0.0, 3.0))
    x = data.part("test").x
    sizes = [float(m.encode(x).mean.square().mean()) for m in (free, held)]
    assert sizes[1] < 0.5 * sizes[0]
    z = torch.zeros(50, free.L)
    means = [float(free.decode(z, {"label": torch.full((50,), k)}).mean()[:, 0].mean()) for k in range(3)]
    assert means[0] != means[2]


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="corruption"):
        Autoencoder(corruption="rust")
    with pytest.raises(ValueError, match="strength"):
        Autoencoder(corruption="hide", strength=1.0)
    with pytest.raises(ValueError, match="body"):
        Autoencoder(body="tree")
    with pytest.raises(ValueError, match="pictures"):
        Autoencoder(body="conv").build(real(3))
