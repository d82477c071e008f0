"""Worth: the law answers its own questions best, columns by themselves answer none, and every question is asked."""

import json
import math

import pytest
import torch

import pofx.check.worth
from pofx.check.worlds import WORLDS, world
from pofx.check.worth import QUESTIONS, Worth, _worth, bounds, measured, worth
from pofx.data import Data
from pofx.families.mixture import Mixture
from pofx.randomness import Rng
from pofx.tasks import TASKS

ASKED = [q for q in QUESTIONS if q.world in ("vectors", "pictures")]


def test_every_task_is_scored_somewhere():
    assert {q.task for q in QUESTIONS} == set(TASKS)
    assert {q.world for q in QUESTIONS} == set(WORLDS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.task}-{q.world}")
def test_there_is_something_to_know(question):
    nothing, law = bounds(question)
    assert law > nothing + 0.1 * abs(nothing), (nothing, law)


@pytest.mark.parametrize("name", list(WORLDS))
def test_rows_are_of_the_law(name):
    """The mean of log p over rows is that over fresh draws of the law, and columns by themselves say less."""
    w = world(name)
    test = w.data.part("test")
    given = {k: v for k, v in test.given.items() if k != "label"}
    own = w.law.log_prob(test.x, given).value
    if name != "moves":
        fresh = w.law.log_prob(w.law.sample(500, None, 3)).value
        error = math.sqrt(float(own.var() / len(own) + fresh.var() / len(fresh)))
        assert abs(float(own.mean() - fresh.mean())) < 5 * error
    assert float(own.mean()) > float(w.nothing.log_prob(test.x).value.mean())


LEAN = [q for q in ASKED if q.task in ("density", "impute", "anomaly", "contribute")]


@pytest.mark.parametrize("question", LEAN, ids=lambda q: f"{q.task}-{q.world}")
def test_columns_by_themselves_do_not_count(question):
    w = world(question.world)
    assert not _worth("independent", question, w.nothing).counts


@pytest.mark.parametrize("question", [q for q in LEAN if q.task != "anomaly"], ids=lambda q: f"{q.task}-{q.world}")
def test_what_learnt_from_torn_rows_counts_less_than_the_law(question):
    """The first half of every row beside the second half of another."""
    w = world(question.world)
    flat, half = w.data.x.flatten(1), w.law.space.size // 2
    torn = torch.cat([flat[:, :half], flat[Rng(0).permutation(len(flat)), half:]], 1).reshape(w.data.x.shape)
    wrong = Mixture(components=4).build(w.law.space, {})
    wrong.fit_closed(Data(torn, w.law.space, split=w.data.split), Rng(0))
    shares = [_worth("", question, m).share for m in (wrong.eval(), w.law)]
    assert shares[0] < shares[1] - 0.1


def test_a_cell_says_what_it_found():
    cell = Worth("f", "density", "vectors", -4.0, -5.0, -3.0, "nats")
    assert cell.share == 0.5 and cell.counts
    assert str(cell) == "-4 nats in the world of vectors (no model -5, the law -3)"
    none = Worth("f", "density", "", words="it has no density")
    assert not none.counts and str(none) == "it has no density"


def test_measuring_goes_on_where_it_stopped(tmp_path, monkeypatch):
    asked = []

    def cells(name, budget):
        asked.append(name)
        yield Worth(name, "density", "vectors", -4.0, -5.0, -3.0, "nats")
        yield Worth(name, "sample", "", words="it cannot draw")

    monkeypatch.setattr(pofx.check.worth, "worth", cells)
    path, lines = tmp_path / "worth.json", []
    first = measured(["kde"], "1 steps", path, lines.append)
    both = measured(["kde", "flow"], "1 steps", path, lines.append)
    assert asked == ["kde", "flow"] and len(lines) == 4
    assert first == both[:2] == json.loads(path.read_text())[:2]
    assert [c["counts"] for c in first] == [True, False] and first[1]["score"] is None


@pytest.mark.slow
def test_a_family_of_ones_own_is_asked_everything():
    found = {c.task: c for c in worth(Mixture, "5 cpu s")}
    assert set(found) == set(TASKS)
    assert sum(c.counts for c in found.values()) >= 16, [str(c) for c in found.values() if not c.counts]
