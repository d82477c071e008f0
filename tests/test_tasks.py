"""Tasks: the best route first, refusals that say what is missing, answers in the user's own type."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import Batch, Data, open_data
from pofx.families import family
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, category, real
from pofx.kinds.likelihood import Likelihood
from pofx.model import HOOKS, Model, Predictive, Quality, Unsupported, Value
from pofx.randomness import Rng
from pofx.records import Cursor
from pofx.tasks import TASKS
from pofx.tasks.anomaly import anomaly
from pofx.tasks.base import Pools, at_least_one, first_route, given_for, recoded, rows_of
from pofx.tasks.density import answer_of, bits_per_dim, density
from pofx.tasks.impute import impute
from pofx.tasks.sample import sample
from pofx.training.fit import fit
from pofx.wrappers import adapted

TABLE = torch.tensor([[0.30, 0.05, 0.05], [0.05, 0.10, 0.15], [0.02, 0.08, 0.20]]).double()  # p(a, b)


class Table(Model):
    """Two categories with a known joint table: only a cursor, b before a, so that conditioning on a needs particles."""

    card = Gaussian.card

    def _build(self):
        self.likelihood = Likelihood(Space((1,), (Variable("k", "category", 3),)))

    def _steps(self, rows, given):
        return Walk(self, rows)


class Walk(Cursor):
    order = [1, 0]

    def __init__(self, model, rows):
        self.model, self.rows, self.b = model, rows, None

    def start(self):
        return Predictive(self.model.likelihood, TABLE.sum(0).log().expand(self.rows, -1))

    def next(self, x_i):
        if self.b is not None:
            return None
        self.b = x_i.long()
        return Predictive(self.model.likelihood, TABLE.T[self.b].log())

    def reorder(self, rows):
        self.b = None if self.b is None else self.b[rows]


def table() -> Table:
    model = Table()
    k = Variable("k", "category", 3)
    model.build(Space((2,), (k, k)))
    return model


@pytest.mark.parametrize("hidden", [0, 1])
def test_particles_draw_the_conditional(hidden):
    x = torch.tensor([[2.0, 0.0]]).double() if hidden else torch.tensor([[0.0, 0.0]]).double()
    want = TABLE[2] / TABLE[2].sum() if hidden else TABLE[:, 0] / TABLE[:, 0].sum()
    observed = torch.tensor([[True, False]]) if hidden else torch.tensor([[False, True]])
    rows, seen = x.expand(1500, -1), observed.expand(1500, -1)
    done = impute(table(), rows, observed=seen, rng=0, route="particles").raw[0]
    assert (done[seen] == rows[seen]).all()
    share = torch.bincount(done[:, hidden].long(), minlength=3) / 1500
    # sixteen particles: a bias of the order of 1/16 of the spread of the weights is their nature
    assert ((share - want) / (want * (1 - want) / 1500).sqrt()).abs().max() < (8 if hidden == 1 else 5)


def test_every_task_says_its_question_and_has_routes_that_can_be_taken():
    for name, module in TASKS.items():
        task = importlib.import_module(module)
        assert task.QUESTION.endswith("?"), name
        routes = getattr(task, "ROUTES", ())
        assert all(r.needs <= set(HOOKS) and r.words.endswith(".") for r in routes)
        names = [r.name for r in routes]
        assert len(set(names)) == len(names)
        for r in routes:
            assert first_route(routes, r.needs) is not None


def test_a_refusal_names_what_is_missing():
    with pytest.raises(Unsupported, match="log prob needs log_prob"):
        density(table(), torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match="no route is called"):
        density(gaussian(), torch.zeros(1, 2).double(), route="magic")
    with pytest.raises(Unsupported, match="nearest needs sample"):
        impute(table(), torch.zeros(1, 2).double(), observed=torch.zeros(1, 2, dtype=torch.bool), route="nearest")


def gaussian(given=None) -> Gaussian:
    model = Gaussian()
    model.build(real(2).replace(dtype="float64"), given)
    return model


def test_rows_are_read_and_refused():
    model = gaussian()
    x, observed = rows_of(model, torch.tensor([1.0, math.nan]).double())
    assert x.tolist() == [[1.0, 0.0]]
    assert observed.tolist() == [[True, False]]
    for bad in (torch.zeros(3), torch.zeros(2, 3), torch.tensor([[math.inf, 0.0]])):
        with pytest.raises(ValueError, match="expected"):
            rows_of(model, bad)


def test_no_rows_are_refused_however_they_come():
    model, none = gaussian(), torch.zeros(0, 2).double()
    data = Data(none, model.space, split={"test": torch.arange(0)})
    for rows in (none, none.numpy(), [], (), Batch(none), data, data.part("test")):
        with pytest.raises(ValueError, match="got no rows; expected at least one"):
            rows_of(model, rows)
    with pytest.raises(ValueError, match="got no past; expected at least one"):
        rows_of(model, none, "past")
    fitted = fit(open_data(frame()), "gaussian", progress=False)
    for ask in (density, anomaly, impute):
        for rows in (frame()[:0], frame()[:0].to_dict("list"), none.new_zeros(0, 3)):
            with pytest.raises(ValueError, match="got no rows; expected at least one"):
                ask(fitted, rows)
    with pytest.raises(ValueError, match="expected"):
        rows_of(model, torch.zeros(0, 3))


def test_data_of_another_file_is_read_by_its_values():
    """The codes of words depend on which of them a file holds, and so do those of classes; columns have names."""
    label = {"label": category(3, values=(1, 2, 3)), "free": real()}
    model = fit(open_data(frame()), "gaussian", progress=False).core.build(open_data(frame()).space, label)
    rows = frame(40).sort_values("word").tail(15)[["b", "word", "a"]].reset_index(drop=True)
    rows.loc[2, "a"] = np.nan
    given = {"label": torch.tensor([1.0, 0.0, 1.0] * 5), "free": torch.arange(15.0)}
    spaces = {"label": Space((), (Variable("label", "ordinal", 2, (1.0, 3.0)),)), "free": real()}
    data = open_data(rows, test=5, valid=0).with_given({k: (given[k], spaces[k]) for k in given})
    assert data.space.variable(1).levels == 1
    found = recoded(model, data)
    want = rows_of(model, rows)
    assert torch.equal(found.x, want[0]) and torch.equal(found.observed, want[1])
    assert found.given["label"].tolist() == [2, 0, 2] * 5 and found.given["free"] is given["free"]
    some = recoded(model, data, "test")
    assert torch.equal(some.x, found.x[data.split["test"]]) and torch.equal(rows_of(model, data)[0], want[0])
    numbers = {"label": (torch.tensor([1.0, 2.0, 3.0] * 5), real())}  # a class that was read as a number
    assert recoded(model, data.without_given().with_given(numbers)).given["label"].tolist() == [0, 1, 2] * 5
    own = Data(want[0], model.space, {"label": torch.tensor([0] * 15)}, {"label": model.given["label"]})
    same = recoded(model, own)
    assert same.x is own.x and same.given["label"] is own.given["label"]
    with pytest.raises(ValueError, match="'huge', which is unknown"):
        recoded(model, open_data(rows.assign(word="huge")))
    with pytest.raises(ValueError, match="no column"):
        recoded(model, open_data(rows.drop(columns="b")))


def test_givens_are_read_and_refused():
    model = gaussian({"label": category(3, values=("a", "b", "c"))})
    assert given_for(model, {"label": "b"}, 4)["label"].tolist() == [1] * 4
    assert given_for(model, {"label": ["c", "a"]}, 2)["label"].tolist() == [2, 0]
    for bad, words in [({"label": "z"}, "never seen"), ({"colour": 1}, "unknown"), ({"label": ["a", "b"]}, "shape")]:
        with pytest.raises(ValueError, match=words):
            given_for(model, bad, 4)
    years = gaussian({"year": category(2, values=(1999, 2000))})
    told = [given_for(years, {"year": year}, 1)["year"].tolist() for year in (2000, 2000.0, np.float32(2000), "2000")]
    assert told == [[1]] * 4, "a column of whole numbers with gaps holds floats"


def test_every_route_listens_to_its_given():
    model = gaussian({"label": category(2)})
    model.slope[1] = 30.0
    x = torch.tensor([[30.0, math.nan], [0.0, math.nan]]).double()
    label = {"label": torch.tensor([1, 0])}
    for route in ("condition", "guidance", "langevin", "nearest"):
        done = impute(model, x, label, draws=20, rng=0, route=route).raw[..., 1].mean(0)
        assert float(done[0]) == pytest.approx(30, abs=1.5), route
        assert float(done[1]) == pytest.approx(0, abs=1.5), route
    whole = torch.tensor([[30.0, 30.0], [0.0, 0.0]]).double()
    for route in ("log prob", "denoising", "distance"):
        right = anomaly(model, whole, given=label, route=route).value
        wrong = anomaly(model, whole, given={"label": torch.tensor([0, 1])}, route=route).value
        assert (right < wrong).all(), route
    for route in ("sampler", "probability flow"):
        drawn = sample(model, 200, {"label": 1}, rng=0, route=route).raw
        assert ((drawn.mean(0) - 30).abs() < 0.5).all(), route
    for route in ("log prob", "probability flow"):
        assert (density(model, whole, label, route=route).value > -4).all(), route


def test_pools_are_drawn_once_for_each_given():
    model = gaussian({"label": category(2)})
    pools = Pools(model, {"label": torch.tensor([0, 1, 0])}, 10, Rng(0))
    assert pools.of(0)[0] is pools.of(2)[0]
    assert pools.of(0)[0] is not pools.of(1)[0]


def test_calibration_is_given_the_same():
    model = gaussian({"label": category(2)})
    model.slope[1] = 30.0
    label = torch.arange(100) % 2
    x = model.sample(1, {"label": label}, 0)[0]
    data = Data(x, model.space, {"label": label}, dict(model.given), split={"valid": torch.arange(100)})
    p = anomaly(model, torch.tensor([[30.0, 30.0]]).double(), data, {"label": 1}).diagnostics["p"]
    assert float(torch.as_tensor(p)) > 0.5
    p = anomaly(model, torch.tensor([[30.0, 30.0]]).double(), data, {"label": 0}).diagnostics["p"]
    assert float(torch.as_tensor(p)) == pytest.approx(1 / 101)
    with pytest.raises(ValueError, match="calibration"):
        anomaly(model, x, x, {"label": label})


def test_bits_per_dim_needs_a_bin():
    bits = bits_per_dim(torch.tensor([-4 * math.log(2)]), Space((4,), (Variable("k", "binary", 2),)))
    assert float(bits) == pytest.approx(1.0)
    with pytest.raises(Unsupported, match="bin"):
        bits_per_dim(torch.zeros(1), real(2))


def frame(n=300):
    rng = np.random.default_rng(0)
    a = rng.normal(50, 10, n).round(1)
    word = np.where(a + rng.normal(0, 3, n) > 50, "high", "low")
    return pd.DataFrame({"a": a, "word": word, "b": (a / 2 + rng.normal(0, 1, n)).round(2)})


def test_frames_come_back_as_frames_with_what_was_known_untouched():
    rows = frame()
    model = fit(open_data(rows), "gaussian", progress=False)
    gaps = rows.head(20).copy()
    gaps.loc[3, "a"], gaps.loc[5, "word"], gaps.loc[7, "b"] = np.nan, None, np.nan
    found = impute(model, gaps, draws=2, rng=0)
    assert len(found.value) == 2
    for done in found.value:
        assert list(done.columns) == list(gaps.columns)
        assert not done.isna().any().any()
        known = gaps.notna()
        assert all((done[c][known[c]] == gaps[c][known[c]]).all() for c in gaps)
    assert not found.value[0].equals(found.value[1])
    drawn = sample(model, 5, rng=0).value
    assert isinstance(drawn, pd.DataFrame)
    assert set(drawn["word"]) <= {"high", "low"}
    whole = impute(model, rows.head(3), rng=0)
    assert whole.route == "nothing was missing"
    assert whole.quality is Quality.EXACT


def test_answers_explain_themselves():
    found = density(gaussian(), torch.zeros(3, 2).double())
    assert "exact" in found.explain()
    assert "density" in found.explain()
    assert found._repr_html_()


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        sample(gaussian(), 0)
    with pytest.raises(ValueError, match="at least 1"):
        impute(gaussian(), torch.zeros(1, 2).double(), draws=0)
    at_least_one("some", draws=1, rows=2)
    with pytest.raises(ValueError, match="some: got rows = 0, expected at least 1"):
        at_least_one("some", draws=1, rows=0)
    with pytest.raises(ValueError, match="observed has shape"):
        impute(gaussian(), torch.zeros(1, 2).double(), observed=torch.ones(2, 2, dtype=torch.bool))


class Coin(Model):
    """z ~ N(0, 1), two bits with p(1 | z) = sigmoid(3 z); its encoder is wrong on purpose."""

    card = Gaussian.card

    def _build(self):
        self.likelihood = Likelihood(self.space)

    def _sample(self, count, given, rng):
        return self._decode(rng.normal((count, 1)), given).sample(rng)

    def _encode(self, x, given):
        middle = torch.full((len(x), 1), 0.5)
        return torch.distributions.Independent(torch.distributions.Normal(middle, 1.5), 1)

    def _decode(self, z, given):
        logits = torch.stack([torch.zeros_like(z), 3 * z], -1).expand(-1, 2, -1)
        return Predictive(self.likelihood, logits.flatten(1))


def test_gibbs_draws_the_conditional_whatever_the_encoder():
    model = Coin()
    model.build(Space((2,), (Variable("bit", "binary", 2),)))
    z = torch.linspace(-8, 8, 4001).double()
    prior, p = torch.exp(-0.5 * z**2), torch.sigmoid(3 * z)
    want = float((prior * p * p).sum() / (prior * p).sum())
    x = torch.tensor([[1.0, 0.0]]).double()
    done = impute(model, x, observed=torch.tensor([[True, False]]), draws=3000, rng=0, route="gibbs").raw[:, 0, 1]
    assert abs(float(done.mean()) - want) < 5 * (want * (1 - want) / 3000) ** 0.5


def test_chunks_of_different_quality_make_the_weaker_one():
    zeros = torch.zeros(3, dtype=torch.float64)
    exact, estimate = Value(zeros), Value(zeros, Quality.ESTIMATE, zeros + 0.5)
    for parts in ([exact, estimate], [estimate, exact]):
        answer = answer_of(Gaussian().build(Space((2,), (Variable("a"), Variable("b")))), parts)
        assert answer.quality is Quality.ESTIMATE
        assert sorted(answer.stderr.tolist()) == [0.0] * 3 + [0.5] * 3


@pytest.mark.parametrize("name", ["gaussian", "energy", "diffusion"])
def test_draws_of_a_chain_or_a_solver_are_estimates(name):
    data = open_data("iris")
    model = adapted(family(name)(), data.space).build(data.space)
    if name == "gaussian":
        model.fit_closed(data, Rng(0))
    expected = Quality.EXACT if name == "gaussian" else Quality.ESTIMATE
    assert sample(model, 2, rng=0).quality is expected


@pytest.mark.parametrize("task", ["density", "anomaly", "contribute", "depend", "dimension", "impute", "restore"])
def test_no_answer_has_no_draws(task):
    model = pofx.fit(np.random.default_rng(0).normal(size=(50, 2)), "gaussian", seed=0, progress=False)
    x = np.zeros((2, 2))
    rows = {"depend": (), "restore": (x, lambda u: u, 1.0)}.get(task, (x,))
    for draws in (0, -1):
        with pytest.raises(ValueError, match=f"{task}: got draws = {draws}, expected at least 1"):
            getattr(pofx, task)(model, *rows, draws=draws)
