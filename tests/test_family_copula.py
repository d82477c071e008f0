"""Copula against SciPy's normal law and its boxes, its own enumeration, and the law that made the rows."""

import functools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.families.copula import Copula
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality
from pofx.randomness import Rng

F64 = torch.float64
R = torch.tensor([[1.0, 0.7, -0.4], [0.7, 1.0, 0.1], [-0.4, 0.1, 1.0]], dtype=F64)
CODES = Space(
    (3,),
    (Variable("a", "ordinal", 4, mean=1.5), Variable("b", "ordinal", 3, mean=1), Variable("c", "binary", 2)),
)
CUTS = (torch.tensor([-0.8, 0.1, 1.0]), torch.tensor([-0.5, 0.7]), torch.tensor([0.3]))


def latent(n: int, seed: int = 0) -> Tensor:
    return Rng(seed).normal((n, 3), F64) @ torch.linalg.cholesky(R).T


def coded(n: int, seed: int = 0) -> Tensor:
    z = latent(n, seed)
    return torch.stack([torch.bucketize(z[:, j].contiguous(), CUTS[j].double()).double() for j in range(3)], 1)


@functools.cache
def fitted(kind: str, gaps: bool = False) -> Copula:
    if kind == "codes":
        x, space = coded(4000), CODES
    else:
        z = latent(4000)
        x = torch.stack([z[:, 0].exp(), z[:, 1] ** 3, 5 + 2 * z[:, 2]], 1)
        moments = [(float(x[:, j].mean()), float(x[:, j].std())) for j in range(3)]
        space = Space((3,), tuple(Variable(f"x{j}", mean=m, scale=s) for j, (m, s) in enumerate(moments)))
        if kind == "mixed":
            x[:, 2] = (x[:, 2] > 6).double()
            space = Space((3,), (*space.variables[:2], Variable("x2", "binary", 2)))
    observed = Rng(8).bernoulli(0.7, tuple(x.shape)) if gaps else None
    model = Copula().build(space)
    model.fit_closed(Data(x, space, observed=observed).splitted(0.0, 0.0), Rng(0))
    return model.eval()


def every_row() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(n, dtype=F64) for n in (4, 3, 2)])


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", ["codes", "densities", "mixed"])
def test_the_correlation_comes_back(kind, gaps):
    got = fitted(kind, gaps).R
    assert float((got - R).abs().max()) < (0.09 if gaps else 0.06)


def test_densities_are_marginals_times_the_copula():
    model = fitted("densities")
    x = torch.stack([latent(50, 3)[:, 0].exp(), latent(50, 3)[:, 1] ** 3, 5 + 2 * latent(50, 3)[:, 2]], 1)
    value = model.log_prob(x)
    assert value.quality is Quality.EXACT
    z, log_f = [], 0.0
    for j, column in enumerate(model.columns):
        share = column.below.diff()[column.turn[column.cells.place(x[:, j])]]
        log_f = log_f + share.log() + column.cells.log_density(x[:, j])
        z.append(column.box(x[:, j])[0])
    z = torch.stack(z, 1).numpy()
    want = log_f.numpy() + stats.multivariate_normal(np.zeros(3), model.R.numpy()).logpdf(z)
    want -= stats.norm.logpdf(z).sum(1)
    assert np.allclose(value.value.numpy(), want, atol=1e-9)
    part = model.log_prob(x, observed=torch.tensor([True, False, True]).expand(50, 3))
    keep = [0, 2]
    own = stats.multivariate_normal(np.zeros(2), model.R[keep][:, keep].numpy()).logpdf(z[:, keep])
    alone = torch.stack([c.below.diff()[c.turn[c.cells.place(x[:, j])]].log() + c.cells.log_density(x[:, j])
                         for j, c in enumerate(model.columns)], 1)[:, keep].sum(1)  # fmt: skip
    want = alone.numpy() + own - stats.norm.logpdf(z[:, keep]).sum(1)
    assert np.allclose(part.value.numpy(), want, atol=1e-9)


def test_boxes_have_the_probability_of_the_normal_law():
    """GHK is unbiased: against SciPy's integral over the box."""
    model = fitted("codes")
    x = every_row()
    found = torch.stack([model.log_prob(x, draws=400, rng=s).value.exp() for s in range(8)])
    low, high, _ = model._boxes(x, torch.ones_like(x, dtype=torch.bool))
    law = stats.multivariate_normal(np.zeros(3), model.R.numpy())
    a, b = low.clamp_min(-9).numpy(), high.clamp_max(9).numpy()
    want = np.array([law.cdf(v, lower_limit=u) for u, v in zip(a, b, strict=True)])
    z = (found.mean(0).numpy() - want) / (found.std(0).numpy() / 8**0.5 + 1e-6)
    assert np.abs(np.median(z)) < 1.5
    assert np.abs(found.mean(0).numpy() - want).max() < 2e-3
    assert float(found.mean(0).sum()) == pytest.approx(1, abs=5e-3)
    few, many = (model.log_prob(x, draws=k, rng=1).value.mean() for k in (1, 64))
    assert float(few) < float(many)
    assert model.log_prob(x).quality is Quality.LOWER


def test_one_box_among_densities_is_exact():
    model = fitted("mixed")
    x = torch.tensor([[1.0, 0.5], [3.0, -2.0]], dtype=F64)
    both = [torch.cat([x, torch.full((2, 1), c, dtype=F64)], 1) for c in (0.0, 1.0)]
    values = [model.log_prob(b) for b in both]
    assert all(v.quality is Quality.EXACT for v in values)
    part = model.log_prob(both[0], observed=torch.tensor([True, True, False]).expand(2, 3))
    assert torch.allclose(torch.logaddexp(values[0].value, values[1].value), part.value, atol=1e-9)


def test_draws_have_the_marginals_and_the_dependence():
    for kind, n in (("codes", 30_000), ("mixed", 30_000)):
        model = fitted(kind)
        x = model.sample(n, rng=2)
        if kind == "codes":
            p = torch.stack([model.log_prob(every_row(), draws=400, rng=s).value.exp() for s in range(4)]).mean(0)
            code = (x @ torch.tensor([6.0, 2.0, 1.0], dtype=F64)).long()
            share = torch.bincount(code, minlength=24) / n
            z = (share - p) / (p * (1 - p) / n + 1e-7).sqrt()
            assert float(z.abs().max()) < 5
        else:
            z = latent(n, 11)
            assert stats.ks_2samp(x[:, 0], z[:, 0].exp()).statistic < 0.03
            rho = stats.spearmanr(x[:, 0], x[:, 1]).statistic
            assert rho == pytest.approx(6 / np.pi * np.arcsin(0.35), abs=0.03)


def test_conditional_draws_have_the_enumerated_frequencies():
    model = fitted("codes")
    x = torch.tensor([[3.0, 0.0, 0.0]], dtype=F64)
    for seen, exact in ((torch.tensor([[True, False, False]]), True), (torch.tensor([[True, False, True]]), False)):
        conditional = model.condition(x, seen)
        assert (conditional.quality is Quality.EXACT) is exact
        draws = conditional.sample(20_000, Rng(1))[:, 0]
        assert bool((draws[:, 0] == 3).all())
        p = model.log_prob(every_row(), draws=2000, rng=0).value.exp().reshape(4, 3, 2)[3]
        p = p.sum(1) if exact else p[:, 0]
        share = torch.bincount(draws[:, 1].long(), minlength=3) / 20_000
        assert float((share - p / p.sum()).abs().max()) < (0.02 if exact else 0.03)


def test_a_given_moves_the_law_and_may_be_missing():
    x = coded(3000)
    data = Data(x[:, :2], CODES.sub([0, 1])).with_given({"c": (x[:, 2].long(), category(2))}).splitted(0.1, 0.1)
    model = pofx.fit(data, "copula", progress=False, threads=1)
    every = torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0)).double()
    share = [model.log_prob(every, {"c": torch.full((12,), c)}, draws=500, rng=0).value.exp() for c in (0, 1)]
    for c in (0, 1):
        own = x[x[:, 2] == c]
        seen = torch.bincount((own[:, 0] * 3 + own[:, 1]).long(), minlength=12) / len(own)
        assert float(share[c].sum()) == pytest.approx(1, abs=0.02)
        assert float((share[c] - seen).abs().max()) < 0.04
    alone = model.log_prob(every, draws=500, rng=0).value.exp()
    weight = float((x[:, 2] == 1).double().mean())
    assert torch.allclose(alone, (1 - weight) * share[0] + weight * share[1], atol=0.02)
