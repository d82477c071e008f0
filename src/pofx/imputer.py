"""Imputer: a scikit-learn transformer that fills the gaps of tables by any family.

    Imputer().fit_transform(X)                     every gap filled by its mean (a category: the likeliest)
    imputer.transform(new_rows)                    rows that came after fitting, words that were never seen included
    imputer.multiple(X, draws=20)                  20 completed tables; what is worked out on each may be pooled
    Imputer(models=10).pooled(X, analysis)         Rubin's rules over proper draws

Each of several models is fitted to a bootstrap sample of the rows, so its draws also vary with what the rows leave open
about the model (Rubin 1987, section 4.2; Honaker and King 2010). A cell whose word was not seen in fitting tells the
model nothing, and stays as it is. Frames come back as frames, arrays as arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from pofx.data import Data, open_data
from pofx.kinds.base import Variable
from pofx.metrics.pooling import Pooled, pooled
from pofx.model import Model
from pofx.randomness import Rng
from pofx.tasks.base import Answer
from pofx.tasks.completion import levels_of
from pofx.tasks.impute import impute
from pofx.training.fit import fit

Array = np.ndarray[Any, Any]
POINTS = ("mean", "draw")


class Imputer(TransformerMixin, BaseEstimator):
    """Fill the gaps of a table.

    Args:
        family: a family by name, its class, or an unfitted model.
        models: how many are fitted, each to a bootstrap sample of the rows; 1 fits all rows once. To pool, several.
        point: what `transform` fills in: "mean" (unrounded; a category's likeliest word) or one "draw".
        draws: behind a mean that the model does not know without draws, and of `multiple`.
        budget: of each fit, for families that are trained.
        hyper_parameters: of the family.
        types: column -> what it is, see `open_data`; for an array, columns are numbered.
        random_state: a whole number; the same one gives the same fits and draws. A RandomState lends one.

    Attributes:
        models_: the fitted models. n_features_in_, feature_names_in_: what was fitted. notes_: what each column was
        taken for.
    """

    feature_names_in_: Array
    n_features_in_: int

    def __init__(
        self,
        family: Any = "conditionals",
        *,
        models: int = 1,
        point: str = "mean",
        draws: int = 20,
        budget: str = "60s",
        hyper_parameters: Mapping[str, Any] | None = None,
        types: Mapping[Any, Any] | None = None,
        random_state: Any = 0,
    ) -> None:
        self.family, self.models, self.point, self.draws = family, models, point, draws
        self.budget, self.hyper_parameters, self.types = budget, hyper_parameters, types
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Imputer:
        """Learn the table X `(N, D)`, a frame or an array, NaN and None missing; y is not used.

        Raises:
            ValueError: an argument or X will not do; the message says what would.
        """
        if self.point not in POINTS or self.models < 1 or self.draws < 1:
            raise ValueError(
                f"Imputer: got point={self.point!r}, models={self.models}, draws={self.draws}; "
                f"expected one of {POINTS}, and at least 1 each."
            )
        frame = self._frame(X, reset=True)
        if len(frame) < 3:
            raise ValueError(f"Imputer: got X with n_samples={len(frame)}; at least 3 rows are needed to learn from.")
        seed = self._seed()
        data = open_data(frame, kind="table", test=0, valid=0, seed=seed, options={"types": dict(self.types or {})})
        self.notes_ = data.notes
        rows = [data] if self.models == 1 else [resampled(data, Rng.derive(seed, k)) for k in range(self.models)]
        options: dict[str, Any] = {"budget": self.budget, "progress": False, "threads": 1}
        options["hyper_parameters"] = self.hyper_parameters
        self.models_: list[Model] = [fit(part, self.family, seed=seed + k, **options) for k, part in enumerate(rows)]
        return self

    def transform(self, X: Any) -> Any:
        """Rows like those of `fit` with their gaps filled, in the type that they came in."""
        frame = self._frame(X, reset=False)
        answer = self._answer(frame, self.draws if self.point == "mean" else 1)
        return self._as_came(answer.diagnostics["mean"] if self.point == "mean" else answer.value[0], frame, X)

    def multiple(self, X: Any, draws: int | None = None) -> list[Any]:
        """Several completions of X, in the type that it came in; their differences are the uncertainty."""
        frame = self._frame(X, reset=False)
        return [self._as_came(one, frame, X) for one in self._answer(frame, draws or self.draws).value]

    def answer(self, X: Any, draws: int | None = None) -> Answer:
        """What `pofx.impute` says of X: completions, means, spread and intervals, and an explanation in words."""
        return self._answer(self._frame(X, reset=False), draws or self.draws)

    def pooled(
        self,
        X: Any,
        analysis: Callable[[Any], tuple[Any, Any]],
        draws: int | None = None,
        *,
        df: float = np.inf,
        level: float = 0.95,
    ) -> Pooled:
        """Run an analysis, rows -> (estimate, squared standard error), on each completion and pool by Rubin's rules.

        Proper draws need several models: with one, what the fit leaves open is left out, and a warning says so.
        """
        if self.models == 1:
            warnings.warn("Imputer: pooled with models=1, so the interval leaves out what the fit leaves open; "
                          "models=10 puts it in.", UserWarning, stacklevel=2)  # fmt: skip
        return pooled(self.multiple(X, draws), analysis, df=df, level=level)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of the columns, which stay as they are."""
        check_is_fitted(self, "models_")
        names = getattr(self, "feature_names_in_", None)
        if input_features is not None:
            given = np.asarray(input_features, dtype=object)
            if names is not None and not np.array_equal(given, names):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(given) != self.n_features_in_:
                raise ValueError(f"input_features has {len(given)} names, expected {self.n_features_in_}")
            return given
        return np.array([f"x{j}" for j in range(self.n_features_in_)], dtype=object) if names is None else names

    def _answer(self, frame: Any, draws: int) -> Answer:
        """Completions of a frame; cells that the models cannot read are shown to them as gaps and put back."""
        readable, strange = self._readable(frame)
        answer = impute(self.models_, readable, draws=draws, rng=self._seed())
        value = [_put_back(one, frame, strange) for one in answer.value]
        told = dict(answer.diagnostics)
        if "mean" in told:
            told["mean"] = _put_back(told["mean"], frame, strange)
        if strange:
            told["unseen"] = "; ".join(f"{key}: {int(cells.sum())} cells" for key, cells in strange.items())
        return replace(answer, value=value, diagnostics=told)

    def _readable(self, frame: Any) -> tuple[Any, dict[Any, Array]]:
        """The rows as the models can read them, and the cells that were blanked or moved for it."""
        space = self.models_[0].space
        keys = [c["key"] for c in space.meta["columns"] if c["form"] != "blank"]
        forms = {c["key"]: c["form"] for c in space.meta["columns"]}
        strange: dict[Any, Array] = {}
        out = frame.copy()
        for key, v in zip(keys, space.variables, strict=True):
            if forms[key] == "number" and v.discrete and levels_of(v) is not None:
                out[key], moved = _nearest(frame[key], v)
            elif forms[key] == "text" and v.discrete:
                moved = _unknown(frame[key], v)
                out[key] = frame[key].mask(moved) if moved.any() else frame[key]
            else:
                continue
            if moved.any():
                strange[key] = moved
        blank = [c["key"] for c in space.meta["columns"] if c["form"] == "blank"]
        dropped = [key for key in frame.columns if key not in forms]
        for key in [*blank, *dropped]:
            strange[key] = np.ones(len(frame), dtype=bool)
        return out, strange

    def _frame(self, X: Any, reset: bool) -> Any:
        import pandas as pd

        if not reset:
            check_is_fitted(self, "models_")
        self._names(X, reset)
        if isinstance(X, pd.DataFrame):
            _finite(X)
            frame = X.reset_index(drop=True)
            frame.columns = [str(c) for c in frame.columns]
        else:
            frame = pd.DataFrame(_array(X))
            frame.columns = [f"x{j}" for j in range(frame.shape[1])]
        if reset:
            self.n_features_in_ = frame.shape[1]
        elif frame.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {frame.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return frame

    def _names(self, X: Any, reset: bool) -> None:
        names = _names_of(X)
        known = getattr(self, "feature_names_in_", None)
        if reset:
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            if names is not None:
                self.feature_names_in_ = names
        elif (names is None) != (known is None):
            side, other = ("does not have", "was") if names is None else ("has", "was not")
            warnings.warn(f"X {side} valid feature names, but {type(self).__name__} {other} fitted with feature names",
                          UserWarning, stacklevel=4)  # fmt: skip
        elif names is not None and list(names) != list(known):  # type: ignore[arg-type]
            raise ValueError(
                f"The feature names should match those that were passed during fit.\nGot {list(names)[:8]}, "
                f"expected {list(known)[:8]}."  # type: ignore[arg-type]
            )

    def _as_came(self, out: Any, frame: Any, X: Any) -> Any:
        import pandas as pd

        out = out[list(frame.columns)]
        if isinstance(X, pd.DataFrame):
            return out.set_axis(X.columns, axis=1).set_axis(X.index, axis=0)
        values = out.to_numpy()
        dtype = getattr(X, "dtype", None)
        return values.astype(dtype) if dtype is not None and dtype.kind == "f" else values

    def _seed(self) -> int:
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(2**31))
        return int(np.random.default_rng().integers(2**31)) if self.random_state is None else int(self.random_state)

    def _more_tags(self) -> dict[str, Any]:
        return {"allow_nan": True, "X_types": ["2darray", "string"]}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        return tags


def resampled(data: Data, rng: Rng) -> Data:
    """The same data with a bootstrap sample of its training rows."""
    train = data.split["train"]
    pick = rng.integers(len(train), (len(train),))
    return replace(data, split={**data.split, "train": train[pick].sort().values})


def _array(X: Any) -> Array:
    options = {"dtype": None, "ensure_min_samples": 1}
    try:
        array = check_array(X, ensure_all_finite=False, **options)
    except TypeError as error:  # before scikit-learn 1.6
        if "ensure_all_finite" not in str(error):
            raise
        array = check_array(X, force_all_finite=False, **options)
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported")
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise ValueError("Input X contains infinity or a value too large.")
    if array.dtype == object:
        return _sharper(array)
    return array.astype(np.float64) if array.dtype == np.float16 or array.dtype.kind in "iub" else array


def _sharper(array: Array) -> Any:
    """An array of objects as a frame whose columns have the types of their cells."""
    import pandas as pd

    return pd.DataFrame(array).infer_objects()


def _finite(frame: Any) -> None:
    numbers = frame.select_dtypes("number").to_numpy(dtype=np.float64, na_value=np.nan)
    if len(frame) == 0 or frame.shape[1] == 0:
        raise ValueError(f"Found array with {len(frame)} sample(s) and {frame.shape[1]} feature(s); 1 is required.")
    if np.isinf(numbers).any():
        raise ValueError("Input X contains infinity or a value too large.")


def _names_of(X: Any) -> Array | None:
    columns = getattr(X, "columns", None)
    if columns is None or not all(isinstance(c, str) for c in columns):
        return None
    return np.asarray(list(columns), dtype=object)


def _unknown(column: Any, v: Variable) -> Array:
    """Cells whose word was not seen in fitting."""
    known = {str(k).strip() for k in v.values or ()}
    return np.array([not (c is None or c != c) and str(c).strip() not in known for c in column.astype(object)])


def _nearest(column: Any, v: Variable) -> tuple[Any, Array]:
    """Numbers of a list of levels, each at its nearest level, and which of them moved."""
    import pandas as pd

    levels = levels_of(v)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    seen = ~np.isnan(values)
    right = np.searchsorted(levels, values).clip(0, len(levels) - 1)
    left = (right - 1).clip(0)
    near = np.where(np.abs(values - levels[left]) <= np.abs(levels[right] - values), levels[left], levels[right])
    moved = seen & (near != values)
    return (column if not moved.any() else pd.Series(np.where(seen, near, np.nan), index=column.index)), moved


def _put_back(done: Any, frame: Any, strange: dict[Any, Array]) -> Any:
    """The user's own cells where the models were shown something else."""
    out = done.copy()
    for key, cells in strange.items():
        own = frame[key]
        if key not in out.columns or bool(cells.all()):
            out[key] = own.to_numpy() if own.dtype != object else own
            continue
        fresh = out[key].astype(object) if out[key].dtype != own.dtype else out[key].copy()
        fresh[cells] = own[cells]
        out[key] = fresh.infer_objects() if fresh.dtype == object else fresh
    return out[list(frame.columns)]
