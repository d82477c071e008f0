"""Routes of one task on one model agree; bounds are on their side."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.families.gaussian import Gaussian
from pofx.kinds.base import Space, Variable, real
from pofx.metrics import conformal_pvalues
from pofx.model import Quality, Value
from pofx.randomness import Rng
from pofx.tasks.anomaly import anomaly
from pofx.tasks.density import density
from pofx.tasks.impute import impute
from pofx.tasks.sample import sample
from pofx.wrappers import Relaxed

E, L, U, S, N = Quality.EXACT, Quality.LOWER, Quality.UPPER, Quality.ESTIMATE, Quality.UNNORMALISED


@pytest.mark.parametrize("a, b, both", [
    (E, E, E), (E, L, L), (E, U, U), (E, S, S), (E, N, N), (L, L, L), (L, U, S), (L, S, S), (L, N, N),
    (U, U, U), (U, S, S), (U, N, N), (S, S, S), (S, N, N), (N, N, N),
])  # fmt: skip
def test_quality_of_a_sum(a, b, both):
    assert a + b is both
    assert b + a is both


def test_quality_is_an_algebra():
    for a, b, c in itertools.product(Quality, repeat=3):
        assert (a + b) + c is a + (b + c)
    assert [-q for q in (E, L, U, S, N)] == [E, U, L, S, N]
    assert [q.guaranteed for q in (E, L, U, S, N)] == [True, True, False, False, False]
    assert Value(torch.zeros(2), L).shifted(torch.ones(2), -L).quality is S


def correlated(variables=None) -> Relaxed:
    model = Relaxed(Gaussian())
    columns = (Variable("a", mean=5.0, scale=3.0), Variable("b", mean=-2.0, scale=0.5))
    model.build(Space((2,), tuple(variables or columns)))
    model.inner.covariance = torch.tensor([[1.0, 0.7], [0.7, 0.8]], dtype=torch.float64)
    return model


def means_z(a, b):
    return (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()


def test_sampling_routes_agree():
    model = correlated()
    a, b = (sample(model, 4000, rng=seed, route=r).raw for seed, r in enumerate(("sampler", "probability flow")))
    for f in (lambda x: x, lambda x: (x - 3).square(), lambda x: x[:, :1] * x[:, 1:]):
        assert means_z(f(a), f(b)).abs().max() < 5


@pytest.mark.parametrize("seed", range(5))
def test_draws_with_known_entries_have_the_law_of_the_others(seed):
    """b | a of a normal: mean m_b + s_ab / s_aa (a - m_a), variance s_bb - s_ab^2 / s_aa."""
    model = correlated()
    found = sample(model, 4000, known=[[8.0, math.nan]], rng=seed)
    assert found.value[:, 0].tolist() == [8.0] * 4000
    mean, variance = -2 + 0.5 * 0.7 * (8 - 5) / 3, 0.25 * (0.8 - 0.49)
    b = found.raw[:, 1]
    assert abs(float(b.mean()) - mean) < 5 * (variance / 4000) ** 0.5
    assert abs(float(b.var()) / variance - 1) < 5 * (2 / 4000) ** 0.5
    assert found.quality is E


def test_known_entries_of_a_table_are_said_by_name_and_refused_in_words():
    frame = pd.DataFrame({"a": np.arange(60) % 7, "c": ["x", "y", "y"] * 20})
    model = pofx.fit(frame, "mixture", hyper_parameters={"components": 2}, progress=False)
    found = sample(model, 30, known={"c": "y"}, rng=0).value
    assert set(found["c"]) == {"y"}
    assert found["a"].nunique() > 2
    assert len(sample(model, 3, known={}, rng=0).value) == 3, "nothing known: any rows"
    for known, says in (
        ({"d": 1}, "no column"), ({"c": "z"}, "'z'"), ({"a": 1, "c": "x"}, "every entry is known"),
        (frame.assign(a=np.nan).head(2), "2 rows"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            sample(model, 3, known=known, rng=0)
    with pytest.raises(ValueError, match="do not go together"):
        sample(model, 3, known={"c": "y"}, temperature=0.5)
    with pytest.raises(ValueError, match="is for tables"):
        sample(correlated(), 3, known={"a": 1.0})


def test_density_routes_agree():
    x = correlated().sample(50, None, 0)
    a, b = (density(correlated(), x, route=r) for r in ("log prob", "probability flow"))
    assert torch.allclose(a.value, b.value, atol=0.03)
    assert (a.quality, b.quality) == (E, S)


def test_density_of_a_part_is_exact_and_the_flow_refuses_it():
    x = correlated().sample(5, None, 0)
    x[:, 1] = math.nan
    want = torch.distributions.Normal(5.0, 3.0).log_prob(x[:, 0])
    assert torch.allclose(density(correlated(), x).value, want, atol=1e-4)
    with pytest.raises(NotImplementedError, match="complete rows"):
        density(correlated(), x, route="probability flow")


def test_impute_routes_agree():
    model, x = correlated(), torch.tensor([[9.0, math.nan]], dtype=torch.float64)
    draws = {r: impute(model, x, draws=1500, rng=3, route=r).raw[:, 0, 1:] for r in ("condition", "guidance")}
    for f in (lambda v: v, lambda v: (v + 2).square()):
        assert means_z(f(draws["condition"]), f(draws["guidance"])).abs().max() < 5


def test_a_relaxed_conditional_has_the_variance_of_its_bins():
    """x_o is one bin wide: draws of x_m must spread as if x_o were anywhere in it."""
    wide = (Variable("a", resolution=6.0, mean=0.0, scale=3.0), Variable("b", mean=0.0, scale=1.0))
    model = correlated(wide)
    x = torch.tensor([[6.0, 0.0]], dtype=torch.float64)
    answer = model.condition(x, torch.tensor([[True, False]]))
    b = answer.sample(4000, Rng(0))[:, 0, 1]
    inside, noise = 0.49 / 3, 0.8 - 0.49  # Var of 0.7 u for u uniform on [1, 3], and Cov[u_b | u_a]
    assert answer.quality is S
    assert float(b.var()) == pytest.approx(inside + noise, rel=5 * (2 / 4000) ** 0.5)


def test_bounds_are_ordered():
    k = Variable("k", "ordinal", 6, mean=2.5, scale=1.5)
    model = correlated((k, k))
    x = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).double()
    one, many, lots = (model.log_prob(x.repeat(200, 1), draws=d, rng=0).value.reshape(200, -1) for d in (1, 8, 64))
    error = 5 * (one.std(0) + many.std(0)) / 200**0.5
    assert (one.mean(0) <= many.mean(0) + error).all()
    assert (many.mean(0) <= lots.mean(0) + error).all()
    total = lots.mean(0).exp().sum()
    assert 0.5 < total < 1.001  # the tails of a normal lie outside of 6 levels


def test_anomaly_scores_are_minus_log_p_and_p_values_are_valid():
    model = correlated()
    x, held = model.sample(400, None, 0), model.sample(400, None, 1)
    found = anomaly(model, x, held)
    assert torch.allclose(found.value, -density(model, x).value)
    assert found.quality is E
    p = torch.as_tensor(found.diagnostics["p"])
    assert float(p.min()) >= 1 / 401
    for u in (0.05, 0.2, 0.5):
        assert abs(float((p <= u).double().mean()) - u) < 5 * (2 * u * (1 - u) / 400) ** 0.5
    assert conformal_pvalues([1.0, 2.0, 3.0], [2.0])[0] == pytest.approx(3 / 4)
    far = anomaly(model, torch.tensor([[100.0, 100.0]], dtype=torch.float64), held)
    assert float(torch.as_tensor(far.diagnostics["p"])) == pytest.approx(1 / 401)


@pytest.mark.parametrize("route", ["log prob", "denoising", "distance"])
def test_every_anomaly_route_ranks_the_outlier_first(route):
    model = correlated()
    x = torch.cat([model.sample(30, None, 0), torch.tensor([[5.0, 3.0]]).double()])  # b is 10 scales away
    assert int(anomaly(model, x, route=route).value.argmax()) == 30


def test_anomaly_by_denoising_grows_as_its_closed_form():
    """E |D(u + s e) - u|^2 = sum_i [ (b_i u_i)^2 + s^2 (1 - b_i)^2 ],  1 - b = S / (S + s^2)."""
    model = Gaussian()
    model.build(real(1).replace(dtype="float64"))
    u = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    got = torch.stack([anomaly(model, u, route="denoising", draws=200, rng=k).value for k in range(12)])
    gain = 1 / 1.25
    want = (1 - gain) ** 2 * u[:, 0] ** 2 + 0.25 * gain**2
    assert ((got.mean(0) - want) / (got.std(0) / 12**0.5)).abs().max() < 5
