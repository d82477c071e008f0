"""The seams: a kind, a family and a task of one's own, each one file and one line, go all the way through."""

import json
import sys
import types

import numpy as np
import pytest
import torch

import pofx
from pofx import cli
from pofx.check import check_family
from pofx.kinds import KINDS
from pofx.kinds.base import Kind, Raw, Space, Variable
from pofx.reporting.coverage import coverage
from pofx.tasks import TASKS, base

FAMILY = '''
import torch
from pofx import Card, Model

class Counts(Model):
    """Every row of the training set, smoothed by a chance of one entry being anything."""
    card = Card(density="exact", sampling="fast", training="closed form", latents="none", architecture="table",
        branch=("explicit", "tractable"), incomplete="refuses", given=False, summary="a table", reference="none")

    def __init__(self, *, smoothing: float = 1.0):
        super().__init__()
        self.smoothing = smoothing

    def _build(self):
        widest = max(v.levels for v in self.space.variables)
        self.register_buffer("log_p", torch.zeros(self.space.size, widest).double())

    def _fit_closed(self, data, rng, report):
        x = data.part("train").x.flatten(1).long()
        counts = torch.nn.functional.one_hot(x, self.log_p.shape[1]).sum(0) + self.smoothing
        legal = torch.tensor([[k < self.space.variable(i).levels for k in range(counts.shape[1])]
                              for i in range(counts.shape[0])])
        self.log_p = torch.where(legal, counts, 0.0).double().log().log_softmax(-1)
        report({"step": 1, "loss": -float(self._log_prob(data.part("train").x, {}, None, 1, rng).mean())})

    def _log_prob(self, x, given, observed, draws, rng):
        entries = self.log_p.gather(1, x.flatten(1).long().T).T
        return (entries if observed is None else entries * observed.flatten(1)).sum(1)

    def _sample(self, count, given, rng):
        x = rng.categorical(self.log_p.expand(count, *self.log_p.shape))
        return x.reshape(count, *self.space.shape).to(self.space.torch_dtype)
'''


class Dice(Kind):
    """Strings of the digits 1 to 6, such as "616"."""

    name = "dice"

    def reads(self, source):
        return isinstance(source, list) and bool(source) and isinstance(source[0], str)

    def read(self, source, given=()):
        space = Space(
            (len(source[0]),), (Variable("die", "ordinal", 6, (1, 2, 3, 4, 5, 6), mean=2.5, scale=1.7),), kind="dice"
        )
        return Raw(self.encode(source, space)[0], space)

    def encode(self, rows, space):
        x = torch.tensor([[int(c) - 1 for c in row] for row in rows]).double()
        return x, torch.ones_like(x, dtype=torch.bool)

    def restore(self, x, space):
        return ["".join(str(int(k) + 1) for k in row) for row in x]

    def draw(self, axes, x, space):
        axes.hist(x.flatten())


def surprise(model, x, *, rng=0, route=None):
    """How surprising is each row, in bits?"""
    rows, _ = base.rows_of(model, x)
    return base.solve("surprise", ROUTES, model, route, x=rows)


def by_log_prob(model, x):
    """-log2 p(x)."""
    found = model.log_prob(x)
    return base.Answer(-found.value / np.log(2), "bits", -found.quality)


ROUTES = (base.route(by_log_prob, "log_prob"),)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A kind, a task and a family of one's own, each made known by one line."""
    monkeypatch.setitem(KINDS, "dice", Dice())
    module = types.ModuleType("own_task")
    module.surprise, module.ROUTES, module.QUESTION, module.UNIT = surprise, ROUTES, "How surprising?", "bits"
    monkeypatch.setitem(sys.modules, "own_task", module)
    monkeypatch.setitem(TASKS, "surprise", "own_task")
    (tmp_path / "counts.py").write_text(FAMILY)
    return f"{tmp_path}/counts.py:Counts"


def throws(n=300):
    """Loaded dice: the second repeats the first three times of four."""
    rng = np.random.default_rng(0)
    first = rng.integers(1, 7, n)
    second = np.where(rng.random(n) < 0.75, first, rng.integers(1, 7, n))
    return [f"{a}{b}" for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("family", ["own", "mixture", "autoregressive", "flow"])
def test_an_own_kind_goes_through_fit_and_every_task(own, family):
    model = pofx.fit(throws(), own if family == "own" else family, budget="20 steps", threads=1, progress=False)
    drawn = pofx.sample(model, 5, rng=0).value
    assert all(isinstance(t, str) and len(t) == 2 and set(t) <= set("123456") for t in drawn)
    assert bool(torch.isfinite(pofx.density(model, ["11", "16"], draws=2).value).all())
    assert surprise(model, ["11", "16"]).unit == "bits"
    gap = torch.tensor([[True, False]])
    full = pofx.impute(model, torch.tensor([[3.0, 0.0]]).double(), observed=gap, draws=3, rng=0)
    assert bool((full.raw[..., 0] == 3).all())
    assert len(pofx.anomaly(model, ["11", "16"]).value) == 2


def test_an_own_task_is_a_command_and_a_column_of_coverage(own, tmp_path, capsys):
    assert {c.route for c in coverage() if c.task == "surprise" and c.family == "gaussian"} == {"log prob"}
    assert {c.route for c in coverage() if c.task == "surprise" and c.family == "gan"} == {None}
    pofx.fit("iris", "gaussian", folder=tmp_path / "run", progress=False)
    sys.argv = ["pofx", "ask", "surprise", str(tmp_path / "run"), "iris", "--json"]
    cli.main()
    words = json.loads(capsys.readouterr().out)
    assert words["unit"] == "bits"
    assert len(words["value"]) == 150


def test_an_own_family_keeps_its_promises_and_loads(own, tmp_path):
    from pofx.families import family

    counts = family(own)
    reports = check_family(counts, toys=("pictures",))
    assert all(r.ok for r in reports.values()), "\n".join(r.explain() for r in reports.values())
    pofx.fit(throws(), counts(smoothing=2.0), folder=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="families="):
        pofx.load(tmp_path / "run")
    again = pofx.load(tmp_path / "run", families=[counts])
    assert again.smoothing == 2.0
