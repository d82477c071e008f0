"""The pictures of answers: each shows the numbers of its answer, for every kind, however few rows there are."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

import pofx
from pofx import cli_io
from pofx.drawing.entries import STRANGE, entries_figure, least_likely
from pofx.drawing.gaps import Filled, filled_figure
from pofx.drawing.letters import ACROSS, END, LINES, laid_out, spelt
from pofx.drawing.pixels import pixels
from pofx.drawing.rows import MOST, rows_figure
from pofx.drawing.scores import FLAGGED, MARKED, density_figure, scores_figure
from pofx.drawing.sizes import packed, sizes_figure, sizes_of
from pofx.drawing.style import HOLE, png
from pofx.drawing.values import units
from pofx.kinds.base import Space, Variable, real
from pofx.tasks.impute import figure as impute_figure

KINDS = ("table", "picture", "text", "series")


def frame(count: int = 80) -> pd.DataFrame:
    """A number, whole numbers that follow it, and a word that follows both."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=count).round(2)
    word = np.where(a > 0.4, "<high>", np.where(a < -0.4, "low", "middle"))
    return pd.DataFrame({"a": a, "b": (20 + 5 * a + rng.normal(size=count)).round().astype(int), "word": word})


def pictures(count: int = 60, side: int = 4) -> np.ndarray:
    """Dark pictures `(N, side, side)` with a bright bar somewhere."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, (count, side, side))
    x[np.arange(count), rng.integers(side, size=count)] += 200
    return x.astype(np.uint8)


def fitted(kind: str):
    """A model and its data."""
    rng = np.random.default_rng(1)
    source, family = {
        "table": lambda: (frame(), "mixture"),
        "picture": lambda: (pictures(), "mixture"),
        "text": lambda: (["".join(rng.choice(list("abc"), 2 + k % 4)) for k in range(60)], "ngram"),
        "series": lambda: (np.cumsum(rng.normal(size=(400, 2)), 0), "gaussian"),
    }[kind]()
    options = {"length": 8} if kind == "series" else None
    data = pofx.open_data(source, kind=kind if kind in ("series", "text") else None, options=options, seed=0)
    return pofx.fit(data, family, progress=False, threads=1, budget="5s"), data


@pytest.fixture(scope="module", params=KINDS)
def known(request):
    return fitted(request.param)


@pytest.fixture(scope="module")
def table():
    return fitted("table")


@pytest.fixture(scope="module")
def picture():
    return fitted("picture")


@pytest.fixture(scope="module")
def text():
    return fitted("text")


def drawn(figure) -> None:
    """It renders, without a word of warning, and its title is not cut off."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png(figure)[:4] == b"\x89PNG"
    titles = [t for t in figure.texts if t.get_text() == figure.get_suptitle()]
    wide = [t.get_window_extent().x1 for t in titles if t.get_text()]
    assert all(right <= figure.bbox.x1 for right in wide), figure.get_suptitle()


def words(figure) -> str:
    """All that is written."""
    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text")) if t.get_text())


def apart(axes) -> bool:
    """Whether no two texts in the axes lie over each other."""
    axes.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
    return not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def with_gaps(data, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    x = data.part("test").x[:rows]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed.flatten(1)[::2, 1:3] = False
    return x, observed


@pytest.mark.parametrize("task", ["sample", "density", "contribute", "anomaly", "impute", "one draw", "compress"])
def test_every_answer_draws_itself(known, task):
    model, data = known
    rows = data.part("test")
    x, observed = with_gaps(data)
    answer = {
        "sample": lambda: pofx.sample(model, 20, rng=0),
        "density": lambda: pofx.density(model, rows),
        "contribute": lambda: pofx.contribute(model, x),
        "anomaly": lambda: pofx.anomaly(model, rows, data, fdr=0.2),
        "impute": lambda: pofx.impute(model, x, observed=observed, draws=20, rng=0),
        "one draw": lambda: pofx.impute(model, x, observed=observed, draws=1, rng=0),
        "compress": lambda: pofx.compress(model, rows),
    }
    if task == "compress" and data.space.kind == "series":
        return  # a density has no length
    found = answer[task]()
    drawn(found.figure())
    assert "data:image/png;base64," in found._repr_html_()


def test_importing_the_library_imports_no_matplotlib():
    code = "import sys, pofx, pofx.tasks.impute, pofx.drawing.gaps; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr


# rows


def test_a_sample_says_how_much_of_it_is_shown(table, text):
    model, _ = text
    found = pofx.sample(model, 40, rng=0)
    axes = found.figure().axes[0]
    assert [t.get_text() for t in axes.texts] == found.value[: MOST["text"]]
    assert found.figure().get_suptitle() == "40 draws of ngram (the first 12)"
    assert pofx.sample(model, 1, rng=0).figure().get_suptitle() == "1 draw of ngram"
    panels = pofx.sample(table[0], 40, rng=0).figure().axes[0].child_axes
    assert [p.get_title() for p in panels] == ["a", "b", "word"]
    assert all(sum(bar.get_height() for bar in p.patches) == 40 for p in panels)


def test_a_sample_says_what_it_was_given(table):
    model, _ = table
    title = pofx.sample(model, 5, known={"word": "low"}, rng=0).figure().get_suptitle()
    assert title == "5 draws of mixture, given word = low"
    conditional = pofx.fit(pofx.open_data(frame(), given=["word"]), "gaussian", progress=False)
    told = pofx.sample(conditional, 5, given={"word": "middle"}, rng=0)
    assert told.figure().get_suptitle() == "5 draws of gaussian, given word = middle"
    several = pofx.sample(conditional, 2, given={"word": ["middle", "low"]}, rng=0)
    assert several.figure().get_suptitle() == "2 draws of gaussian"


def test_a_table_says_how_many_columns_are_left_out():
    wide = pofx.open_data(pd.DataFrame(np.random.default_rng(0).normal(size=(30, 8)), columns=list("abcdefgh")))
    assert rows_figure(wide.x, wide.space, "rows").get_suptitle() == "rows (6 of 8 columns)"


def test_a_long_title_is_broken(table):
    figure = rows_figure(table[1].x, table[1].space, "a very long title " * 9)
    assert figure.get_suptitle().count("\n") == 2
    drawn(figure)


def test_rows_need_a_row(table):
    with pytest.raises(ValueError, match="expected at least one"):
        rows_figure(table[1].x[:0], table[1].space)


def test_a_picture_of_rows_as_a_file(known, tmp_path):
    model, data = known
    cli_io.picture(data.restore(data.x[:5]), tmp_path / "rows.png", data.space)
    assert min(Image.open(tmp_path / "rows.png").size) > 150


# density


def densities(log_p, space=None, x=None, **more):
    space = real(1) if space is None else space
    x = torch.zeros(len(log_p), *space.shape) if x is None else x
    return density_figure(np.array(log_p, dtype=float), "nats", "exact", x, space, **more)


def test_density_counts_every_possible_row(table):
    model, data = table
    answer = pofx.density(model, data.x)
    figure = answer.figure()
    histogram, marks = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == len(data)
    mean = float(answer.value.mean())
    assert histogram.lines[0].get_xdata()[0] == pytest.approx(mean)
    bits = float(pofx.tasks.density.bits_per_dim(answer.value, data.space).mean())
    assert figure.get_suptitle() == f"log p of 80 rows: mean −{-mean:.4g} nats = {bits:.3g} bits per entry, exact"
    lowest = answer.value.argsort()[:MARKED].tolist()
    assert [t.get_text() for t in marks.texts[:MARKED]] == [f"row {r}" for r in lowest]
    at = [line.get_xdata()[0] for line in marks.lines]
    assert at == pytest.approx(answer.value[lowest].tolist())
    assert apart(marks)


def test_density_of_impossible_rows_is_in_the_corner():
    figure = densities([-1.0, -2.0, -math.inf, -3.0, -math.inf])
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3
    assert "2 rows with log p = −∞: 2, 4" in words(figure)
    assert "mean of the 3 possible ones −2 nats" in figure.get_suptitle()
    none = densities([-math.inf] * 4)
    assert not none.axes[0].patches and "every one is impossible" in none.get_suptitle()
    assert "4 rows with log p = −∞: 0, 1, 2, 3" in words(none)
    drawn(none)


@pytest.mark.parametrize("log_p", [[-5.0], [-5.0] * 7, [1e-9, 2e-9], [-1e12, -3.0, -2.0, -2.5], list(range(300))])
def test_density_of_few_alike_or_far_off_rows(log_p):
    figure = densities(log_p)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(log_p)
    assert apart(figure.axes[1])
    low, high = figure.axes[0].get_xlim()
    marks = figure.axes[1]
    assert all(low <= x <= high for line in marks.lines for x in line.get_xdata())
    drawn(figure)


def test_density_says_that_far_off_rows_stand_at_the_edge():
    rows = [*np.linspace(-3, -2, 50), -1e4]
    figure = densities(rows)
    assert "at the edge" in words(figure) and "at the edge" not in words(densities(rows[:50]))
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 51
    assert figure.axes[0].patches[0].get_height() == 1  # the far-off one


def test_density_shows_the_likeliest_and_the_least_likely_pictures(picture):
    model, data = picture
    answer = pofx.density(model, data.x)
    figure = answer.figure()
    histogram, best, worst = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == len(data)
    order = answer.value.argsort(descending=True).tolist()
    for axes, rows in ((best, order[:8]), (worst, order[::-1][:8])):
        assert [t.get_text().split("\n")[0] for t in axes.get_xticklabels()] == [f"row {r}" for r in rows]
        sheet = axes.images[0].get_array()
        assert np.array_equal(sheet[:4, :4], pixels(data.x[rows[0]], data.space))
    few = pofx.density(model, data.x[:3]).figure()
    assert len(few.axes) == 3 and [t.get_text() for t in few.axes[1].get_xticklabels()][1] == ""
    assert len(pofx.density(model, data.x[:1]).figure().axes) == 2  # one row is not compared with itself


def test_density_of_rows_with_gaps_and_of_a_bound(table):
    model, data = table
    x, observed = with_gaps(data)
    drawn(pofx.density(model, torch.where(observed, x, torch.nan)).figure())
    bound = dataclasses.replace(pofx.density(model, x), stderr=torch.full((len(x),), 0.25))
    assert "standard error about 0.25 a row" in bound.figure().get_suptitle()
    free = dataclasses.replace(bound, quality=pofx.model.Quality.UNNORMALISED, stderr=None)
    assert "bits" not in free.figure().get_suptitle() and "unnormalised" in free.figure().get_suptitle()


# anomaly


def test_scores_stand_as_high_as_they_are_many():
    rng = np.random.default_rng(0)
    scores, known, flagged = np.append(rng.normal(size=99), 50.0), rng.normal(size=200), np.arange(100) > 97
    (axes,) = scores_figure(scores, "score", known, flagged).axes
    assert axes.get_legend_handles_labels()[1] == ["200 rows that belong", "100 rows asked", "2 flagged"]
    width = axes.patches[0].get_width()
    area = Counter()
    for bar in axes.patches:
        if isinstance(bar, Rectangle):
            area[tuple(np.round(bar.get_facecolor(), 3))] += bar.get_height() * width
    assert sorted(area.values()) == pytest.approx([0.02, 1.0])
    assert tuple(np.round((*to_rgb(FLAGGED), 1.0), 3)) in area
    assert "at the edge" in axes.get_xlabel() and "at the edge" not in scores_figure(known, "s").axes[0].get_xlabel()
    drawn(scores_figure(np.zeros(3), "score"))


def test_anomaly_shows_the_strangest_pictures(picture):
    model, data = picture
    answer = pofx.anomaly(model, data.x, data)
    histogram, strip = answer.figure().axes
    assert histogram.get_xlabel().startswith("score by log prob, nats")
    names = [t.get_text().split("\n")[0] for t in strip.get_xticklabels()]
    assert names == [f"row {r}" for r in answer.strangest[:8]]
    flagged = answer.flag(np.arange(len(data)) == answer.strangest[0], "hand").figure().axes[1]
    assert [t.get_text().endswith("flagged") for t in flagged.get_xticklabels()] == [True] + [False] * 7
    assert len(pofx.anomaly(model, data.x, data, batch=5).figure().axes) == 1


def test_anomaly_in_a_notebook_says_why_and_quotes_what_the_user_wrote(table):
    model, data = table
    answer = pofx.anomaly(model, data.x[:20])
    shown = answer._repr_html_()
    assert shown.count("<img") == 1 and "row " in shown and "No p-values" in shown
    assert "<high>" not in shown and "&lt;high&gt;" in shown
    assert answer.asked.x is answer.question["asked"].x


# contribute


def heat_map(figure) -> np.ndarray:
    return np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)


def test_contribute_shows_what_the_answer_says(table):
    model, data = table
    answer = pofx.contribute(model, data.x)
    figure = answer.figure()
    values = answer.value.numpy()
    excess = values - np.median(np.sort(values, 0)[: len(values) - 1], 0)  # the lower median, as torch takes it
    rows = np.argsort(excess.sum(1), kind="stable")[:30]
    assert np.allclose(heat_map(figure), excess[rows])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [f"row {r}" for r in rows]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b", "word"]
    frames = {(p.get_y() + 0.5, p.get_x() + 0.5) for p in figure.axes[0].patches if p.get_gid() == "strangest"}
    assert frames == {(k, int(excess[r].argmin())) for k, r in enumerate(rows) if excess[r].min() < -STRANGE}
    cells = np.array([t.get_text() for t in figure.axes[0].texts]).reshape(30, 3)
    assert cells[:, 2].tolist() == data.restore(data.x)["word"].iloc[rows].tolist()
    assert [float(c.replace("−", "-")) for c in cells[:, 0]] == pytest.approx(data.x[rows.copy(), 0].tolist())


def test_contribute_of_few_rows_asks_the_model_what_is_usual(table):
    model, data = table
    figure = pofx.contribute(model, data.x[:3]).figure()
    usual = pofx.contribute(model, model.sample(100, None, 0), route="others").value.median(0).values
    want = (pofx.contribute(model, data.x[:3]).value - usual).numpy()
    assert np.allclose(heat_map(figure), want[least_likely(want, 3)]) and "100 draws" in figure.get_suptitle()


def test_contribute_leaves_gaps_grey(table):
    model, data = table
    x, observed = with_gaps(data)
    shown = heat_map(pofx.contribute(model, torch.where(observed, x, torch.nan)).figure())
    assert np.isnan(shown).sum() == int((~observed).sum())


def test_contribute_maps_pictures(picture):
    model, data = picture
    answer = pofx.contribute(model, data.x)
    figure = answer.figure()
    excess = (answer.value - answer.value.median(0).values).numpy()
    rows = least_likely(excess, 8)
    above, below = figure.axes[:8], figure.axes[8:16]
    for k, r in enumerate(rows):
        assert np.array_equal(above[k].images[0].get_array(), pixels(data.x[int(r)], data.space))
        assert np.allclose(below[k].images[0].get_array(), excess[r, ..., 0])
    assert len({axes.images[0].norm.vmax for axes in below}) == 1
    assert all(axes.images[0].norm.vmin == -axes.images[0].norm.vmax for axes in below)
    assert len(figure.axes) == 17  # the bar of colours


def test_contribute_colours_letters(text):
    model, data = text
    answer = pofx.contribute(model, data.x)
    axes = answer.figure().axes[0]
    rows = least_likely(answer.value.numpy(), 8)
    spelt_rows = data.restore(data.x)
    shown = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    for k, r in enumerate(rows):
        length = len(spelt_rows[r])
        end = int(length < data.space.size)
        assert np.allclose(shown[2 * k, : length + end], answer.value[r, : length + end])
        line = sorted((t.get_position()[0], t.get_text()) for t in axes.texts if t.get_position()[1] == 2 * k)
        assert "".join(letter for _, letter in line) == spelt_rows[r] + END * end


def test_contribute_of_steps_adds_channels():
    model, data = fitted("series")
    answer = pofx.contribute(model, data.part("test").x)
    figure = answer.figure()
    sums = (answer.value - answer.value.median(0).values).sum(2)
    bars = [bar.get_height() for bar in figure.axes[1].patches]
    assert bars == pytest.approx(sums[int(sums.sum(1).argmin())].tolist())


@pytest.mark.parametrize("values", [[[-math.inf, 0.0]], [[0.0, 0.0]], [[-math.inf, -math.inf], [-1.0, 0.5]]])
def test_contribute_of_impossible_and_equal_entries(values):
    v = np.array(values)
    seen, space = torch.ones(v.shape, dtype=torch.bool), real(2)
    figure = entries_figure(v, torch.zeros(v.shape), seen, space, "nats an entry", np.zeros(2), "usual: 0")
    image = figure.axes[0].images[0]
    assert not np.ma.getmaskarray(image.get_array()).any() and image.norm.vmax == -image.norm.vmin >= 1
    impossible = np.isinf(v[least_likely(v, 9)])
    assert (image.get_array()[impossible] < image.norm.vmin).all()
    drawn(figure)


def test_contribute_of_one_column_of_many_and_of_nothing_known():
    for d in (1, 100):
        x, seen = torch.randn(4, d, generator=torch.Generator().manual_seed(0)), torch.ones(4, d, dtype=torch.bool)
        seen[1] = False
        figure = entries_figure(x.numpy(), x, seen, real(d), "nats an entry", np.zeros(d), "usual: 0")
        assert figure.axes[0].images[0].get_array().shape == (4, d)
        drawn(figure)


def test_long_texts_are_broken_and_cut():
    lines, starts, numbers = laid_out([["ab"] * 50, ["\n"]], [np.arange(50.0), np.array([7.0])])
    assert [len(line) for line in lines] == [ACROSS] * 4 and starts == [0, 3] and lines[3][0] == "↵"
    assert numbers[0][:4].tolist() == [0, 0, 1, 1] and numbers[1][100 - ACROSS - 1] == 49 and numbers[3][0] == 7
    assert len(laid_out([["a"]] * 90, [np.zeros(1)] * 90)[0]) == LINES
    assert laid_out([[]], [np.zeros(0)])[0][0].strip() == ""


def test_a_text_is_spelt_to_its_end(text):
    data = text[1]
    assert ["".join(s).removesuffix(END) for s in spelt(data.x, data.space)] == data.restore(data.x)


# impute


def test_impute_shows_gaps_and_intervals(table):
    model, data = table
    x, observed = with_gaps(data, 12)
    observed[:] = True
    observed[::2, 1], observed[::3, 2] = False, False
    answer = pofx.impute(model, x, observed=observed, draws=20, rng=0)
    x[2, 1], x[4, 1] = 500.0, -500.0  # the ends of the column: no draw comes near
    figure = impute_figure(answer, x)
    above_b, above_word, below_b, below_word = figure.axes
    assert above_b.get_title(loc="left") == "b" and above_word.get_title(loc="left") == "word"
    hole, facts = ~observed[:, 1], answer.diagnostics
    order = facts["mean_raw"][hole, 1].argsort()
    truth = torch.from_numpy(units(data.space, x))
    low, high, mean, real = (t[hole, 1][order] for t in (facts["low"], facts["high"], facts["mean_raw"], truth))
    segments = np.array(below_b.collections[0].get_segments())
    assert np.allclose(segments[:, 0, 1], low) and np.allclose(segments[:, 1, 1], high)
    lines = {line.get_label().split(" ")[-1]: line.get_ydata().tolist() for line in below_b.lines}
    outside = (real < low) | (real > high)
    assert bool((real < low).any()) and bool((real > high).any())
    assert lines["interval"] == pytest.approx(mean.tolist())
    assert lines["outside"] == real[outside].tolist() and lines["inside"] == real[~outside].tolist()
    shares = sorted(line.get_ydata().tolist() for line in below_word.lines)
    gaps = ~observed[:, 2]
    assert sum(map(len, shares)) == int(gaps.sum())
    codes = answer.raw[:, gaps, 2].long()
    agreed = sorted(((codes == codes.mode(0).values).double().mean(0)).tolist())
    assert sorted(v for part in shares for v in part) == pytest.approx(agreed)
    observed_words = torch.bincount(x[~gaps, 2].long(), minlength=3) / (~gaps).sum()
    assert [bar.get_height() for bar in above_word.patches[:3]] == pytest.approx(observed_words.tolist())
    drawn(figure)


def test_impute_marks_right_and_wrong_words():
    space = Space((1,), (Variable("w", "category", 2, ("yes", "no")),), kind="table")
    draws = torch.zeros(4, 3, 1)
    draws[:, 2] = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    truth = torch.tensor([[0.0], [1.0], [1.0]])
    figure = filled_figure(Filled(draws, torch.zeros(3, 1, dtype=torch.bool), space, truth=truth))
    right, wrong = figure.axes[1].lines
    assert right.get_ydata().tolist() == [0.75, 1.0] and wrong.get_ydata().tolist() == [1.0]
    assert right.get_xdata().tolist() == [0, 1] and wrong.get_xdata().tolist() == [2]
    drawn(figure)


def test_impute_shows_the_hole_of_a_picture(picture):
    model, data = picture
    x = data.part("test").x[:3]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:2, 2:] = False
    answer = pofx.impute(model, x, observed=observed, draws=20, rng=0)
    axes = impute_figure(answer, x).axes[0]
    heads = [t.get_text() for t in axes.get_xticklabels()]
    assert heads == ["known", "draw 1", "draw 2", "draw 3", "mean", "truth", "spread"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["row 0", "row 1"]
    sheet = np.asarray(axes.images[0].get_array())
    assert (sheet[2:4, :4] == HOLE).all() and np.array_equal(sheet[:2, :4], pixels(x[0], data.space)[:2])
    assert np.array_equal(sheet[:4, 5:9], pixels(answer.raw[0, 0], data.space))
    assert np.array_equal(sheet[:4, 25:29], pixels(x[0], data.space))
    alone = pofx.impute(model, x, observed=observed, draws=1, rng=0).figure()
    assert [t.get_text() for t in alone.axes[0].get_xticklabels()] == ["known", "one draw"]
    assert "draws=20" in alone.get_suptitle()


def test_impute_draws_series_where_steps_are_missing():
    model, data = fitted("series")
    x = data.part("test").x[:2]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 3:5, 1] = False
    answer = pofx.impute(model, x, observed=observed, draws=20, rng=0)
    axes = answer.figure().axes
    assert len(axes) == 2 and len(axes[0].lines) == 22
    line = axes[0].lines[0].get_ydata()
    assert np.flatnonzero(~np.isnan(line)).tolist() == [2, 3, 4, 5]  # joined to what is known
    assert np.allclose(line[2:6], answer.raw[0, 0, 2:6, 1])
    seen = axes[0].lines[20].get_ydata()
    assert np.flatnonzero(np.isnan(seen)).tolist() == [3, 4]


def test_impute_tints_what_was_missing_in_a_text(text):
    model, data = text
    x = data.x[:2]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1, 0] = False
    answer = pofx.impute(model, x, observed=observed, draws=2, rng=0)
    axes = answer.figure().axes[0]
    tinted = ~np.ma.getmaskarray(axes.images[0].get_array())
    assert np.argwhere(tinted).tolist() == [[0, 0], [2, 0]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["row 1, draw 1", "row 1, draw 2"]


def test_impute_refuses_where_there_is_nothing_to_draw(table):
    model, data = table
    with pytest.raises(ValueError, match="nothing was missing"):
        pofx.impute(model, data.x[:4], draws=3).figure()
    x, observed = with_gaps(data)
    with pytest.raises(ValueError, match="truth has shape"):
        impute_figure(pofx.impute(model, x, observed=observed, rng=0), x[:2])


@pytest.mark.parametrize("draws", [1, 3, 20])
def test_impute_of_constant_columns_of_one_column_and_of_nothing_known(draws):
    for d, row in ((1, 1), (3, 2)):
        space = Space((d,), tuple(Variable(f"c{j}") for j in range(d)), kind="array")
        filled = Filled(torch.full((draws, row, d), 5.0), torch.zeros(row, d, dtype=torch.bool), space)
        figure = filled_figure(filled)
        assert len(figure.axes) == d * (1 if draws == 1 else 2)
        drawn(figure)


# compress


def test_compress_bars_are_bytes(known):
    model, data = known
    if data.space.kind == "series":
        return
    rows = data.part("test")
    answer = pofx.compress(model, rows)
    (axes,) = answer.figure().axes
    lengths = [bar.get_width() for bar in axes.patches]
    raw = {
        "table": lambda: data.restore(rows.x).to_csv(index=False).encode(),
        "text": lambda: "\n".join(data.restore(rows.x)).encode(),
        "image": lambda: rows.x.numpy().astype(np.uint8).tobytes(),
    }[data.space.kind]()
    assert lengths == [len(raw), *sizes_of(raw).values(), len(answer.value)]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(answer.diagnostics["-log2 p"] / 8)
    labels = [t.get_text() for t in axes.texts]
    assert f"{answer.diagnostics['bits per dimension']:.3g} bits per entry" in labels[3]
    assert f"{8 * len(raw) / rows.x.numel():.3g} bits per entry" in labels[0]
    assert [t.get_text() for t in axes.get_yticklabels()][3] == f"this file ({model.core.name})"


def test_compress_of_rows_with_gaps(table):
    model, data = table
    x, observed = with_gaps(data)
    answer = pofx.compress(model, torch.where(observed, x, torch.nan))
    (axes,) = answer.figure().axes
    facts = answer.diagnostics
    assert axes.lines[0].get_xdata()[0] == pytest.approx((facts["-log2 p"] + facts["bits of gaps"]) / 8)
    csv = data.kind.blank(data.restore(x), observed, data.space).to_csv(index=False)
    assert axes.patches[0].get_width() == len(csv.encode())


def test_sizes_are_written_beside_each_other():
    figure = sizes_figure({"as bytes": 10**6, "zlib": 3, "xz": 60, "this file (x)": 10}, 8, 5.0, "rows")
    assert apart(figure.axes[0])
    drawn(sizes_figure({"as bytes": 0, "this file (x)": 1}, 1, 900.0, "rows"))


def test_packed_numbers_take_the_bytes_they_need():
    variables = (
        Variable("code", "category", 300), Variable("bit", "binary", 2), Variable("tenth", resolution=0.1),
        Variable("real"), Variable("far", resolution=1.0),
    )  # fmt: skip
    x = torch.tensor([[299, 1, 0.3, 0.25, -70000.0], [0, 0, 1.2, 0.5, 0.0]], dtype=torch.float64)
    raw = packed(x, Space((5,), variables))
    assert len(raw) == 2 * (2 + 1 + 1 + 8 + 4)
    row = np.frombuffer(raw, dtype=np.dtype("<u2,u1,u1,<f8,<u4"))
    assert row[0].tolist() == (299, 1, 0, 0.25, 0) and row[1].tolist() == (0, 0, 9, 0.5, 70000)
    for levels, width in ((256, 1), (257, 2), (2**16 + 1, 4)):
        space = Space((1,), (Variable("code", "category", levels),))
        assert packed(torch.tensor([[levels - 1.0]]), space) == (levels - 1).to_bytes(width, "little")
    off = packed(torch.tensor([[0.123456], [1.0]], dtype=torch.float64), Space((1,), (variables[2],)))
    assert np.frombuffer(off).tolist() == [0.123456, 1.0]
