"""Columns seen through noise against sums and integrals done by hand, and points of a chart."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.engines.columns import COUNTED, PIECES, Column, Columns
from pofx.kinds.base import Space, Variable
from pofx.kinds.relax import CODE_SIZE, Chart
from pofx.randomness import Rng

LEVELS = (-1.0, 0.2, 0.9, 2.5)


def columns() -> Columns:
    made = Columns([Column("smooth", 0), Column("levels", 1, LEVELS), Column("codes", 2, (CODE_SIZE,) * 3)])
    made.log_w[PIECES:] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.3, 0.2]).log()
    return made.eval()


def points(rows: int, seed: int = 0) -> torch.Tensor:
    rng = Rng(seed)
    level = torch.tensor(LEVELS)[rng.categorical(torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(rows, -1))]
    code = rng.categorical(torch.tensor([0.5, 0.3, 0.2]).log().expand(rows, -1))
    codes = CODE_SIZE * torch.nn.functional.one_hot(code, 3)
    return torch.cat([2 + 3 * rng.normal((rows, 1)), level[:, None], codes], 1)


@pytest.mark.parametrize("s", [0.05, 0.4, 3.0])
def test_posterior_is_bayes_rule_over_whole_vectors(s):
    c, v = columns(), points(40) + s * Rng(1).normal((40, 5))
    log_p, means = c.evidence(v, torch.full((40,), s))
    levels = torch.tensor([0.1, 0.2, 0.3, 0.4]).log() - 0.5 * ((v[:, 1:2] - torch.tensor(LEVELS)) / s).square()
    codes = CODE_SIZE * torch.eye(3)
    away = (v[:, None, 2:] - codes).square().sum(-1) / s**2
    coded = torch.tensor([0.5, 0.3, 0.2]).log() - 0.5 * away
    want = torch.cat([levels.log_softmax(-1), coded.log_softmax(-1)], 1)
    torch.testing.assert_close(log_p[:, PIECES:].exp(), want.exp(), atol=2e-5, rtol=1e-4)
    d = c.mean(log_p, means)
    torch.testing.assert_close(d[:, 1], levels.softmax(-1) @ torch.tensor(LEVELS), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(d[:, 2:], coded.softmax(-1) @ codes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("s", [0.1, 1.0])
def test_smooth_columns_are_denoised_as_their_mixture(s):
    """E[u | v] of the mixture by an integral on a grid."""
    c, v = columns(), torch.tensor([[-1.5], [0.1], [2.0]]).expand(-1, 5).clone()
    grid = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    m, w = c.middle[:PIECES].double(), c.width[:PIECES].double()
    p = torch.exp(-0.5 * ((grid[:, None] - m) / w).square() - w.log()).mean(1)
    like = p * torch.exp(-0.5 * ((v[:, :1].double() - grid) / s).square())
    want = (like * grid).sum(1) / like.sum(1)
    d = c.mean(*c.evidence(v, torch.full((3,), s)))[:, 0]
    torch.testing.assert_close(d.double(), want, atol=2e-4, rtol=1e-3)


def test_an_unseen_column_says_what_it_is_alone():
    c, v = columns(), points(6)
    seen = torch.tensor([True, False, False, False, False]).expand(6, 5)
    log_p, _ = c.evidence(v, torch.full((6,), 0.1), seen)
    torch.testing.assert_close(log_p[:, PIECES:].exp(), c.log_w[PIECES:].exp().expand(6, -1))


def test_measuring_finds_the_law_and_then_stands_still():
    c = Columns(columns().columns).train()
    u = points(20_000)
    for part in u.split(500):
        c.measure(part)
    torch.testing.assert_close(c.log_w[PIECES:].exp(), columns().log_w[PIECES:].exp(), atol=0.015, rtol=0)
    even = 2 + 3 * torch.special.ndtri((torch.arange(PIECES) + 0.5) / PIECES)
    torch.testing.assert_close(c.middle[4:-4][: PIECES - 8], even[4:-4], atol=0.35, rtol=0)
    c.filled.fill_(COUNTED)
    before = c.log_w.clone()
    c.measure(u[:100] * 0 + points(100, 5))
    assert torch.equal(before, c.log_w)


def test_gaps_are_not_counted():
    c = Columns(columns().columns).train()
    u = points(400)
    seen = torch.ones(400, 5, dtype=torch.bool)
    seen[:, 1] = False
    u[:, 1] = 99.0
    c.measure(u, seen)
    torch.testing.assert_close(c.log_w[PIECES : PIECES + 4].exp(), torch.full((4,), 0.25))


def test_small_noise_hides_no_level():
    c, u = columns(), points(200)
    assert float(c.log_points(u, 1e-3, Rng(0)).min()) > -1e-6
    hidden = c.log_points(u, 50.0, Rng(0)).mean()  # all noise: what is left is the entropy of the columns
    entropy = sum(p * math.log(p) for p in (0.1, 0.2, 0.3, 0.4)) + sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert float(hidden) == pytest.approx(entropy, abs=0.25)


def test_the_chart_of_points_is_one_to_one():
    variables = (
        Variable("n", "ordinal", 4, mean=1.3, scale=0.8),
        Variable("r", resolution=0.5, mean=2.0, scale=3.0),
        Variable("c", "category", 3),
        Variable("b", "binary", 2),
    )
    space = Space((4,), variables, kind="table")
    chart = Chart(space, points=True)
    x = torch.tensor([[0, 1.5, 2, 1], [3, -4.0, 0, 0], [2, 7.5, 1, 1]], dtype=torch.float64)
    u = chart.encode(x, Rng(0))
    assert u.shape == (3, 7)
    assert torch.equal(chart.decode(u, Rng(1)), x)
    columns = [Column(kind, start, tuple(values)) for kind, start, values in chart.space.meta["columns"]]
    assert [c.kind for c in columns] == ["levels", "smooth", "codes", "codes"]
    found = Columns(columns).pieces_of(u)
    assert (found - found.new_tensor([0, 4, 4 + PIECES, 7 + PIECES])).T[[0, 2, 3]].tolist() == x.T[[0, 2, 3]].tolist()
    # the only volume is that of the rounded number: q is even on a bin of 0.5, u in units of 3
    torch.testing.assert_close(chart.log_weight(u, x), torch.full((3,), math.log(0.5 / 3.0), dtype=torch.float64))
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[:, 2] = False
    assert chart.mask(seen)[0].tolist() == [True, True, False, False, False, True, True]
