"""Compression: rows come back to the last bit, in a length that the model's own log p foretells."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.engines.coder import Reader, Writer
from pofx.kinds.base import Space, Variable, category
from pofx.kinds.likelihood import Likelihood
from pofx.model import Card, Cursor, Model, Predictive, Unsupported, Value
from pofx.tasks.coding import BASE, Digits
from pofx.tasks.container import HEAD, opened

COLUMNS = (
    Variable("three", "category", 3),
    Variable("level", "ordinal", 17, mean=8.0, scale=5.0),
    Variable("count", "ordinal", 30_000, mean=9000.0, scale=3000.0),
    Variable("price", "real", mean=3.0, scale=2.0, resolution=0.1),
    Variable("weight", "real", mean=-40.0, scale=7.0, resolution=0.001),
)
MIXED = Space((5,), COLUMNS)


class Product(Model):
    """Independent entries with fixed parameters, moved by a given: the smallest model with steps."""

    card = Card("exact", "fast", "none", "none", "none", ("explicit", "tractable"), "none", "a product", "here")

    def _build(self):
        self.likelihood = Likelihood(self.space, 3)
        self.register_buffer("params", torch.randn(sum(self.likelihood.widths())))

    def row(self, rows, given):
        move = given["c"].double().reshape(-1, 1) if "c" in given else torch.zeros(rows, 1, dtype=torch.float64)
        return self.params.double() + 0.3 * move

    def _log_prob(self, x, given, observed, draws, rng):
        log_p = self.likelihood.log_prob(self.likelihood.from_entries(self.row(len(x), given)), x)
        return Value(log_p.sum(1) if observed is None else torch.where(observed, log_p, 0.0).sum(1))

    def _sample(self, count, given, rng):
        return self.likelihood.sample(self.likelihood.from_entries(self.row(count, given)).expand(count, -1), rng)

    def _steps(self, rows, given):
        return Walk(self, self.row(rows, given))


class Walk(Cursor):
    """A cursor in another order than the columns stand."""

    def __init__(self, model, params):
        self.model, self.order, self.t = model, [3, 0, 4, 2, 1], 0
        self.parts = params.split(model.likelihood.widths(), 1)

    def start(self):
        entry = self.order[self.t]
        return Predictive(Likelihood(self.model.space.sub([entry]), 3), self.parts[entry])

    def next(self, x_i):
        self.t += 1
        return self.start() if self.t < 5 else None

    def reorder(self, rows):
        self.parts = [p[rows] for p in self.parts]


@pytest.fixture(scope="module")
def model():
    return Product().build(MIXED, {"c": category(4, "c")}, seed=3)


def on_grid(x):
    """Draws as a table holds them: 5.6, not 5.6000000000000005."""
    x[:, 3], x[:, 4] = (x[:, 3] * 10).round() / 10, (x[:, 4] * 1000).round() / 1000
    return x + 0.0


@pytest.mark.parametrize("rows, chunk", [(1, 256), (7, 3), (600, 256)])
def test_rows_come_back_and_the_length_is_log_p(model, rows, chunk):
    x = on_grid(model.sample(rows, rng=0))
    answer = pofx.compress(model, x, chunk=chunk)
    assert torch.equal(torch.as_tensor(pofx.decompress(model, answer.value)), x)
    bits, ideal = 8 * (len(answer.value) - HEAD.size - 4), -float(model.log_prob(x).value.sum()) / math.log(2)
    assert bits <= ideal * 1.005 + 96
    assert bits >= ideal * 0.995 - 1


def test_givens_shorten_the_file_and_the_wrong_one_is_refused(model):
    c = torch.arange(200) % 4
    x = model.sample(1, {"c": c}, rng=0)[0]
    told = pofx.compress(model, x, given={"c": c})
    assert torch.equal(torch.as_tensor(pofx.decompress(model, told.value, {"c": c})), x)
    with pytest.raises(ValueError, match="decompress"):
        pofx.decompress(model, told.value, {"c": (c + 1) % 4})


def test_gaps_cost_their_mask_and_come_back_as_gaps(model):
    x = model.sample(300, rng=1)
    x[::3, 3], x[5, :] = torch.nan, torch.nan
    answer = pofx.compress(model, x)
    back = torch.as_tensor(pofx.decompress(model, answer.value))
    assert torch.equal(back.isnan(), x.isnan()) and torch.equal(back.nan_to_num(), x.nan_to_num())
    assert len(answer.value) < len(pofx.compress(model, model.sample(300, rng=1)).value)


def test_numbers_far_outside_or_off_the_grid_are_escaped(model):
    x = model.sample(50, rng=2)
    x[3, 3], x[4, 4], x[5, 4], x[6, 3] = 1e12, -3.14159265358979, 1e-300, -0.0
    back = torch.as_tensor(pofx.decompress(model, pofx.compress(model, x).value))
    assert torch.equal(back, x) and torch.equal(back.signbit(), x.signbit())


def test_a_flipped_bit_a_cut_file_another_model_are_errors(model, tmp_path):
    content = pofx.compress(model, model.sample(40, rng=0), tmp_path / "rows.pofx").value
    assert (tmp_path / "rows.pofx").read_bytes() == content
    for place in range(0, len(content), 37):
        broken = bytearray(content)
        broken[place] ^= 16
        with pytest.raises(ValueError, match="decompress"):
            pofx.decompress(model, bytes(broken))
    with pytest.raises(ValueError, match="damaged"):
        pofx.decompress(model, content[:-9])
    with pytest.raises(ValueError, match="another model"):
        pofx.decompress(Product().build(MIXED, {"c": category(4, "c")}, seed=4), content)


def test_another_arithmetic_is_refused(model):
    content = pofx.compress(model, model.sample(40, rng=0)).value
    exact = model.row
    model.row = lambda rows, given: exact(rows, given) * (1 + 1e-6)
    try:
        with pytest.raises(ValueError, match="other probabilities"):
            pofx.decompress(model, content)
    finally:
        del model.row


def test_threads_do_not_matter(model):
    x, before = model.sample(64, rng=5), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        content = pofx.compress(model, x).value
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert torch.equal(torch.as_tensor(pofx.decompress(model, content)), x)
    finally:
        torch.set_num_threads(before)


def test_a_table_comes_back_as_a_table():
    frame = pd.DataFrame({
        "age": np.arange(80) % 23 + 17, "job": np.array(["a", "b", None, "c"] * 20, dtype=object),
        "pay": np.round(np.linspace(1.5, 99.5, 80), 1),
    })  # fmt: skip
    model = pofx.fit(frame, "autoregressive", budget="5 steps", seed=0)
    back = pofx.decompress(model, pofx.compress(model, frame).value)
    pd.testing.assert_frame_equal(back, frame)


def test_no_resolution_no_length():
    model = pofx.fit(np.random.default_rng(0).normal(size=(60, 2)), "autoregressive", budget="3 steps", seed=0)
    with pytest.raises(Unsupported, match="resolution"):
        pofx.compress(model, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no rows"):
        pofx.compress(model, torch.zeros(0, 2, dtype=torch.float64))
    with pytest.raises(Unsupported, match="steps"):
        pofx.compress(pofx.fit(np.ones((9, 2)) + np.arange(9)[:, None], "gaussian"), np.ones((1, 2)))


def test_digits_of_a_number():
    codec = Digits(0.1, -300, 2)
    n = np.array([-300, 0, 7, BASE**2 - 301])
    assert np.array_equal(codec.number(n), np.array([-30.0, 0.0, 0.7, (BASE**2 - 301) / 10]))


def test_a_digit_is_as_likely_as_its_number():
    """Coarse bins, which half a bin aside are others; fine ones hide that."""
    v = Variable("coarse", "real", mean=3.0, scale=2.0, resolution=4.0)
    p = Predictive(Likelihood(Space((1,), (v,)), 3), torch.randn(4, 9, generator=torch.Generator().manual_seed(0)))
    codec = Digits.of(v)
    assert codec.digits == 1
    x = torch.from_numpy(codec.number(np.arange(BASE) + codec.first)).reshape(-1, 1, 1)
    expected = p.likelihood.log_prob(p.params, x).exp()[..., 0].T
    assert expected.amax() > 0.3 and np.allclose(codec.table(p), expected, atol=1e-4)


def test_the_coder_needs_no_more_than_the_entropy():
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(9, 0.4), 5000).astype(np.float32)
    symbols = np.array([rng.choice(9, p=p / p.sum()) for p in table.astype(float)], np.int32)
    out = Writer()
    out.put(symbols, table)
    out.put_raw(np.array([0.1, -1e300]))
    source = Reader(out.words())
    assert np.array_equal(source.take(table), symbols)
    assert np.array_equal(source.take_raw(2, np.float64), [0.1, -1e300])
    assert source.exhausted
    assert abs(out.bits - out.ideal) < 64


def people(rows=40):
    return pd.DataFrame({
        "age": np.arange(rows) % 23 + 17, "pay": np.round(np.linspace(1.5, 99.5, rows), 1),
        "job": ["a", "b"] * (rows // 2),
    })  # fmt: skip


@pytest.fixture(scope="module")
def told():
    """A model of age and pay, given the job."""
    return pofx.fit(pofx.open_data(people(80), given="job"), "autoregressive", budget="5 steps", progress=False)


@pytest.mark.parametrize("form", ["frame", "dicts", "columns"])
def test_a_column_that_would_not_come_back_is_refused(told, form):
    frame = people().assign(extra=1.0, more="x")
    rows = {"frame": frame, "dicts": frame.to_dict("records"), "columns": frame.to_dict("list")}[form]
    with pytest.raises(ValueError, match="columns extra, more, which would not come back; drop them"):
        pofx.compress(told, rows, given={"job": frame["job"]})


def test_a_given_among_the_columns_must_be_told(told):
    frame = people()
    with pytest.raises(ValueError, match=r"job would not come back.*given=\{'job': \.\.\.\}"):
        pofx.compress(told, frame)
    answer = pofx.compress(told, frame, given={"job": frame["job"]})
    assert answer.diagnostics["not in the file"] == ["job"]
    with pytest.raises(ValueError, match="'job' of row 1 is 'b', but another value is told"):
        pofx.compress(told, frame, given={"job": "a"})
    back = pofx.decompress(told, answer.value, {"job": frame["job"]})
    pd.testing.assert_frame_equal(back, frame[["age", "pay"]])
    assert "not in the file" not in pofx.compress(told, frame[["age", "pay"]]).diagnostics


def test_columns_in_another_order_come_back_in_the_models(told):
    back = pofx.decompress(told, pofx.compress(told, people()[["pay", "age"]]).value)
    pd.testing.assert_frame_equal(back, people()[["age", "pay"]])


def test_the_file_says_what_it_was_given(told, tmp_path):
    frame = people()
    content = pofx.compress(told, frame, given={"job": frame["job"]}).value
    assert opened(content, told).head.given == ("job",)
    with pytest.raises(ValueError, match=r"written given job; pass given=.*--given job=\.\.\."):
        pofx.decompress(told, content)
    alone = pofx.compress(told, frame[["age", "pay"]]).value
    assert opened(alone, told).head.given == () and HEAD.unpack(alone[: HEAD.size])[2] == 0
    with pytest.raises(ValueError, match="written given nothing; leave job out"):
        pofx.decompress(told, alone, {"job": "a"})
    gaps = frame.assign(pay=frame["pay"].where(frame["age"] != 20))
    told_gaps = pofx.compress(told, gaps, given={"job": gaps["job"]}).value
    pd.testing.assert_frame_equal(pofx.decompress(told, told_gaps, {"job": gaps["job"]}), gaps[["age", "pay"]])
    with pytest.raises(FileNotFoundError, match="there is no file .*none.pofx; expected one that compress wrote"):
        pofx.decompress(told, tmp_path / "none.pofx")


def test_a_series_comes_back_as_its_windows():
    frame = pd.DataFrame({"y": np.arange(60) % 7 / 10}, index=pd.date_range("2020", periods=60))
    data = pofx.open_data(frame, options={"length": 6, "resolution": 0.1})
    model = pofx.fit(data, "autoregressive", budget="3 steps", progress=False)
    back = pofx.decompress(model, pofx.compress(model, frame.iloc[:12]).value)
    assert [len(part) for part in back] == [6, 6]
    np.testing.assert_array_equal(pd.concat(back)["y"], frame["y"].iloc[:12])
    (back,) = pofx.decompress(model, pofx.compress(model, frame.iloc[:4]).value)
    np.testing.assert_array_equal(back["y"], [np.nan, np.nan, *frame["y"].iloc[:4]])
    with pytest.raises(ValueError, match="columns z, which would not come back"):
        pofx.compress(model, frame.assign(z=1.0))
