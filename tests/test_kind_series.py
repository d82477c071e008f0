"""Series: what is read comes back, parts share no step, lengths are part of x; errors say where."""

import gzip

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.data import Data, open_data
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.metrics.scores import crps_values
from pofx.metrics.series import coverage_of_draws, crps_normal, discriminative_score, pinball

matplotlib.use("Agg")

SERIES = KINDS["series"]
TS = "@classLabel true a b\n@data\n1,2,3:4,5,6:a\n1,?,3:4,5,6:b\n7,8,9:1,2,3:a\n"


def walk(steps=400, channels=2, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, channels)).cumsum(0)


def frame(steps=400, seed=0):
    x = walk(steps, seed=seed)
    return pd.DataFrame(x, columns=["a", "b"], index=pd.date_range("2024-01-31 22:00", periods=steps, freq="h"))


def read(source, **options):
    return open_data(source, kind="series", options=options, test=0.2, valid=0.1)


# --- what is read comes back


def test_windows_are_those_of_the_series_and_parts_share_no_step():
    x = walk()
    raw = SERIES.read(x, length=12, stride=5)
    for window, start in zip(raw.x.numpy(), raw.start.tolist(), strict=True):
        np.testing.assert_array_equal(window, x[start : start + 12])
    data = read(x, length=12, stride=5)
    ends = {part: (raw.start[rows].min(), raw.start[rows].max() + 12) for part, rows in data.split.items()}
    assert ends["train"][1] <= ends["valid"][0] and ends["valid"][1] <= ends["test"][0]
    assert Space.from_json(data.space.to_json()) == data.space


def test_types_come_back_as_they_went_in():
    x, f = walk(), frame()
    assert read(x, length=8).restore(torch.zeros(3, 8, 2)).shape == (3, 8, 2)
    assert read(x[:, 0], length=8).restore(torch.zeros(3, 8, 1)).shape == (3, 8)
    back = open_data(f, options={"length": 8}).restore(torch.zeros(3, 8, 2))
    assert len(back) == 3 and list(back[0].columns) == ["a", "b"] and len(back[0]) == 8
    assert open_data(walk(60).reshape(20, 3, 2)).space.shape == (3, 2)


def test_a_csv_and_a_parquet_file_are_read_with_their_time(tmp_path):
    f = frame().rename_axis("time").reset_index()
    f.to_csv(tmp_path / "a.csv", index=False)
    f.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        data = open_data(tmp_path / name, kind="series", given="hour", options={"length": 8})
        assert data.given["hour"][:4].tolist() == [22, 23, 0, 1]
        assert data.space.meta["channels"] == ["a", "b"]
    raw = SERIES.read(frame(), given=("weekday", "month", "day"), length=8)
    assert raw.given["weekday"][:3].tolist() == [2, 2, 3] and raw.given["month"][:3].tolist() == [0, 0, 1]
    assert raw.given["day"][:3].tolist() == [30, 30, 0]


def test_a_ts_file_gives_its_labels(tmp_path):
    (tmp_path / "a.ts.gz").write_bytes(gzip.compress(TS.encode()))
    data = open_data(tmp_path / "a.ts.gz", given="label", test=0, valid=0)
    assert data.x.shape == (3, 3, 2) and data.given["label"].tolist() == [0, 1, 0]
    assert data.observed is not None and not bool(data.observed[1, 1, 0]) and int((~data.observed).sum()) == 1
    np.testing.assert_array_equal(data.x[2].numpy(), [[7, 1], [8, 2], [9, 3]])


def test_observed_steps_come_back_bit_identical_and_gaps_are_filled():
    f = frame()
    model = pofx.fit(open_data(f, options={"length": 10}), "gaussian", progress=False)
    gaps = f.copy()
    gaps.iloc[[0, 17, 399], 0] = np.nan
    gaps.iloc[200:205] = np.nan
    done = pofx.impute(model, gaps, rng=0).value[0]
    known = gaps.notna().to_numpy()
    assert done.index.equals(f.index) and not done.isna().any().any()
    assert (done.to_numpy()[known] == f.to_numpy()[known]).all()
    short = walk(6)
    short[2] = np.nan
    array = pofx.impute(model, short, rng=0).value[0]
    assert array.shape == (6, 2) and np.isfinite(array).all()
    assert (array[[0, 1, 3, 4, 5]] == short[[0, 1, 3, 4, 5]]).all()
    both = pofx.impute(model, [gaps, gaps.iloc[:30]], rng=0).value[0]
    assert isinstance(both, list) and len(both[1]) == 30


def test_filled_steps_stand_where_the_gaps_are():
    """A series whose value is its own time, so that a step put in the wrong place would show."""
    x = np.arange(200.0)
    data = read(x, length=9)
    model = pofx.fit(data, "gaussian", progress=False, hyper_parameters={"shrinkage": 1e-9})
    for gap in (0, 4, 95, 199):
        holed = x.copy()
        holed[gap] = np.nan
        assert pofx.impute(model, holed, rng=0).value[0][gap] == pytest.approx(x[gap], abs=0.5)


def test_missing_values_are_learnt_around():
    x = walk(3000, 1, seed=3)
    x = np.diff(x, axis=0)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    data = read(x + 5, length=4)
    model = pofx.fit(data, "gaussian", progress=False)
    assert float(pofx.sample(model, 4000, rng=0).raw.mean()) == pytest.approx(5, abs=0.1)
    assert any("20" in n and "missing" in n for n in data.notes)


# --- length is part of x


def test_lengths_come_back_and_their_probabilities_sum_to_one():
    generator = np.random.default_rng(0)
    lengths = generator.choice([2, 3, 5], 600, p=[0.5, 0.3, 0.2])
    many = [generator.standard_normal((n, 2)) + n for n in lengths]
    data = open_data(many, test=0, valid=0.1)
    assert data.space.meta["alive"] and [len(r) for r in data.restore(data.x)] == lengths.tolist()
    x, observed = SERIES.encode(many, data.space)
    assert torch.equal(x, data.x) and torch.equal(observed, data.observed)
    model = pofx.fit(data, "mixture", progress=False, hyper_parameters={"components": 6, "smoothing": 0.1})
    alive = torch.zeros(6, 5, 3, dtype=torch.float64)
    seen = torch.zeros(6, 5, 3, dtype=torch.bool)
    seen[..., 2] = True
    for n in range(6):
        alive[n, :n, 2] = 1
    p = model.log_prob(alive, observed=seen).value.exp()
    assert float(p.sum()) == pytest.approx(1, abs=0.02)
    assert p[[2, 3, 5]].tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.06)
    drawn = [len(r) for r in pofx.sample(model, 500, rng=0).value]
    assert np.mean([n == 2 for n in drawn]) == pytest.approx(0.5, abs=0.1)


# --- measures against closed forms


def test_crps_of_a_normal_is_that_of_many_draws():
    generator = np.random.default_rng(0)
    draws = 2 + 3 * generator.standard_normal((200_000, 1))
    assert crps_normal([2.0], [3.0], [4.0])[0] == pytest.approx(float(crps_values(draws, np.array([4.0]))[0]), rel=0.01)
    levels = (np.arange(4000) + 0.5) / 4000
    from scipy.stats import norm

    integral = 2 * np.mean([pinball([2 + 3 * norm.ppf(q)], [4.0], q)[0] for q in levels])
    assert integral == pytest.approx(float(crps_normal([2.0], [3.0], [4.0])[0]), rel=1e-3)
    with pytest.raises(ValueError, match="scale of 0"):
        crps_normal([0.0], [0.0], [1.0])


def test_coverage_of_true_draws_is_nominal():
    generator = np.random.default_rng(0)
    found = coverage_of_draws(generator.standard_normal((2000, 3000)), generator.standard_normal(3000), 0.8)
    assert found.value == pytest.approx(0.8, abs=0.04)


def test_the_discriminative_score_tells_unlike_windows_only():
    generator = np.random.default_rng(0)
    real, like, unlike = (generator.standard_normal((400, 8, 2)) for _ in range(3))
    assert discriminative_score(real, like, 0, steps=150).value < 0.12
    assert discriminative_score(real, unlike.cumsum(1), 0, steps=300, hidden=8).value > 0.2
    with pytest.raises(ValueError, match="expected finite"):
        discriminative_score(real, like[:, :4])


# --- bad input


def test_bad_series_are_refused_in_words(tmp_path):
    def refused(match, source, **options):
        given = options.pop("given", None)
        with pytest.raises(ValueError, match=match):
            open_data(source, kind="series", given=given, options=options)

    inf = walk(40)
    inf[7, 1] = np.inf
    back = frame().iloc[::-1]
    words = frame().assign(b="x")
    refused("inf at step 7, channel 1", inf)
    refused("needs as many", walk(20), length=30)
    refused("expected at least 1", walk(200), length=0)
    refused("goes back", back)
    refused("columns of numbers", words, channels=["a", "b"])
    refused("columns of numbers", words, channels=["c"])
    refused("has the columns", frame(), time="when")
    refused("never observed", np.stack([np.full(60, np.nan), np.arange(60)], 1), length=8)
    refused("do not say when", walk(), given="hour", length=8)
    refused("expected 'past'", frame(), given="moon", length=8)
    refused("needs ahead=", frame(), given="past", length=8)
    refused("expected 1 to 7", frame(), ahead=8, length=8)
    refused("none of them 0", np.zeros((0, 2)))
    refused("expected an array", {"a": 1})
    refused("expected the same channels", [walk(9), walk(9, 3)])
    refused("all overlap", walk(60), length=50)
    for name, content, match in (
        ("no.ts", "1,2,3", "no line @data"),
        ("empty.ts", "@data\n", "holds no series"),
        ("word.ts", TS + "1,x,3:4,5,6:a\n", "line 6"),
        ("ragged.ts", TS + "1,2:4,5,6:a\n", "as many in each"),
        ("mixed.ts", TS + "1,2,3:a\n", "unequal numbers of channels"),
        ("empty.csv", "", "is empty"),
    ):
        (tmp_path / name).write_text(content)
        refused(match, tmp_path / name)
    (tmp_path / "cut.ts.gz").write_bytes(gzip.compress(TS.encode())[:-6])
    refused("damaged", tmp_path / "cut.ts.gz")


def test_rows_that_do_not_fit_are_refused():
    model = pofx.fit(read(walk(), length=8), "gaussian", progress=False)
    with pytest.raises(ValueError, match="has 3 channels; the model knows 2"):
        pofx.density(model, walk(20, 3))
    with pytest.raises(ValueError, match="expected 1 to 7"):
        pofx.forecast(model, walk(20), ahead=8)
    with pytest.raises(ValueError, match="quantiles"):
        pofx.forecast(model, walk(20), quantiles=(1.5,))
    with pytest.raises(ValueError, match="columns of numbers"):
        pofx.density(pofx.fit(open_data(frame(), options={"length": 8}), "gaussian", progress=False), frame()[["a"]])


def test_a_constant_channel_and_one_step_windows_are_fine():
    x = np.stack([np.full(300, 7.0), walk(300, 1)[:, 0]], 1)
    data = read(x, length=5)
    assert any("different values" in n for n in data.notes)
    model = pofx.fit(data, "gaussian", progress=False)
    assert np.isfinite(pofx.sample(model, 5, rng=0).value).all()
    assert read(x, length=1).x.shape == (300, 1, 2)


def test_an_anomaly_stands_out():
    generator = np.random.default_rng(0)
    x = np.sin(np.arange(3000) / 5)[:, None] + 0.1 * generator.standard_normal((3000, 1))
    data = read(x, length=20, stride=3)
    model = pofx.fit(data, "gaussian", progress=False)
    odd = x[2900:2920].copy()[None]
    odd[0, 10] += 1.5
    found = pofx.anomaly(model, np.concatenate([odd, x[2900:2920][None]]), data)
    p = found.diagnostics["p"]
    assert p[0] < 0.02 < p[1]


def test_draws_itself():
    from matplotlib.figure import Figure

    data = read(walk(), length=8)
    axes = Figure().add_subplot()
    SERIES.draw(axes, data.x[:3], data.space)
    assert len(axes.child_axes) == 2


# --- real series


def test_real_files_are_read(data_dir):
    ett = open_data(data_dir / "series/ett/ETTh1.csv.gz", kind="series", given="hour", options={"length": 48})
    assert ett.x.shape == (17373, 48, 7) and ett.space.meta["channels"][-1] == "OT"
    rates = open_data(data_dir / "series/exchange_rate/exchange_rate.txt.gz", kind="series", options={"length": 30})
    assert rates.x.shape[1:] == (30, 8)
    motions = open_data(data_dir / "series/uea_ucr/BasicMotions_TRAIN.ts.gz", given="label")
    assert motions.x.shape == (40, 100, 6) and isinstance(motions, Data)
