"""Discriminative against scikit-learn, closed forms, and its own draws."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge

import pofx
from pofx.data import Data
from pofx.families.discriminative import Discriminative
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng

F64 = torch.float64
X = Space((2,), (Variable("u"), Variable("v")))


def questions(n: int, seed: int = 0) -> torch.Tensor:
    return Rng(seed).normal((n, 2), F64)


def labels(x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    logits = torch.stack([x[:, 0], -x[:, 0] + x[:, 1], 0 * x[:, 0]], 1)
    return Rng(seed).categorical(logits)


def of(y: torch.Tensor, variable: Variable, x: torch.Tensor) -> Data:
    data = Data(y[:, None].double(), Space((1,), (variable,))).with_given({"x": (x, X)})
    return data.splitted(0.0, 0.2)


def linear(data: Data, **knobs) -> Discriminative:
    model = Discriminative(**knobs).build(data.space, data.given_spaces)
    model.fit_closed(data, Rng(0))
    return model.eval()


def test_linear_labels_are_those_of_logistic_regression():
    x = questions(900)
    y = labels(x)
    data = of(y, Variable("y", "category", 3), x)
    model, train = linear(data, penalty=1.0), data.part("train")
    peer = LogisticRegression(C=1.0, max_iter=300).fit(train.given["x"].numpy(), train.x[:, 0].numpy())
    got = model.shares({"x": x})
    assert np.allclose(got.numpy(), peer.predict_proba(x.numpy()), atol=2e-3)  # a flag stands beside x
    every = torch.arange(3, dtype=F64).reshape(3, 1, 1).expand(3, 900, 1)
    values = torch.stack([model.log_prob(c, {"x": x}).value for c in every], 1)
    assert torch.allclose(values.exp(), got, atol=1e-9)
    assert model.log_prob(every[0], {"x": x}).quality is Quality.EXACT
    counts = torch.bincount(train.x[:, 0].long(), minlength=3) / len(train)
    alone = torch.stack([model.log_prob(c[:1]).value for c in every], 1).exp()
    assert torch.allclose(alone[0], counts.double(), atol=0.01)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_linear_numbers_are_a_ridge_regression_with_honest_noise(step):
    x = questions(2000)
    y = 3 + 2 * x[:, 0] - x[:, 1] + 0.7 * Rng(2).normal((2000,), F64)
    y = (y / step).round() * step if step else y
    data = of(y, Variable("y", mean=float(y.mean()), scale=float(y.std()), resolution=step), x)
    model, train = linear(data, penalty=1.0), data.part("train")
    peer = Ridge(alpha=1.0).fit(train.given["x"].numpy(), train.x[:, 0].numpy())
    mean = torch.from_numpy(peer.predict(x.numpy()))
    spread = float(model._params({"x": x}, 2000)[0][0, 1].exp() * model.columns.scale)
    assert spread == pytest.approx((0.49 + step**2 / 12) ** 0.5, rel=0.06)
    law = stats.norm(mean.numpy(), spread)
    want = law.logpdf(y.numpy()) if not step else np.log(law.cdf(y.numpy() + step / 2) - law.cdf(y.numpy() - step / 2))
    assert np.allclose(model.log_prob(y[:, None], {"x": x}).value.numpy(), want, atol=0.02)
    draws = model.sample(400, {"x": x[:50]}, rng=0)[..., 0]
    z = (draws.mean(0) - mean[:50]) / (spread / 20)
    assert float(z.abs().max()) < 5
    pit = torch.from_numpy(stats.norm(mean.numpy(), spread).cdf(y.numpy()))
    assert stats.kstest(pit.numpy(), "uniform").pvalue > 1e-4 or step


def test_a_network_sees_what_a_line_cannot():
    x = questions(1500)
    y = ((x[:, 0] * x[:, 1] > 0) ^ Rng(3).bernoulli(0.05, (1500,))).long()
    data = of(y, Variable("y", "binary", 2), x)
    losses = {}
    for method, budget in (("linear", "5s"), ("network", "400 steps")):
        knobs = {"method": method}
        model = pofx.fit(data, "discriminative", hyper_parameters=knobs, budget=budget, progress=False, threads=1)
        valid = data.part("valid")
        losses[method] = -float(model.log_prob(valid.x, valid.given).value.detach().mean())
    assert losses["linear"] > 0.66
    assert losses["network"] < 0.45


def test_answers_are_independent_given_the_question_and_a_missing_one_is_left_out():
    x = questions(600)
    y = torch.stack([labels(x).double(), x[:, 0] + 0.1 * Rng(4).normal((600,), F64)], 1)
    space = Space((2,), (Variable("label", "category", 3), Variable("number")))
    model = linear(Data(y, space).with_given({"x": (x, X)}).splitted(0.0, 0.2))
    c = {"x": x[:20]}
    parts = [model.log_prob(y[:20], c, torch.tensor(m).expand(20, 2)).value for m in ([True, False], [False, True])]
    assert torch.allclose(parts[0] + parts[1], model.log_prob(y[:20], c).value)
    conditional = model.condition(y[:20], torch.tensor([True, False]).expand(20, 2), c)
    assert torch.allclose(conditional.log_prob(y[:20]).value, parts[1])
    assert bool((conditional.sample(5, Rng(0))[..., 0] == y[:20, 0]).all())


def test_frames_with_columns_as_questions():
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"a": r.normal(size=400), "b": r.choice(["u", "v"], 400)})
    frame["y"] = np.where(frame["a"] + 2 * (frame["b"] == "u") + r.normal(size=400) > 1, "yes", "no")
    model = pofx.fit(frame, "discriminative", given=["a", "b"], progress=False, threads=1)
    drawn = pofx.sample(model, 200, given={"a": 3.0, "b": "u"}, rng=0).value
    assert (drawn["y"] == "yes").mean() > 0.9


def test_the_slope_of_a_standard_answer_is_its_score():
    x = questions(500)
    y = 0.8 * x[:, :1] + 0.6 * Rng(2).normal((500, 1), F64)
    model = linear(Data(y, Space((1,), (Variable("y"),))).with_given({"x": (x, X)}).splitted(0.0, 0.2))
    assert "score" in model.offers()
    mean, log_s = model._params({"x": x}, 500)[0].unbind(1)
    assert torch.allclose(model.score(y, {"x": x})[:, 0], (mean - y[:, 0]) / log_s.exp() ** 2, atol=1e-6)


def test_it_needs_a_question():
    with pytest.raises(pofx.Unsupported, match="given"):
        Discriminative().build(X)
    with pytest.raises(ValueError, match="method"):
        Discriminative(method="forest")
    model = linear(of(labels(questions(60)), Variable("y", "category", 3), questions(60)))
    assert model.shares({"x": questions(4)}).shape == (4, 3)
    assert category(3).shape == ()
