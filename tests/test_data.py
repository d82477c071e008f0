"""Data: splits, givens, what is known aside, files; and the real data sets that the kinds must read."""

import numpy as np
import pandas as pd
import pytest
import torch

from pofx.data import Data, given_of, open_data
from pofx.kinds.table import Table

ADULT = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip


# --- splits


@pytest.mark.parametrize("n", [3, 7, 100])
def test_parts_are_disjoint_and_cover_everything(n):
    data = open_data(np.random.default_rng(0).normal(size=(n, 2)))
    parts = [set(data.split[k].tolist()) for k in ("train", "valid", "test")]
    assert all(parts) and sum(map(len, parts)) == n and set.union(*parts) == set(range(n))
    assert torch.equal(data.part("test").x, data.x[data.split["test"]])


def test_a_split_is_a_function_of_its_seed():
    data = open_data("iris")
    assert torch.equal(data.splitted(seed=3).split["test"], data.splitted(seed=3).split["test"])
    assert not torch.equal(data.splitted(seed=3).split["test"], data.splitted(seed=4).split["test"])
    assert len(data.splitted(test=31, valid=0).split["test"]) == 31
    assert len(data.splitted(test=31, valid=0).split["valid"]) == 0


@pytest.mark.parametrize("test,valid", [(1.0, 0.1), (150, 0), (-1, 0), (100, 60)])
def test_splits_that_leave_nothing(test, valid):
    with pytest.raises(ValueError, match="leave no row"):
        open_data("iris").splitted(test, valid)


def test_unknown_part():
    with pytest.raises(ValueError, match="no part 'dev'"):
        open_data("iris").part("dev")


# --- givens


def test_a_label_is_aside_until_it_is_asked_for():
    data = open_data("digits")
    assert data.given == {} and data.aside["label"][0].shape == (1797,)
    asked = open_data("digits", given="label")
    assert torch.equal(asked.given["label"], data.aside["label"][0])
    assert torch.equal(asked.part("valid").given["label"], asked.given["label"][asked.split["valid"]])
    assert asked.without_given().given == {}
    assert torch.equal(open_data(data, given="label").given["label"], asked.given["label"])


def test_a_given_column_leaves_a_table():
    data = open_data("iris", given=["species"])
    assert data.space.shape == (4,) and data.given_spaces["species"].variables[0].levels == 3
    frame = pd.DataFrame({"a": range(20), "b": ["x", "y"] * 10})
    assert open_data(frame, given="b").space.shape == (1,)


def test_givens_from_a_mapping():
    c = np.random.default_rng(0).normal(size=(150, 3))
    data = open_data("iris", given={"c": c, "word": ["u", "v", "u"] * 50}, limit=90)
    assert data.given["c"].shape == (90, 3) and data.given_spaces["word"].variables[0].values == ("u", "v")
    rows = [i for i in range(150) if torch.tensor(c[i]).eq(data.given["c"]).all(1).any()]
    assert torch.equal(data.x, open_data("iris").x[rows])


BAD_GIVENS = {
    "rows": ({"c": np.zeros((149, 2))}, "got 149 rows, expected 150"),
    "unknown": ("colour", "names \\['colour'\\]; the table has the columns"),
    "nan": ({"c": np.full(150, np.nan)}, "holds NaN"),
}


@pytest.mark.parametrize("given,says", BAD_GIVENS.values(), ids=BAD_GIVENS)
def test_bad_givens_are_named(given, says):
    with pytest.raises(ValueError, match=says):
        open_data("iris", given=given)


def test_an_array_has_no_named_given():
    with pytest.raises(ValueError, match="no such given"):
        open_data(np.zeros((9, 2)), given="label")


def test_given_of_words_and_numbers():
    codes, space = given_of("c", ["b", "a", "b"])
    assert codes.tolist() == [1, 0, 1] and space.variables[0].values == ("a", "b")
    x, space = given_of("c", np.arange(6.0).reshape(3, 2))
    assert space.shape == (2,) and x.dtype == torch.float64


# --- opening


def test_limit_and_options():
    assert len(open_data("digits", limit=50)) == 50
    frame = pd.DataFrame({"a": range(30)})
    assert open_data(frame, options={"types": {"a": "real"}}).space.variables[0].support == "real"
    with pytest.raises(ValueError, match="options \\['type'\\]: the kind 'table' takes \\['types'"):
        open_data(frame, options={"type": {}})


def test_sources_that_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least 3"):
        open_data(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="kind 'sculpture' is unknown"):
        open_data(np.zeros((5, 2)), kind="sculpture")
    with pytest.raises(ValueError, match="nothing understands int"):
        open_data(5)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="nothing understands"):
        open_data(tmp_path / "folder")
    monkeypatch.delenv("POFX_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set POFX_DATA"):
        open_data("no/such/file.csv")
    (tmp_path / "t.csv").write_text("a\n1\n2\n3\n4\n")
    monkeypatch.setenv("POFX_DATA", str(tmp_path))
    assert len(open_data("t.csv")) == 4 and open_data("t.csv").name == "t"


def test_bad_arrays_are_named():
    for source, says in [
        (np.array([[1.0, np.inf]] * 4), "inf at row 0, column 1"),
        ([[1.0], [1.0, 2.0]], "ragged"),
        (np.array([["a"], ["b"]]), "not numbers"),
        (np.zeros((4, 3, 2, 2)), "pictures are arrays of bytes"),
        (np.array([[1.0, np.nan]] * 4), "column x1 has no observed value"),
    ]:
        with pytest.raises(ValueError, match=says):
            open_data(source)
    with pytest.raises(ValueError, match="types is 'ordinal'"):
        open_data(np.eye(4), options={"types": "ordinal"})


def test_arrays_with_holes():
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[:, 2] = np.arange(60) % 4 + 7
    x[3, 1] = x[5, 2] = np.nan
    data = open_data(x)
    assert not data.complete and (~data.observed).sum() == 2 and torch.isfinite(data.x).all()
    assert data.space.variables[2].levels == 4 and set(data.x[:, 2].tolist()) == {0.0, 1.0, 2.0, 3.0}
    back = data.restore(data.x)
    seen = ~np.isnan(x)
    assert np.array_equal(back[seen], x[seen])
    encoded, observed = data.kind.encode(x, data.space)
    assert torch.equal(observed, data.observed) and torch.equal(encoded, data.x)
    done = data.kind.complete(x, data.x + 1, data.observed, data.space)
    assert np.array_equal(done[seen], x[seen]) and not np.isnan(done).any()
    with pytest.raises(ValueError, match="column x2: got 99"):
        data.kind.encode(np.full((1, 3), 99.0), data.space)


@pytest.mark.parametrize("given", [None, "label"])
def test_data_survive_their_file(tmp_path, given):
    data = open_data("digits", given=given, limit=40)
    data.save(tmp_path / "d.safetensors")
    back = Data.load(tmp_path / "d.safetensors")
    assert back.fingerprint() == data.fingerprint() and back.space == data.space and back.notes == data.notes
    assert set(back.given) == set(data.given) and set(back.aside) == {"label"}
    assert back.fingerprint() != data.splitted(seed=1).fingerprint()
    frame = pd.DataFrame({"a": [0.5, None, 2.5] * 9, "b": ["x", "y", "z"] * 9})
    table = open_data(frame)
    table.save(tmp_path / "t.safetensors")
    loaded = Data.load(tmp_path / "t.safetensors")
    assert torch.equal(loaded.observed, table.observed)
    pd.testing.assert_frame_equal(loaded.restore(loaded.x), table.restore(table.x))


# --- real data


def test_adult(data_dir):
    data = open_data(data_dir / "tables/adult/adult-train.csv.gz", options={"names": ADULT})
    v = dict(zip(ADULT, data.space.variables, strict=True))
    assert data.x.shape == (32_561, 15) and (~data.observed).sum() == 4262
    assert v["income"].values == ("<=50K", ">50K") and v["native-country"].levels == 41
    assert (v["capital-gain"].support, v["capital-gain"].levels) == ("ordinal", 119)
    assert v["fnlwgt"].resolution == 1 and v["fnlwgt"].integer and v["age"].levels == 74
    frame = data.restore(data.x)
    assert frame["age"].dtype == np.int64 and frame.iloc[0]["occupation"] == "Adm-clerical"
    x, _ = data.kind.encode(frame, data.space)
    assert torch.equal(x, data.x)


def test_california(data_dir):
    path = data_dir / "tables/california_housing/housing.csv.gz"
    data, frame = open_data(path), pd.read_csv(path)
    assert (~data.observed).sum() == 207
    back = data.restore(data.x)
    seen = frame["total_bedrooms"].notna()
    assert back["total_bedrooms"][seen].tolist() == frame["total_bedrooms"][seen].tolist()
    rest = [c for c in frame.columns if c != "total_bedrooms"]
    for name in rest:
        assert back[name].tolist() == frame[name].tolist()
    x, observed = data.kind.encode(frame, data.space)
    done = data.kind.complete(frame, x, observed, data.space)
    pd.testing.assert_frame_equal(done[rest], frame[rest])
    assert done["total_bedrooms"].notna().all() and done["total_bedrooms"].dtype == np.float64


@pytest.mark.parametrize("name", ["bostonHousing", "concrete", "energy", "power-plant", "wine-quality-red", "yacht"])
def test_regression_tables(data_dir, name):
    path = data_dir / "tables/uci_regression" / name / "data.txt.gz"
    data = open_data(path)
    frame = pd.read_csv(path, sep=r"\s+", header=None)
    back = data.restore(data.x).to_numpy(np.float64)
    # a column of full precision with a heavy value is learnt rounded; all others come back as they were
    width = np.array([v.resolution if "alone holds" in n else 0 for v, n in zip(data.space.variables, data.notes[1:])])
    assert (np.abs(back - frame.to_numpy()) <= width / 2 + 1e-12).all()


def test_mnist(data_dir):
    data = open_data(data_dir / "images/mnist/t10k-images-idx3-ubyte.gz")
    assert data.x.shape == (10_000, 28, 28, 1) and data.space.variables[0].levels == 256
    counts = torch.bincount(data.aside["label"][0]).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.restore(data.x[:2]).shape == (2, 28, 28)


def test_photographs_of_many_sizes(data_dir):
    with pytest.raises(ValueError, match="13 sizes"):
        open_data(data_dir / "images/photos/set5")
    with pytest.raises(ValueError, match="modes RGB \\(39\\), L \\(3\\)"):
        open_data(data_dir / "images/photos/set14")
    data = open_data(data_dir / "images/photos/set5", options={"size": (32, 40)})
    assert data.x.shape == (15, 32, 40, 3)


def test_faces_and_colour(data_dir):
    faces = open_data(data_dir / "images/faces_att_28x23/att_faces_28x23.npz")
    assert faces.x.shape == (400, 28, 23, 1) and faces.aside["label"][1].variables[0].levels == 40
    cifar = open_data(data_dir / "images/cifar10/cifar10_train_first4000_lossless.npz", given="label", limit=100)
    assert cifar.x.shape == (100, 32, 32, 3) and cifar.given_spaces["label"].variables[0].values[0] == "airplane"


def test_anomaly_tables_are_rows_not_pictures(data_dir):
    data = open_data(data_dir / "tables/adbench/14_glass.npz")
    assert data.space.kind == "array" and data.x.shape == (214, 7)
    assert not Table().reads(data_dir / "tables/adbench/14_glass.npz")
