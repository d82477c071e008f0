"""Trees: the forest against scikit-learn, the density against enumeration and integrals, the walk against itself."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.engines.boosting import MISSING, Booster, Forest, Recipe, boost
from pofx.engines.cells import Cells
from pofx.families.trees import Trees
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng

F64 = torch.float64


def test_a_forest_gives_what_scikit_learn_gives():
    """Numbers, categories, blanks, and a category that was never seen: to the last digit."""
    r = np.random.default_rng(0)
    z = np.stack([r.integers(0, 200, 3000), r.integers(0, 40, 3000), r.integers(0, 6, 3000)], 1).astype(float)
    z[r.random(z.shape) < 0.1] = np.nan
    y = (np.nan_to_num(z[:, 0], nan=50) > 120) ^ np.isin(z[:, 1], [3, 5, 7]) ^ (z[:, 2] == 2) ^ (r.random(3000) < 0.1)
    train, held = slice(0, 2000), slice(2000, None)
    recipe = Recipe(0.1, 40, 8, 20, 1.0, 1.0)
    found = boost(z[train], y[train].astype(int), z[held], y[held].astype(int), [1, 2], recipe, 0)
    assert found.trees is not None
    assert found.gain > 50
    peer = HistGradientBoostingClassifier(
        learning_rate=0.1, max_iter=len(found.trees.feature), max_leaf_nodes=8, l2_regularization=1.0,
        categorical_features=[1, 2], early_stopping=False,
    ).fit(z[train], y[train])  # fmt: skip
    z[:30, 1] = 77
    codes = torch.from_numpy(np.where(np.isnan(z), MISSING, z).astype(np.uint8))
    forest = Forest()
    forest.fill([Booster(None, 0.3, 0.0), found])
    logits = forest(codes)
    assert np.allclose(logits[:, 1].numpy(), peer.decision_function(z), atol=1e-12)
    assert bool((logits[:, 0] == 0.3).all())


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize("low", [-math.inf, 0.0])
def test_the_cells_of_numbers_hold_all_probability(step, low):
    x = np.abs(np.random.default_rng(1).standard_t(3, 900)) + 0.3
    x[:200] = 2.0
    x = np.round(x / step) * step if step else x
    cells = Cells(0, step, low - step / 2, math.inf)
    cells.fit(x, 20, True)
    share = torch.full((cells.count,), 1 / cells.count, dtype=F64)
    top = 4000.0
    first, last = (float(e) for e in (cells.edges[0] - 60 / cells.rates[0], cells.edges[-1] + 60 / cells.rates[1]))
    if step:
        grid = torch.arange(0.0 if low == 0 else -top, top, step, dtype=F64)
        total = float((cells.log_density(grid).exp() * share[cells.place(grid)]).sum())
    else:
        edges = torch.cat(
            [torch.tensor([first if math.isinf(low) else low], dtype=F64), cells.edges, torch.tensor([last], dtype=F64)]
        )
        u = (torch.arange(2000, dtype=F64) + 0.5) / 2000
        grid = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * u
        p = cells.log_density(grid.flatten()).exp() * share[cells.place(grid.flatten())]
        total = float((p.reshape(grid.shape).mean(1) * (edges[1:] - edges[:-1])).sum())
    assert total == pytest.approx(1, abs=2e-3)
    low_p, high_p = cells.span(torch.from_numpy(x))
    assert bool((high_p >= low_p).all())
    mass = (high_p - low_p).clamp_min(1e-300).log()
    assert not step or torch.allclose(mass, cells.log_density(torch.from_numpy(x)), atol=1e-6)


def test_a_point_mass_is_a_cell_and_tails_reach_out():
    x = np.concatenate([np.zeros(500), np.round(np.random.default_rng(0).lognormal(7, 1, 100))])
    cells = Cells(0, 1.0, -0.5, math.inf)
    cells.fit(x, 16, True)
    zero = torch.zeros(1, dtype=F64)
    assert float(cells.log_density(zero)) == 0.0
    assert bool((cells.draw(cells.place(zero).expand(50), Rng(0)) == 0).all())
    far = torch.tensor([1e6], dtype=F64)
    assert bool(torch.isfinite(cells.log_density(far)).all())
    drawn = cells.draw(torch.full((20_000,), cells.count - 1), Rng(1))
    tail = x[x > float(cells.edges[-1])]
    assert float(drawn.mean()) == pytest.approx(tail.mean(), rel=0.05)


MIXED = Space(
    (3,),
    (Variable("kind", "category", 3), Variable("size", "ordinal", 5, mean=2, scale=1.4), Variable("is", "binary", 2)),
)


def rows(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = Rng(seed)
    label = rng.integers(2, (n,))
    a = (label + rng.integers(2, (n,))) % 3
    b = (a * 2 + rng.integers(2, (n,)) - label).clamp(0, 4)
    c = ((a == 1) ^ (b > 2) ^ rng.bernoulli(0.15, (n,))).long()
    return torch.stack([a, b, c], 1).double(), label


@functools.cache
def fitted(n: int = 1500, gaps: bool = False, given: bool = False, **knobs) -> Trees:
    x, label = rows(n)
    observed = Rng(9).bernoulli(0.85, tuple(x.shape)) if gaps else None
    data = Data(x, MIXED, observed=observed).splitted(0.0, 0.2)
    data = data.with_given({"label": (label, category(2))}) if given else data
    model = Trees(**knobs).build(MIXED, data.given_spaces)
    model.fit_closed(data, Rng(0))
    return model.eval()


def every_row() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(n, dtype=F64) for n in (3, 5, 2)])


@pytest.mark.parametrize("order", [None, (2, 0, 1)])
def test_a_mixed_table_sums_to_one_and_a_prefix_is_its_marginal(order):
    model = fitted(order=order)
    x = every_row()
    p = model.log_prob(x).value.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    first = model.walk[0]
    observed = torch.zeros(len(x), 3, dtype=torch.bool)
    observed[:, first] = True
    part = model.log_prob(x, observed=observed)
    assert part.quality is Quality.EXACT
    for code in x[:, first].unique():
        same = x[:, first] == code
        assert torch.allclose(part.value[same].exp(), p[same].sum(), atol=1e-9)
        conditional = model.condition(x[same], observed[same])
        assert conditional.quality is Quality.EXACT
        assert torch.allclose(conditional.log_prob(x[same]).value.exp(), p[same] / p[same].sum(), atol=1e-9)


def test_it_learns_the_law_that_made_the_rows():
    x, _ = rows(200_000, 5)
    code = (x @ torch.tensor([10.0, 2.0, 1.0], dtype=F64)).long()
    truth = torch.bincount(code, minlength=30).double() / len(x)
    p = fitted(6000).log_prob(every_row()).value.exp()
    seen = truth > 0
    kl = float((truth[seen] * (truth[seen] / p[seen]).log()).sum())
    assert kl < 0.01


@pytest.mark.parametrize("given", [None, 0, 1])
def test_draws_have_the_probabilities(given):
    model = fitted(given=given is not None)
    c = None if given is None else {"label": torch.tensor(given)}
    n = 20_000
    x = model.sample(n, c, rng=3)
    code = (x @ torch.tensor([10.0, 2.0, 1.0], dtype=F64)).long()
    every = every_row()
    wide = None if c is None else {"label": torch.full((30,), given)}
    p = model.log_prob(every, wide).value.exp()
    share = torch.bincount(code, minlength=30) / n
    z = (share - p) / (p * (1 - p) / n).clamp_min(1e-12).sqrt()
    assert float(z[p * n > 5].abs().max()) < 5


def test_what_is_not_a_prefix_is_a_bound_that_meets_the_sum():
    model = fitted()
    x = every_row()
    p = model.log_prob(x).value.exp().reshape(3, 5, 2)
    want = p.sum(0, keepdim=True).expand(3, 5, 2).reshape(-1)  # the first column is missing
    observed = torch.tensor([False, True, True]).expand(30, 3)
    found = [model.log_prob(x, observed=observed, draws=1500, rng=s) for s in range(6)]
    assert all(v.quality is Quality.LOWER for v in found)
    means = torch.stack([v.value.exp() for v in found])
    z = (means.mean(0) - want) / (means.std(0) / 6**0.5).clamp_min(1e-9)
    assert float(z.abs().median()) < 2
    assert torch.allclose(means.mean(0), want, rtol=0.1)
    completed = model.condition(x[:6], observed[:6]).sample(4000, Rng(1))[..., 0]
    for i in range(6):
        share = torch.bincount(completed[:, i].long(), minlength=3) / 4000
        exact = p[:, int(x[i, 1]), int(x[i, 2])] / p[:, int(x[i, 1]), int(x[i, 2])].sum()
        assert float((share - exact).abs().max()) < 0.06


def test_missing_cells_are_learnt_around_and_the_cursor_draws_what_sample_draws():
    model = fitted(gaps=True)
    p = model.log_prob(every_row()).value.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    full = fitted().log_prob(every_row()).value.exp()
    assert float((p - full).abs().max()) < 0.03
    rng, cursor = Rng(4), model.steps(64)
    ahead, x = cursor.start(), []
    for _ in range(3):
        x.append(ahead.sample(rng)[:, 0])
        ahead = cursor.next(x[-1])
    assert ahead is None
    assert torch.equal(torch.stack(x, 1), model.sample(64, rng=4))


def test_it_stops_when_told_and_still_is_a_distribution():
    x, _ = rows(1500)
    model = Trees().build(MIXED)
    model.fit_closed(Data(x, MIXED).splitted(0.0, 0.2), Rng(0), lambda line=None: False)
    assert all(len(c.forest.value) == 0 for c in model.columns)
    assert float(model.log_prob(every_row()).value.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_a_folder_keeps_the_trees(tmp_path):
    model = pofx.fit(Data(rows(800)[0], MIXED).splitted(0.1, 0.1), Trees(leaves=4), progress=False, threads=1)
    model.save(tmp_path / "m")
    again = pofx.load(tmp_path / "m")
    assert torch.equal(again.log_prob(every_row()).value, model.log_prob(every_row()).value)
    assert sum(len(c.forest.value) for c in again.columns) > 10
    assert {p.suffix for p in (tmp_path / "m").iterdir()} <= {".json", ".jsonl", ".safetensors"}


def test_a_density_is_near_the_truth():
    """Two correlated normals: the loss is that of two histograms, no more than a few hundredths of a nat."""
    rng = Rng(0)
    z = rng.normal((4000, 2), F64)
    x = torch.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], 1)
    space = Space((2,), (Variable("a"), Variable("b")))
    model = pofx.fit(Data(x, space).splitted(0.25, 0.1), "trees", progress=False, threads=1)
    test = x[Data(x, space).splitted(0.25, 0.1).split["test"]]
    truth = stats.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]]).logpdf(test.numpy()).mean()
    assert truth - float(model.log_prob(test).value.mean()) < 0.12


def test_wrong_knobs_are_named():
    with pytest.raises(ValueError, match="leaves"):
        Trees(leaves=9)
    with pytest.raises(ValueError, match="permutation"):
        Trees(order=(0, 0, 1)).build(MIXED)
