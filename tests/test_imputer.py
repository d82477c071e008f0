"""pofx.Imputer as scikit-learn wants it: its checks, frames and arrays, new rows, words never seen, pipelines."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import pofx
from pofx.imputer import Imputer

SMALL = {"trees": 4, "rounds": 2}


def table(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    frame = pd.DataFrame({"a": a, "b": 2 * a + 0.2 * rng.normal(size=n), "c": np.where(a > 0, "up", "down")})
    return frame.mask(rng.random(frame.shape) < 0.2)


@pytest.fixture(scope="module")
def fitted() -> Imputer:
    return Imputer(hyper_parameters=SMALL).fit(table())


def test_scikit_learns_own_checks():
    """All of check_estimator with the closed form, which is quick; the default shares every line but the fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(Imputer("gaussian", draws=2))


def test_frames_come_back_as_frames(fitted):
    frame = table().set_index(pd.Index([f"r{k}" for k in range(120)]))
    out = fitted.transform(frame)
    assert list(out.index) == list(frame.index) and list(out.columns) == ["a", "b", "c"]
    assert not out.isna().any().any() and out.where(frame.notna()).equals(frame.where(frame.notna()))
    assert list(fitted.get_feature_names_out()) == ["a", "b", "c"] and fitted.n_features_in_ == 3


def test_arrays_come_back_as_arrays():
    x = table()[["a", "b"]].to_numpy()
    out = Imputer(hyper_parameters=SMALL).fit_transform(x)
    seen = ~np.isnan(x)
    assert isinstance(out, np.ndarray) and np.isfinite(out).all() and (out[seen] == x[seen]).all()
    hidden = np.abs(out[:, 1] - 2 * out[:, 0])[~seen[:, 1] & seen[:, 0]]
    assert hidden.mean() < 0.4  # the noise is 0.2, the column's spread 2


def test_new_rows_and_words_never_seen(fitted):
    new = pd.DataFrame({"a": [np.nan, 1.0, np.nan], "b": [3.0, np.nan, np.nan], "c": ["up", "sideways", None]})
    answer = fitted.answer(new)
    out = answer.diagnostics["mean"]
    assert out["c"].tolist()[:2] == ["up", "sideways"] and out["c"][2] in ("up", "down")
    assert abs(out["a"][0] - 1.5) < 0.5 and abs(out["b"][1] - 2) < 0.8
    assert "c: 1 cells" in answer.explain() and all(one["c"][1] == "sideways" for one in answer.value)


def test_whole_numbers_between_the_levels_seen_stay():
    frame = pd.DataFrame({"k": [1, 3, 9] * 30, "x": np.arange(90.0) % 7})
    out = Imputer("gaussian").fit(frame).transform(pd.DataFrame({"k": [5.0, np.nan], "x": [np.nan, 2.0]}))
    assert out["k"][0] == 5 and out.notna().all().all()


def test_a_column_never_observed_stays_empty():
    frame = table()[["a", "b"]].assign(empty=np.nan)
    out = Imputer("gaussian").fit_transform(frame)
    assert out["empty"].isna().all() and out[["a", "b"]].notna().all().all()


def test_draws_differ_and_are_reproducible(fitted):
    frame = table()
    one, two = fitted.multiple(frame, 2)
    assert not one.equals(two) and one.equals(fitted.multiple(frame, 2)[0])
    drawn = clone(fitted).set_params(point="draw", family="gaussian", hyper_parameters=None).fit(frame[["a", "b"]])
    assert drawn.transform(frame[["a", "b"]]).notna().all().all()


def test_pooled_needs_several_models_to_be_proper():
    frame = table()[["a", "b"]]
    analysis = pofx.metrics.pooling.mean_of("a")
    with pytest.warns(UserWarning, match="models=10"):
        narrow = Imputer("gaussian").fit(frame).pooled(frame, analysis)
    wide = Imputer("gaussian", models=5).fit(frame).pooled(frame, analysis, df=119)
    assert wide.low < narrow.estimate < wide.high and wide.draws == 20 and 0 < wide.missing < 1


def test_in_a_pipeline():
    x = table()[["a", "b"]]
    model = make_pipeline(Imputer("gaussian"), LinearRegression()).fit(x, np.arange(120.0))
    assert np.isfinite(model.predict(x)).all()
    out = Imputer("gaussian").set_output(transform="pandas").fit_transform(x.to_numpy())
    assert list(out.columns) == ["x0", "x1"]


@pytest.mark.parametrize("wrong", [{"point": "median"}, {"models": 0}, {"draws": 0}])
def test_what_it_refuses(wrong):
    with pytest.raises(ValueError, match="Imputer: got"):
        Imputer(**wrong).fit(table())
