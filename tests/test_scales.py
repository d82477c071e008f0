"""Columns of any unit: tiny numbers, and small spreads far from zero, are learnt as what they are at scale one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.kinds import KINDS
from pofx.kinds._infer import infer
from pofx.tasks.density import density

UNIT = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 1500)
SCALES = {"tiny": (1e-13, 0.0), "far": (1e-3, 1e9)}


@pytest.mark.parametrize("form", ["frame", "array"])
@pytest.mark.parametrize("family", ["gaussian", "mixture", "kde"])
@pytest.mark.parametrize("scale", SCALES)
def test_a_law_follows_its_unit(family, form, scale):
    size, place = SCALES[scale]

    def asked(x):
        source = pd.DataFrame(x, columns=["a", "b"]) if form == "frame" else x
        model = pofx.fit(source, family, seed=0, progress=False)
        return model.sample(4000, rng=0).double().numpy(), density(model, source, draws=1).value

    drawn, log_p = asked(place + size * UNIT)
    drawn_one, log_one = asked(UNIT)
    ratio = drawn.std(0) / (size * UNIT.std(0))
    assert ((ratio > 0.9) & (ratio < 1.1)).all(), ratio
    assert np.allclose(drawn.mean(0), place + size * drawn_one.mean(0), atol=0.02 * size, rtol=0)
    assert torch.allclose(log_p, log_one - 2 * math.log(size), atol=0.02)


@pytest.mark.parametrize("size, place", [(1e-13, 0.0), (1e-200, 0.0), (1e-3, 1e9), (1.0, 0.0), (1e200, 0.0)])
def test_the_scale_of_a_column_is_its_spread(size, place):
    x = place + size * UNIT[:, 0]
    if size > 1e150:  # squares overflow: a number that is not finite would be said
        with pytest.raises(ValueError, match="finite"), np.errstate(over="ignore"):
            infer(pd.Series(x, name="a"))
        return
    array = KINDS["array"].read(x[:, None]).space.variables[0]
    for scale in (infer(pd.Series(x, name="a")).variable.scale, array.scale):
        assert 0.5 < scale / (size * UNIT[:, 0].std()) < 10 if size < 1e-160 else scale == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("dtype, place, size", [("float32", 1e4, 1.0), ("float16", 1e4, 50.0), ("float32", 0, 1e-20)])
def test_short_floats_are_columns_like_others(dtype, place, size):
    x = (place + size * UNIT[:, 0]).astype(dtype)
    array = KINDS["array"].read(x[:, None], types="real").space.variables[0]
    for v in (infer(pd.Series(x, name="a"), "real").variable, array):
        assert v.scale == pytest.approx(size, rel=0.05)


def test_no_scale_is_finer_than_the_rounding():
    """One number in a thousand that a last bit moved: the deviation is less than that bit."""
    for dtype, last in (("float64", 2.0**-52), ("float32", 2.0**-23)):
        x = np.full(1000, 1024.0)
        x[:2] = 1024 * (1 + last), 1024 * (1 + 2 * last)
        v = infer(pd.Series(x.astype(dtype), name="a"), "real").variable
        array = KINDS["array"].read(x.astype(dtype)[:, None], types="real").space.variables[0]
        assert v.scale == array.scale == pytest.approx(1024 * last)


def test_a_constant_has_no_spread():
    assert infer(pd.Series(np.full(50, 5.0), name="a"), "real").variable.scale == 5
    assert infer(pd.Series(np.full(50, 0.123456789012345), name="a"), "real").variable.scale == 1e-14


@pytest.mark.parametrize("family", ["copula", "trees"])
def test_tails_of_cells_follow_their_unit(family):
    drawn = pofx.fit(1e-13 * UNIT, family, budget="3 cpu s", seed=0, progress=False).sample(4000, rng=0).double()
    ratio = drawn.std(0).numpy() / (1e-13 * UNIT.std(0))
    assert ((ratio > 0.9) & (ratio < 1.1)).all(), ratio
