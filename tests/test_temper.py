"""Tempered draws against their laws: powers of tables, of normals, of pairs, and what a truncation keeps."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import pofx
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, real
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Cursor, Model, Predictive, Value
from pofx.tasks.stream import sample_to

P = torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
THEN = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]]).double()
CARD = Card("exact", "fast", "none", "none", "none", ("explicit", "tractable"), "none", "a pair", "here")


class Pair(Model):
    """A code, another that depends on it, and a number by itself."""

    card, stepwise = CARD, True

    def offers(self):
        return super().offers() - (frozenset() if self.stepwise else {"steps"})

    def _build(self):
        self.normal = Likelihood(self.space.sub([2]), 1)
        self.register_buffer("number", torch.tensor([[0.0, 0.0, 0.0]]))

    def _log_prob(self, x, given, observed, draws, rng):
        a, b = x[:, 0].long(), x[:, 1].long()
        return Value(P[a].log() + THEN[a, b].log() + self.normal.log_prob(self.number, x[:, 2:])[:, 0].double())

    def _sample(self, count, given, rng):
        a = rng.categorical(P.log().expand(count, -1))
        b = rng.categorical(THEN[a].log())
        number = self.normal.sample(self.number.expand(count, -1), rng)
        return torch.stack([a.double(), b.double(), number[:, 0].double()], 1)

    def _steps(self, rows, given):
        return Walk(self, rows)


class Walk(Cursor):
    def __init__(self, model, rows):
        self.model, self.rows, self.order, self.t = model, rows, [0, 1, 2], 0

    def start(self):
        return Predictive(Likelihood(self.model.space.sub([0]), 1), P.log().expand(self.rows, -1))

    def next(self, x_i):
        self.t += 1
        if self.t == 1:
            return Predictive(Likelihood(self.model.space.sub([1]), 1), THEN[x_i.long()].log())
        return Predictive(self.model.normal, self.model.number.expand(self.rows, -1)) if self.t == 2 else None

    def reorder(self, rows):
        self.rows = len(rows)


def pair(stepwise=True):
    space = Space((3,), (Variable("a", "category", 4), Variable("b", "binary", 2), Variable("c")), dtype="float64")
    model = Pair().build(space)
    model.stepwise = stepwise
    return model


def shares(x, n=4):
    return torch.bincount(x.long(), minlength=n).double() / len(x)


N = 20_000


def log_number(x):
    model = pair()
    return model.normal.log_prob(model.number.expand(len(x), -1), x[:, None])[:, 0].double()


def power(p, temperature):
    return p ** (1 / temperature) / (p ** (1 / temperature)).sum(-1, keepdim=True)


NEAR = 4 * 0.5 / N**0.5  # four standard errors of a share at most


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_by_steps_each_entry_is_a_power(temperature):
    x = pofx.sample(pair(), N, temperature=temperature, rng=0).raw
    assert float((shares(x[:, 0]) - power(P, temperature)).abs().max()) < NEAR
    after = shares(x[x[:, 0] == 0, 1], 2)
    assert float((after - power(THEN, temperature)[0]).abs().max()) < 1.5 * NEAR
    line = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    p = (log_number(line) / temperature).softmax(0)
    mean = float(p @ line)
    sd = float(p @ (line - mean).square()) ** 0.5
    assert abs(float(x[:, 2].mean()) - mean) < 0.05 * sd
    assert float(x[:, 2].std()) == pytest.approx(sd, rel=0.03 if temperature < 1 else 0.12)  # 64 draws have cut tails


def test_by_steps_a_truncation_keeps_the_fewest_values():
    x = pofx.sample(pair(), N, truncation=0.75, rng=0).raw
    assert set(x[:, 0].tolist()) == {0.0, 1.0}  # .5 and .3 hold .8, .5 alone less than .75
    assert float((shares(x[:, 0])[:2] - torch.tensor([0.625, 0.375])).abs().max()) < NEAR
    assert set(x[x[:, 0] == 0, 1].tolist()) == {0.0}
    least = log_number(pofx.sample(pair(), N, rng=1).raw[:, 2]).quantile(0.25)
    assert float((log_number(x[:, 2]) > least - 0.2).double().mean()) > 0.97


def test_by_latents_a_normal_stays_one():
    """N(m, S) to the power 1/T is N(m, T S); with a truncation every axis of the code ends."""
    s = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    model = Gaussian().build(real(2).replace(dtype="float64"))
    model.mean, model.covariance = torch.tensor([3.0, -1.0], dtype=torch.float64), s
    answer = pofx.sample(model, N, temperature=0.25, rng=0)
    assert answer.route == "latents" and answer.quality.value == "exact"
    assert float((torch.cov(answer.raw.T) - s / 4).abs().max()) < 0.25 * 5 * (2 / N) ** 0.5
    assert float((answer.raw.mean(0) - model.mean).abs().max()) < 5 * 0.5 / N**0.5
    z = model.encode(pofx.sample(model, N, truncation=0.6, rng=0).raw).mean
    edge = stats.norm.ppf(0.8)
    assert float(z.abs().max()) <= edge + 1e-5 and float(z.abs().max()) > 0.99 * edge


def test_by_latents_the_noise_of_a_decoder_is_tempered_too():
    """A VAE of pictures with few codes: draws are as likely as its likeliest, and its own are not."""
    x = (np.random.default_rng(0).random((400, 6)) < 0.3).astype(float)
    model = pofx.fit(pd.DataFrame(x).rename(columns=str), "vae", budget="150 steps", seed=0, progress=False)
    cold, plain = (pofx.sample(model, 2000, temperature=t, rng=0).raw.double().mean() for t in (0.1, 1.0))
    assert abs(float(plain) - 0.3) < 0.05 and float(cold) < 0.05  # .3^10 beside .7^10


def test_by_weights_x_is_a_power():
    """Of the pair as a whole: p(a, b)^(1/T), not a product of powers of steps."""
    joint = P[:, None] * THEN
    for temperature in (0.5, 2.0):
        target = joint ** (1 / temperature) / (joint ** (1 / temperature)).sum()
        answer = pofx.sample(pair(stepwise=False), N, temperature=temperature, rng=0)
        found = shares(answer.raw[:, 0] * 2 + answer.raw[:, 1], 8).reshape(4, 2)
        assert answer.route == "weights" and float((found - target).abs().max()) < 0.02
        assert float((found - joint).abs().max()) > 0.05
    x = pofx.sample(pair(stepwise=False), 4000, truncation=0.25, rng=0).raw
    log_p = pair().log_prob(x).value
    every = pair().log_prob(pair().sample(4000, rng=1)).value
    # of 16 draws the best four; those of all draws lie above the third quartile
    assert float((log_p > every.quantile(0.6)).double().mean()) > 0.95


def test_without_temper_nothing_changes_and_seeds_count():
    model = pair()
    assert torch.equal(
        pofx.sample(model, 50, rng=3).raw, pofx.sample(model, 50, temperature=1, truncation=1, rng=3).raw
    )
    assert pofx.sample(model, 50, rng=3).route == "sampler"
    one, two = (pofx.sample(model, 50, temperature=0.5, rng=3).raw for _ in range(2))
    assert torch.equal(one, two)
    for wrong in ({"temperature": 0.0}, {"temperature": float("inf")}, {"truncation": 0.0}, {"truncation": 1.5}):
        with pytest.raises(ValueError, match="share in"):
            pofx.sample(model, 5, **wrong)


def test_into_a_file(tmp_path):
    sample_to(pair(), 500, tmp_path / "x.npy", temperature=0.01, rng=0, chunk=200)
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (500, 3) and set(x[:, 0]) == {0.0} and x[:, 2].std() < 0.3
