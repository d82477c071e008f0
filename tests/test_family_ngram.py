"""N-gram: sums to one, counts as the textbooks say, walks as it computes, bins numbers without losing mass."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor

import pofx
from pofx.check.toys import TOYS
from pofx.data import Data
from pofx.engines.histogram import Histogram
from pofx.engines.ngrams import SMOOTHINGS, Events, NGrams, _discounts
from pofx.families.ngram import NGram
from pofx.kinds.base import Space, Variable, category
from pofx.model import Quality, Unsupported
from pofx.randomness import Rng


def words(length: int, levels: int) -> Space:
    return Space((length,), (Variable("token", "category", levels),), "sequence", dtype="int64")


def pictures(height: int, wide: int, channels: int, levels: int) -> Space:
    return Space((height, wide, channels), (Variable("pixel", "ordinal", levels),), "grid", "image", "uint8")


def codes() -> Space:
    variables = (Variable("a", "category", 3), Variable("b", "ordinal", 4), Variable("c", "binary", 2))
    return Space((3,), variables, kind="table")


def every(space: Space) -> Tensor:
    levels = [range(space.variable(i).levels) for i in range(space.size)]
    return torch.tensor(list(product(*levels))).reshape(-1, *space.shape).to(space.torch_dtype)


def skewed(space: Space, n: int, seed: int = 0) -> Tensor:
    """Rows in which neighbours depend on each other, and whose states are seen very unevenly."""
    rng, x = Rng(seed), torch.zeros(n, space.size, dtype=torch.long)
    for i in range(space.size):
        k = space.variable(i).levels
        wild = (rng.uniform((n,)).square() * k).long().clamp_max(k - 1)
        same = x[:, i - 1].clamp_max(k - 1) if i else wild
        x[:, i] = torch.where(rng.bernoulli(0.6, (n,)), same, wild)
    return x.reshape(n, *space.shape).to(space.torch_dtype)


def counted(x: Tensor, space: Space, observed: Tensor | None = None, **options: object) -> NGram:
    model = NGram(**options).build(space)  # type: ignore[arg-type]
    split = {"train": torch.arange(len(x)), "valid": torch.arange(0), "test": torch.arange(0)}
    model.fit_closed(Data(x, space, observed=observed, split=split), Rng(0))
    return model  # type: ignore[return-value]


SPACES = [words(4, 3), pictures(2, 2, 1, 2), pictures(1, 2, 2, 3), codes()]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("order", [1, 3, 9])
def test_all_x_sum_to_one_seen_or_not(smoothing: str, space: Space, order: int) -> None:
    model = counted(skewed(space, 40), space, order=order, smoothing=smoothing)
    log_p = model.log_prob(every(space))
    assert log_p.quality is Quality.EXACT
    assert log_p.value.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert torch.isfinite(log_p.value).all()  # whatever was never seen
    assert log_p.value.exp().std() > 0.3 / len(log_p.value)


@pytest.mark.parametrize("space", SPACES)
def test_steps_agree_with_log_prob_and_samples_with_both(space: Space) -> None:
    model = counted(skewed(space, 60), space)
    x = every(space)
    cursor, flat = model.steps(len(x)), x.flatten(1)
    total, predictive = torch.zeros(len(x), dtype=torch.float64), cursor.start()
    for i in cursor.order:
        total += predictive.log_prob(flat[:, i : i + 1])[:, 0].double()
        predictive = cursor.next(flat[:, i])
    assert predictive is None
    p = model.log_prob(x).value
    assert torch.allclose(total, p, atol=1e-9)
    drawn = model.sample(6000, rng=1).flatten(1)
    hits = (drawn[:, None] == flat[None]).all(-1).double().sum(0)
    expected = 6000 * p.exp()
    live = expected > 2
    chi = ((hits - expected).square() / expected)[live].sum()
    assert abs(float(chi - live.sum())) < 5 * math.sqrt(2 * int(live.sum()))


def chain(x: Tensor, levels: int, order: int) -> tuple[dict[tuple[int, ...], Counter], list[Counter]]:
    """n-gram counts of sequences (N, D) by plain loops: context, farthest first -> what followed."""
    tables: list[Counter] = [Counter() for _ in range(order)]
    for row in x.tolist():
        padded = [levels] * (order - 1) + row
        for t in range(len(row)):
            for k in range(order):
                tables[k][tuple(padded[t + order - 1 - k : t + order])] += 1
    return {}, tables


@pytest.mark.parametrize("order", [2, 3])
def test_kneser_ney_is_the_textbooks(order: int) -> None:
    levels, x = 4, skewed(words(6, 4), 30)
    _, tables = chain(x, levels, order)
    continuation = list(tables)
    for k in reversed(range(order - 1)):
        continuation[k] = Counter(gram[1:] for gram in continuation[k + 1])

    def p(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / levels
        counts = continuation[len(gram) - 1]
        after = {w: counts[(*gram[:-1], w)] for w in range(levels)}
        total = sum(after.values())
        if not total:
            return p(gram[1:])
        d = [0.0, *_discounts(torch.tensor(list(counts.values()))).tolist()]
        kept = max(after[gram[-1]] - d[min(after[gram[-1]], 3)], 0)
        return kept / total + sum(d[min(c, 3)] for c in after.values()) / total * p(gram[1:])

    model = counted(x, words(6, 4), order=order)
    some = torch.cat([x[:5], skewed(words(6, 4), 5, seed=9)])
    for row, log_p in zip(some.tolist(), model.log_prob(some).value.tolist(), strict=True):
        padded = [levels] * (order - 1) + row
        assert log_p == pytest.approx(sum(math.log(p(tuple(padded[t : t + order]))) for t in range(6)), abs=1e-9)


def test_witten_bell_is_the_textbooks() -> None:
    levels, x = 3, skewed(words(5, 3), 20)
    _, tables = chain(x, levels, 2)

    def p(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / levels
        after = [tables[len(gram) - 1][(*gram[:-1], w)] for w in range(levels)]
        total, types = sum(after), sum(c > 0 for c in after)
        return (after[gram[-1]] + types * p(gram[1:])) / (total + types) if total else p(gram[1:])

    model = counted(x, words(5, 3), order=2, smoothing="witten-bell")
    log_p = model.log_prob(x[:4]).value
    for row, found in zip(x[:4].tolist(), log_p.tolist(), strict=True):
        padded = [levels, *row]
        assert found == pytest.approx(sum(math.log(p(tuple(padded[t : t + 2]))) for t in range(5)), abs=1e-9)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_what_comes_after_a_gap_is_counted_without_it(smoothing: str) -> None:
    """The first entry is always missing: the second is a unigram all the same."""
    space, n = Space((2,), (Variable("a", "category", 3), Variable("b", "category", 3))), 2000
    x = torch.stack([torch.zeros(n, dtype=torch.long), Rng(0).integers(2, (n,))], 1).double()
    observed = torch.tensor([[False, True]]).expand(n, -1)
    model = counted(x, space, observed, smoothing=smoothing)
    p = model.log_prob(every(space)).value.exp().reshape(3, 3)
    assert torch.allclose(p[0] / p[0].sum(), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), atol=0.05)


def test_the_discounts_of_chen_and_goodman() -> None:
    counts = torch.tensor([1] * 50 + [2] * 20 + [3] * 12 + [4] * 8 + [9] * 5)
    y = 50 / 90
    assert torch.allclose(
        _discounts(counts), torch.tensor([1 - 2 * y * 20 / 50, 2 - 3 * y * 12 / 20, 3 - 4 * y * 8 / 12]).double()
    )


def test_held_out_weights_trust_what_predicts() -> None:
    """Where the last symbol decides the next, long contexts get the weight; where nothing does, they do not."""
    n, told = 3000, []
    for copies in (True, False):
        first = Rng(0).integers(5 if copies else 40, (n,))
        second = first if copies else Rng(1).integers(40, (n,))
        table = NGrams(40, 2, "jelinek-mercer")
        rows = [Events(torch.zeros(len(a), dtype=torch.long), a[:, None], b)
                for a, b in ((first[300:], second[300:]), (first[:300], second[:300]))]  # fmt: skip
        table.fit(*rows)
        told.append(1 - table.levels[1].rest.mean())
    assert told[0] > 0.95 and told[1] < 0.5


def test_packing_events_changes_nothing() -> None:
    rng = Rng(0)
    events = Events(rng.integers(3, (500,)), rng.integers(4, (500, 2)) - 1, rng.integers(3, (500,)))
    packed = events.packed(3)
    assert len(packed.target) < 300 and int(packed.counts.sum()) == 500
    rows = torch.cat([events.root[:, None], events.context, events.target[:, None]], 1)
    unique, counts = torch.unique(rows, dim=0, return_counts=True)
    again = torch.cat([packed.root[:, None], packed.context, packed.target[:, None]], 1)
    assert torch.equal(again, unique) and torch.equal(packed.counts, counts)
    for smoothing in SMOOTHINGS:
        plain, tight = NGrams(3, 3, smoothing), NGrams(3, 3, smoothing)
        plain.fit(Events(events.root, events.context, events.target), events)
        tight.fit(packed, packed)
        options = torch.full((500,), 3)
        assert torch.allclose(plain.log_prob(events, options), tight.log_prob(events, options), atol=1e-12)
    wide = Events(events.root, torch.zeros(500, 80, dtype=torch.long), events.target)  # one number cannot hold it
    assert torch.equal(wide.packed(3).counts, torch.ones(500, dtype=torch.long))


def test_more_context_predicts_better_and_a_large_sample_is_learnt() -> None:
    space, n = words(8, 3), 6000
    x = skewed(space, n)
    losses = [-counted(x[:5000], space, order=k).log_prob(x[5000:]).value.mean().item() for k in (1, 2, 3)]
    assert losses[0] - losses[1] > 0.5 and abs(losses[2] - losses[1]) < 0.1
    p = torch.tensor([0.6 + 0.4 * 0.577, 0.4 * 0.239, 0.4 * 0.184])  # of the symbol after a 0: sqrt(1/3), sqrt(2/3)
    predictive = counted(x, space, order=2).steps(1)
    predictive.start()
    after = predictive.next(torch.tensor([0]))
    got = torch.stack([after.log_prob(torch.tensor([[k]]))[0, 0].exp() for k in range(3)])
    assert torch.allclose(got.float(), p, atol=0.03)


def test_pixels_look_up_as_well_as_left() -> None:
    """Rows that repeat the row above: the nearest pixels know, the last ones in reading order do not."""
    space = pictures(4, 6, 1, 2)
    top = Rng(0).bernoulli(0.5, (500, 1, 6, 1)).to(torch.uint8)
    x = top.expand(-1, 4, -1, -1).contiguous()
    near, raster = (
        -counted(x, space, order=4, neighbours=n).log_prob(x).value.mean().item() for n in ("near", "raster")
    )
    assert near < 6 * math.log(2) + 0.5 and raster > near + 5


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_gaps_are_not_counted_and_a_label_is_known_or_not(smoothing: str) -> None:
    space, n = codes(), 4000
    label = torch.arange(n) % 2
    x = torch.stack([label, label, label], 1).double()
    observed = Rng(1).bernoulli(0.8, tuple(x.shape))
    x = torch.where(observed, x, 2.0)  # what is missing would be a level, if it counted
    split = {"train": torch.arange(n), "valid": torch.arange(0), "test": torch.arange(0)}
    data = Data(x, space, {"label": label}, {"label": category(2)}, observed, split)
    model = NGram(smoothing=smoothing).build(space, data.given_spaces)
    model.fit_closed(data, Rng(0))
    rows = torch.tensor([[0.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    told = model.log_prob(rows, {"label": torch.tensor([0, 1])}).value
    free = model.log_prob(rows).value
    assert (told > -0.1).all() and (model.log_prob(rows, {"label": torch.tensor([1, 0])}).value < -3).all()
    assert torch.allclose(free, torch.full_like(free, math.log(0.5)), atol=0.15)
    drawn = model.sample(200, {"label": torch.tensor([0, 1])}, rng=0)
    assert (drawn == rows).all(-1).double().mean() > 0.9
    mask = torch.tensor([[True, True, False]]).expand(2, -1)
    first = model.log_prob(rows, observed=mask)
    every_third = model.log_prob(torch.tensor([[0.0, 0, k] for k in range(2)], dtype=torch.float64)).value
    assert first.value[0].item() == pytest.approx(every_third.logsumexp(0).item(), abs=1e-9)
    with pytest.raises(Unsupported, match="comes before"):
        model.log_prob(rows, observed=~mask)


@pytest.mark.parametrize("low, high, step", [
    (-math.inf, math.inf, 0.0), (-math.inf, math.inf, 0.5), (0.0, 10.0, 0.0), (-0.25, math.inf, 0.5),
    (-0.5, math.inf, 1.0),
])  # fmt: skip
def test_bins_hold_all_the_mass_and_draw_it(low: float, high: float, step: float) -> None:
    x = Rng(0).normal((2000,), torch.float64) * 1.5 + 3
    x = x.clamp(max(low + 0.3, -50), min(high, 50))
    x = torch.round(x / step) * step if step else x
    bins = Histogram.fitted(x, 12, low, high, step, 1.5)
    assert 2 <= bins.bins <= 12 and (bins.edges.diff() > 0).all()
    if step:
        grid = torch.arange(-400, 400, dtype=torch.float64) * step
    else:
        grid = torch.linspace(-40, 60, 400001, dtype=torch.float64)
    mass = bins.log_inside(grid).exp() * (1.0 if step else 100 / 400000)
    total = torch.zeros(bins.bins, dtype=torch.float64).index_add_(0, bins.code(grid), mass)
    assert torch.allclose(total, torch.ones_like(total), atol=2e-3 if not step else 1e-6)
    b = bins.code(x)
    drawn = bins.sample(b, Rng(1))
    assert torch.equal(bins.code(drawn), b)
    assert torch.isfinite(bins.log_inside(drawn)).all() and torch.isfinite(bins.log_inside(x)).all()
    tail = b == bins.bins - 1
    if math.isinf(high):
        assert (
            abs(float(drawn[tail].mean() - x[tail].mean())) < 5 * float(x[tail].std()) / int(tail.sum()) ** 0.5 + step
        )


def test_a_repeated_value_does_not_make_a_spike() -> None:
    x = torch.cat([torch.zeros(900, dtype=torch.float64), Rng(0).normal((100,), torch.float64)])
    assert Histogram.fitted(x, 20, -math.inf, math.inf, 0.0, 1.0).log_inside(x).max() < math.log(101)


@pytest.mark.parametrize("toy", ["density", "table"])
def test_numbers_are_fitted_saved_and_loaded(toy: str, tmp_path) -> None:
    data = TOYS[toy]()
    model = pofx.fit(data, NGram(), progress=False, seed=0)
    test = data.part("test")
    log_p = pofx.density(model, test.x, given=test.given or None).value
    assert torch.isfinite(log_p).all()
    model.save(tmp_path / "m")
    again = pofx.load(tmp_path / "m", families=[NGram])
    assert torch.equal(pofx.density(again, test.x, given=test.given or None).value, log_p)
    assert "steps" not in again.offers()


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"order": 0}, {"smoothing": "laplace"}, {"neighbours": "far"}, {"bins": 1}):
        with pytest.raises(ValueError, match="expected"):
            NGram(**wrong)
    with pytest.raises(Unsupported, match="one category"):
        NGram().build(codes(), {"a": category(2), "b": category(2)})
    with pytest.raises(Unsupported, match="integer levels"):
        NGram().build(Space((2, 2, 1), (Variable("x"),), "grid"))
