"""The pictures of structure and of what is made: each shows the numbers of its answer, for every kind, however few."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

import pofx
from pofx.drawing.curves import dimension_figure
from pofx.drawing.fans import fan_figure, frames_figure, texts_figure
from pofx.drawing.film import BAR, film
from pofx.drawing.graph import WEAK, dependence_figure, strongest
from pofx.drawing.pairs import paired_figure, restored_figure
from pofx.drawing.pixels import enlarged, pixels, sheet
from pofx.drawing.planes import CLASSES, clusters_figure, codes_figure, main_plane
from pofx.drawing.strips import Strips, strips_figure
from pofx.drawing.style import png
from pofx.drawing.values import close_up, columnar, spread_out, units
from pofx.kinds.base import Space, Variable, real
from pofx.model import Card, Model
from pofx.tasks import cluster as clustering
from pofx.tasks import embed as embedding
from pofx.tasks.interpolate import video

CARD = Card("exact", "fast", "none", "none", "none", ("explicit", "tractable"), "none", "a line", "here")


class Line(Model):
    """z = (x - m) A, x = m + z A' for any Space of numbers: a posterior with a deviation of 20, and draws."""

    card = CARD

    def __init__(self, latents: int = 3) -> None:
        super().__init__()
        self.latents = latents

    def _build(self):
        d, n = self.space.size, min(self.latents, self.space.size)
        self.register_buffer("a", torch.linalg.qr(pofx.Rng(0).normal((d, n)).double()).Q)
        means = [self.space.variable(i).mean for i in range(d)]
        self.register_buffer("m", torch.tensor(means, dtype=torch.float64))

    def _encode(self, x, given):
        return torch.distributions.Normal((x.double().flatten(1) - self.m) @ self.a, 20.0)

    def _decode(self, z, given):
        x = (self.m + z.double() @ self.a.T).reshape(-1, *self.space.shape)
        return type("Point", (), {"mean": lambda _: x})()

    def _sample(self, count, given, rng):
        z = rng.normal((count, self.a.shape[1])).double()
        return self.space.nearest((self.m + z @ self.a.T).reshape(-1, *self.space.shape))


def pictures(count: int = 60, side: int = 6, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Dark pictures with a bright bar somewhere, bytes `(N, side, side[, 3])`."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (count, side, side, channels))
    x[np.arange(count), rng.integers(side, size=count)] += 200
    return (x if channels > 1 else x[..., 0]).astype(np.uint8)


def frame(count: int = 80, seed: int = 0) -> pd.DataFrame:
    """A number, a number that follows it, a word that follows both, and whole numbers of their own."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=count)
    b = 20 + 5 * (0.9 * a + 0.1 * rng.normal(size=count))
    word = np.where(a > 0.5, "high", np.where(a < -0.5, "low", "middle"))
    return pd.DataFrame({"a": a, "b": b, "word": word, "count": rng.integers(0, 5, count)})


@pytest.fixture(scope="module")
def images():
    """(model, x) of grey pictures."""
    data = pofx.open_data(pictures(), kind="image", test=0)
    return Line().build(data.space), data.x


@pytest.fixture(scope="module")
def table():
    """(model, x) of a mixed table, a mixture of normals with everything but latents."""
    data = pofx.open_data(frame(600), test=0)
    return pofx.fit(data, "mixture", budget="60 steps", seed=0, threads=1, progress=False), data.x


@pytest.fixture(scope="module")
def waves():
    """(model, x) of series with two channels."""
    t = np.linspace(0, 20, 400)
    data = pofx.open_data(pd.DataFrame({"u": np.sin(t), "v": np.cos(t)}), kind="series", options={"length": 12}, test=0)
    return pofx.fit(data, "gaussian", threads=1, progress=False), data.x


@pytest.fixture(scope="module")
def normal():
    """Three columns: 0 and 1 correlate at 0.8, 2 stands alone."""
    x = np.random.default_rng(0).normal(size=(4000, 3))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    return pofx.fit(x, "gaussian", seed=0, threads=1, progress=False)


def drawn(figure):
    """The figure, once it was laid out without a complaint."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png(figure, 50).startswith(b"\x89PNG")
    return figure


def titles(figure) -> str:
    texts = [t.get_text() for axes in figure.axes for t in (axes.title, axes._left_title, *axes.texts)]
    return " | ".join([figure.get_suptitle(), *texts])


def cells(image, count, side, lines=1, gap=None):
    """The pictures of a sheet, `(lines, count, side, side, 3)`."""
    whole, gap = np.asarray(image.get_array()), max(1, side // 14) if gap is None else gap
    step = side + gap
    return np.stack(
        [[whole[r * step : r * step + side, k * step : k * step + side] for k in range(count)] for r in range(lines)]
    )


# Planes


def test_codes_lie_on_their_main_axes():
    z = np.random.default_rng(0).normal(size=(150, 4)) * [3, 1, 0.5, 0.1]
    plane = main_plane(z)
    want = np.linalg.eigvalsh(np.cov(z.T, ddof=0))[::-1]
    np.testing.assert_allclose(plane.at.var(0), want[:2])
    assert plane.labels[0] == f"main axis 1: {want[0] / want.sum():.0%} of the variance"
    np.testing.assert_allclose(plane.at, (z - z.mean(0)) @ plane.directions)
    assert np.allclose(main_plane(-z).directions, plane.directions), "the sign does not hang on the data's"


def test_an_embedding_is_drawn_with_its_uncertainty(images):
    model, x = images
    answer = pofx.embed(model, x)
    figure = drawn(answer.figure())
    ellipses, dots = figure.axes[0].collections[:2]
    plane = main_plane(answer.value.numpy())
    np.testing.assert_allclose(dots.get_offsets(), plane.at)
    assert len(ellipses.get_offsets()) == 60
    np.testing.assert_allclose(2 * ellipses._widths, 40)  # matplotlib keeps halves; one deviation either way
    np.testing.assert_allclose(2 * ellipses._heights, 40)
    many = drawn(codes_figure(main_plane(np.random.default_rng(0).normal(size=(300, 3))), np.full((300, 3), 0.2)))
    assert len(many.axes[0].collections[0].get_offsets()) == 1 and "typical" in titles(many)
    sure = drawn(codes_figure(main_plane(answer.value.numpy()), np.full((60, 3), 1e-6)))
    assert len(sure.axes[0].collections) == 1 and "nearly a point" in titles(sure)


def test_an_ellipse_is_the_covariance_seen_from_the_plane():
    """Spread along one code that lies at 30 degrees to the axes is a needle at 30 degrees."""
    from pofx.drawing.planes import _shapes

    turn = np.pi / 6
    directions = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    sides, angles = _shapes(np.array([[1.0, 0.0]]), directions)
    long = int(sides[0].argmax())
    assert sides[0, long] == pytest.approx(1) and sides[0, 1 - long] == pytest.approx(0, abs=1e-7)
    assert (angles[0] + 90 * long) % 180 == pytest.approx(30)


def test_thumbnails_are_rows_at_their_place(images):
    model, x = images
    answer = pofx.embed(model, x)
    axes = drawn(answer.figure()).axes[1]
    boxes = [a for a in axes.artists if isinstance(a, AnnotationBbox)]
    at, shown = main_plane(answer.value.numpy()).at, pixels(x, model.space)
    assert 5 < len(boxes) < 60
    for box in boxes:
        row = int(np.abs(at - np.array(box.xy)).sum(1).argmin())
        assert tuple(at[row]) == tuple(box.xy)
        np.testing.assert_array_equal(box.offsetbox.get_data(), shown[row])


def test_labels_colour_the_dots(images):
    model, x = images
    answer = pofx.embed(model, x)
    words = ["b"] * 20 + ["a"] * 30 + ["c"] * 10
    axes = drawn(embedding.figure(answer, words)).axes[0]
    groups = {c.get_label(): c for c in axes.collections[1:]}
    assert {k: len(c.get_offsets()) for k, c in groups.items()} == {"a": 30, "b": 20, "c": 10}
    assert [tuple(c.get_facecolor()[0][:3]) for c in groups.values()] == [to_rgb(c) for c in CLASSES[:3]]
    assert {t.get_text() for t in axes.texts} >= {"a", "b", "c"}
    assert len(drawn(embedding.figure(answer, np.linspace(0, 1, 60))).axes) == 3, "numbers get a colour bar"
    many = [str(k % 20) for k in range(60)]
    marks = {c.get_paths()[0].vertices.tobytes() for c in drawn(embedding.figure(answer, many)).axes[0].collections[1:]}
    assert len(marks) == 3, "twenty classes, nine colours, three marks"
    with pytest.raises(ValueError, match="got 3 labels for 60 rows"):
        embedding.figure(answer, ["a"] * 3)
    with pytest.raises(ValueError, match="60 classes"):
        embedding.figure(answer, [f"w{k}" for k in range(60)])


def test_one_row_one_latent_and_one_place(images):
    model, x = images
    drawn(pofx.embed(model, x[:1]).figure())
    drawn(pofx.embed(model, x[:1].expand(5, -1, -1, -1)).figure())
    answer = pofx.embed(Line(1).build(model.space), x)
    axes = drawn(answer.figure()).axes[0]
    assert sum(p.get_height() for p in axes.patches) == 60 and "deviates by 20" in titles(axes.figure)
    drawn(embedding.figure(answer, ["a", "b"] * 30))
    drawn(pofx.embed(Line(1).build(model.space), x[:1]).figure())


def test_clusters_and_why_so_many():
    rng = np.random.default_rng(1)
    y = rng.choice(3, size=450, p=[0.5, 0.3, 0.2])
    x = np.array([[0, 0], [9, 0], [0, 9.0]])[y] + rng.normal(size=(450, 2))
    answer = pofx.cluster(pofx.fit(x, "kde", seed=0, threads=1, progress=False), x, range(1, 5))
    plane, curve = drawn(answer.figure()).axes
    assert plane.get_xlabel() == "x0", "two columns are drawn as they are"
    sizes = {c.get_label(): len(c.get_offsets()) for c in plane.collections}
    assert sizes == {"0": (y == 0).sum(), "1": (y == 1).sum(), "2": (y == 2).sum()}
    line, best = curve.lines
    assert dict(zip(line.get_xdata().tolist(), line.get_ydata(), strict=True)) == answer.diagnostics["tried"]
    assert best.get_xdata() == [3] == [answer.diagnostics["clusters"]]
    alone = drawn(pofx.cluster(answer.model, x, 3).figure())
    assert len(alone.axes) == 1, "one number was tried: no curve"


def test_latents_that_tell_nothing_hide_no_groups():
    """Of twelve codes two tell the group; the others are nearly still, and the posterior knows nothing of them."""

    class Idle(Line):
        def _encode(self, x, given):
            scale = torch.ones(12, dtype=torch.float64)
            scale[2:], spread = 1e-3, torch.where(torch.arange(12) < 2, 0.1, 1.0).double()
            return torch.distributions.Normal((x.double() - self.m) @ self.a * scale, spread.expand(len(x), -1))

    rng = np.random.default_rng(0)
    model = Idle(12).build(real(30))
    y = rng.integers(3, size=300)
    codes = np.concatenate([6 * np.eye(3)[y][:, :2] + rng.normal(size=(300, 2)), rng.exponential(size=(300, 10))], 1)
    answer = pofx.cluster(model, torch.from_numpy(codes) @ model.a.T, 3)
    found = answer.value.numpy()
    assert sum(np.bincount(y[found == k]).max() for k in range(3)) > 0.97 * 300
    drawn(answer.figure())


def test_dots_are_as_large_as_they_are_sure():
    sure = np.array([0.5, 0.8, 1.0])
    at = main_plane(np.random.default_rng(0).normal(size=(3, 2)))
    (dots,) = drawn(clusters_figure(at, np.zeros(3, int), sure, {1: float("nan")})).axes[0].collections
    assert (np.diff(dots.get_sizes()) > 0).all()


def test_members_of_a_cluster_are_its_rows_surest_first(images):
    model, x = images
    answer = pofx.cluster(model, x, 2)
    assert answer.route == "latents"
    figure = drawn(answer.figure())
    image = figure.axes[-1].images[0]
    p, found, shown = answer.diagnostics["p"].max(1).values, answer.value, pixels(x, model.space)
    for k, line in enumerate(cells(image, 8, 6, lines=2)):
        rows = torch.nonzero(found == k).flatten()
        rows = rows[torch.argsort(-p[rows], stable=True)][spread_out(len(rows), 8)]
        np.testing.assert_array_equal(line[: len(rows)], shown[rows])
    drawn(pofx.cluster(Line(1).build(model.space), x, (1, 2)).figure())
    few = clustering.figure(pofx.cluster(model, x[:3], 1))
    assert "3 rows in 1 cluster\n" in titles(drawn(few))


# Graph


def test_the_heat_map_is_the_answer_and_edges_are_as_thick_as_the_information(normal):
    answer = pofx.depend(normal, draws=1000)
    left, right = drawn(answer.figure()).axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), answer.diagnostics["correlation"])
    assert [t.get_text() for t in left.get_xticklabels()] == ["x0", "x1", "x2"]
    (edge,) = right.patches
    assert edge.get_linewidth() == pytest.approx(7) and "1 of 3 pairs" in titles(right.figure)
    ends = edge.get_path().vertices[[0, 2]]
    names = {t.get_text(): np.array(t.get_position()) / 1.06 for t in right.texts if t.get_text().startswith("x")}
    np.testing.assert_allclose(ends, [names["x0"], names["x1"]])


def test_weak_edges_are_left_out():
    information = np.zeros((4, 4))
    for (i, j), value in {(0, 1): 0.5, (1, 2): 0.25, (2, 3): -0.5 * math.log(1 - WEAK**2) - 1e-4}.items():
        information[i, j] = information[j, i] = value
    correlation = np.sqrt(1 - np.exp(-2 * information))
    assert strongest(information, correlation) == [(1, 2), (0, 1)]
    right = drawn(dependence_figure(information, correlation, list("abcd"))).axes[1]
    assert [p.get_linewidth() for p in right.patches] == pytest.approx([3.5, 7])
    error = np.full((4, 4), 0.1)
    assert strongest(information, correlation, error) == [(0, 1)], "three standard errors"
    assert "no two columns" in titles(drawn(dependence_figure(np.zeros((4, 4)), np.zeros((4, 4)), list("abcd"))))


def test_sixty_four_columns_one_column_and_a_constant_one():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(64, 64)) ** 4
    a = (a + a.T) / 2 * (1 - np.eye(64))
    figure = drawn(dependence_figure(-0.5 * np.log(1 - a**2), a, [f"a rather long name {k}" for k in range(64)]))
    size = max(t.get_fontsize() for t in figure.axes[0].get_yticklabels())
    figure.draw_without_rendering()
    height = figure.axes[0].get_window_extent().height / 64 / figure.dpi * 72
    assert size <= height + 0.5, "names do not touch"
    assert len(figure.axes[1].patches) == 128
    drawn(pofx.depend(pofx.fit(rng.normal(size=(50, 1)), "gaussian", threads=1, progress=False)).figure())
    flat = pd.DataFrame({"a": rng.normal(size=60), "always": ["same"] * 60, "two": rng.integers(0, 2, 60)})
    model = pofx.fit(pofx.open_data(flat, test=0), "mixture", budget="5 steps", threads=1, progress=False)
    answer = pofx.depend(model, draws=200)
    assert drawn(answer.figure()).axes[0].images[0].get_array().shape == (3, 3)


# Curves


def test_the_curve_of_the_dimension(normal):
    answer = pofx.dimension(normal, scale=0.3)
    curve, rows = drawn(answer.figure()).axes
    line = curve.lines[1]
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == answer.diagnostics["curve"]
    marked = curve.lines[2]
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.3, answer.value)
    assert curve.lines[0].get_ydata()[0] == 3, "the number of entries"
    assert sum(p.get_height() for p in rows.patches) == 500
    assert rows.lines[0].get_xdata()[0] == answer.value


def test_a_dimension_without_a_curve_is_one_number(normal):
    answer = pofx.dimension(normal, route="neighbours")
    figure = drawn(answer.figure())
    assert [p.get_width() for p in figure.axes[0].patches] == [3, answer.value]
    assert f"{answer.value:.3g} directions, of 3" in titles(figure)
    pairs = drawn(pofx.dimension(normal, route="pairs").figure())
    assert len(pairs.axes) == 1
    one = pofx.dimension(normal, normal.sample(1, rng=0))
    assert len(drawn(one.figure()).axes) == 1, "one row is no histogram"
    assert drawn(dimension_figure(3.0, 784, {0.1: 4.0, 0.2: 3.0}, 0.2)).axes[0].get_yscale() == "log"
    drawn(dimension_figure(0.0, 5, {0.1: 0.0, 0.2: 0.0}, 0.2, np.zeros(4)))


# Strips


def test_strips_of_pictures_are_the_answer(images):
    model, x = images
    answer = pofx.traverse(model, x, 3, 5)
    (axes,) = drawn(answer.figure()).axes
    np.testing.assert_array_equal(cells(axes.images[0], 5, 6, lines=3), pixels(answer.raw, model.space))
    share = answer.diagnostics["shares"][1]
    assert axes.get_yticklabels()[1].get_text() == f"axis 2: {share:.0%} of the variance"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["-2", "-1", "0", "1", "2"]


def test_the_map_goes_up_and_to_the_right(images):
    model, x = images
    answer = pofx.traverse(model, x, steps=3, plane=True)
    (axes,) = drawn(answer.figure()).axes
    found = cells(axes.images[0], 3, 6, lines=3)
    np.testing.assert_array_equal(found, pixels(answer.raw.flip(0), model.space))
    assert "axis 1" in axes.get_xlabel() and "axis 2" in axes.get_ylabel()
    z = pofx.embed(model, answer.raw[1]).value  # a line of the map
    axis = main_plane(pofx.embed(model, x).value.numpy()).directions[:, 0]
    assert np.abs(np.diff(z.numpy() @ axis)).min() > 1, "along a line of the map the first axis moves"


def test_a_moved_column_and_those_that_follow(table):
    model, x = table
    answer = pofx.traverse(model, x, 3, 5)
    assert answer.route == "column"
    figure = drawn(answer.figure())
    by_name = {
        axes.title.get_text() or axes._left_title.get_text(): axes for axes in figure.axes[:3] if axes.get_visible()
    }
    assert set(by_name) == {"b", "word", "count"} and figure.axes[0].get_xlabel() == "a"
    line, values = by_name["b"].lines[0], units(model.space, answer.raw)
    np.testing.assert_allclose(line.get_xdata(), values[0, :, 0])
    np.testing.assert_allclose(line.get_ydata(), values[0, :, 1])
    low, high = by_name["b"].get_ylim()
    assert low <= values[0, :, 1].min() and high >= values[0, :, 1].max()
    words = [t.get_text() for t in by_name["word"].get_yticklabels()]
    assert set(words) <= {"low", "middle", "high"} and len(words) > 1
    assert "word is moved" in figure.axes[6].get_ylabel()


def test_a_small_change_looks_small():
    space = real(2)
    x = torch.stack([torch.linspace(-2, 2, 5), torch.linspace(0, 0.01, 5)], 1)[None].double()
    figure = drawn(strips_figure(Strips(x, space, ["axis 1"], np.linspace(-2, 2, 5), "deviations"), "t"))
    low, high = figure.axes[1].get_ylim()
    assert high - low >= 2


def test_other_kinds_draw_strips(waves):
    model, x = waves
    line = Line().build(model.space)
    answer = pofx.traverse(line, x, 2, 4)
    figure = drawn(answer.figure())
    np.testing.assert_allclose(figure.axes[1].lines[2].get_ydata(), answer.raw[0, 2, :, 1])
    assert figure.axes[-1].get_ylabel() == "deviations along the axis"
    drawn(pofx.traverse(line, x, steps=3, plane=True).figure())
    flat = pofx.traverse(Line(2).build(real(5)), torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double())
    assert len([a for a in drawn(flat.figure()).axes if a.get_visible()]) == 10
    sheets = drawn(pofx.traverse(flat.model, flat.question["x"], steps=4, plane=True).figure())
    images = [a.images[0].get_array() for a in sheets.axes if a.images]
    raw = pofx.traverse(flat.model, flat.question["x"], steps=4, plane=True).raw
    np.testing.assert_allclose(images[3], raw[..., 3])
    clips = pofx.open_data(pictures(40, 8).reshape(8, 5, 8, 8), kind="video", options={"length": 5}, test=0)
    moved = Line(2).build(clips.space)
    drawn(pofx.traverse(moved, clips.x, 2, 3).figure())
    drawn(pofx.traverse(moved, clips.x, steps=2, plane=True).figure())


def test_one_column_and_constant_columns():
    """Nothing moves, and that is what is seen: flat lines at the value of the column."""
    one = Line(1).build(real(1))
    moved = pofx.traverse(one, torch.arange(4.0)[:, None].double())
    assert any(visible(a) for a in drawn(moved.figure()).axes)
    between = pofx.interpolate(one, torch.zeros(1, 1).double(), torch.ones(1, 1).double(), 3)
    heights = [np.ravel(line.get_ydata()) for a in drawn(between.figure()).axes for line in a.lines]
    assert any(np.allclose(h, between.raw.flatten()) for h in heights if len(h) == between.raw.numel())
    still = Line(2).build(real(3))
    ones = torch.ones(4, 3).double()
    for answer in (pofx.traverse(still, ones), pofx.interpolate(still, ones[:1], ones[:1], 3)):
        lines = [np.ravel(line.get_ydata()) for a in drawn(answer.figure()).axes for line in a.lines]
        flat = [y for y in lines if len(y) == answer.raw.shape[1]]
        assert flat and all(np.isfinite(y).all() and np.ptp(y) < 1e-9 for y in flat)
    dots = drawn(pofx.embed(still, ones).figure()).axes[0].collections[0].get_offsets()
    assert np.isfinite(dots).all() and len(np.unique(dots, axis=0)) == 1


def visible(axes) -> bool:
    return axes.get_visible() and bool(axes.lines or axes.images or axes.collections or axes.patches)


# Interpolation


def test_strips_stand_between_the_two_that_were_asked_for(images):
    model, x = images
    answer = pofx.interpolate(model, x[:2], x[2:4], 5)
    start, middle, end = drawn(answer.figure()).axes
    np.testing.assert_array_equal(cells(middle.images[0], 5, 6, lines=2), pixels(answer.raw, model.space))
    np.testing.assert_array_equal(cells(start.images[0], 1, 6, lines=2)[:, 0], pixels(x[:2], model.space))
    np.testing.assert_array_equal(cells(end.images[0], 1, 6, lines=2)[:, 0], pixels(x[2:4], model.space))


def test_a_way_through_a_plane_through_columns_and_through_series(waves):
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    plane = pofx.interpolate(Line().build(real(2)), x[:2, :2], x[2:, :2], 5)
    axes = drawn(plane.figure()).axes[0]
    np.testing.assert_allclose(np.stack(axes.lines[2].get_data(), 1), plane.raw[1])
    np.testing.assert_allclose(np.stack(axes.lines[1].get_data(), 1), x[[0, 2], :2])
    many = pofx.interpolate(Line().build(real(5)), x[:2], x[2:], 5)
    axes = drawn(many.figure()).axes[3]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), many.raw[0, :, 3])
    np.testing.assert_allclose(axes.lines[3].get_ydata(), [x[1, 3], x[3, 3]])
    model, rows = waves
    answer = pofx.interpolate(Line().build(model.space), rows[:1], rows[5:6], 3)
    axes = drawn(answer.figure()).axes[0]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), answer.raw[0, 1, :, 0])
    np.testing.assert_allclose(axes.lines[4].get_ydata(), rows[5, :, 0])


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        shown = []
        for k in range(film.n_frames):
            film.seek(k)
            shown.append(np.asarray(film.convert("RGB")))
        return shown


def test_the_video_goes_there_and_back(images, tmp_path):
    model, x = images
    answer = pofx.interpolate(model, x[:3], x[3:6], 5)
    path = video(answer, tmp_path / "new" / "way.gif", seconds=1.8)
    frames, shown = frames_of(path), pixels(answer.raw, model.space)
    assert len(frames) == 9
    times = 192 // 6
    for k, t in enumerate([0, 1, 2, 3, 4, 3, 2, 1, 0]):
        want = enlarged(sheet(shown[None, :, t]), times)
        np.testing.assert_array_equal(frames[k][: -2 * BAR], want)
    with Image.open(path) as film:
        assert film.info["duration"] == 200 and film.info["loop"] == 0
    assert [p.name for p in path.parent.iterdir()] == ["way.gif"], "no half-written file stays"


def test_frames_that_are_alike_are_all_there(images, tmp_path):
    model, x = images
    same = x[:1].unsqueeze(0).expand(6, -1, -1, -1, -1)
    frames = frames_of(film(same, model.space, tmp_path / "still.gif", 10))
    assert len(frames) == 6
    ink = [(f[-1, :, 0] < 150).mean() for f in frames]
    np.testing.assert_allclose(ink, np.linspace(0, 1, 6), atol=0.02)


def test_films_of_other_kinds(waves, table, tmp_path):
    model, x = waves
    answer = pofx.interpolate(Line().build(model.space), x[:1], x[5:6], 3)
    assert len(frames_of(video(answer, tmp_path / "series.gif"))) == 5
    assert len(frames_of(film(table[1][:3, None], table[0].space, tmp_path / "table.gif", 5))) == 3
    plane = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    assert len(frames_of(film(plane, real(2), tmp_path / "plane.gif", 5))) == 4
    coloured = pofx.open_data(pictures(3, 8, 3), kind="image", test=0)
    first = frames_of(film(coloured.x[:, None], coloured.space, tmp_path / "colour.gif", 5))[0]
    want = enlarged(pixels(coloured.x[0], coloured.space), 24)
    assert np.abs(first[: -2 * BAR].astype(int) - want).mean() < 6, "256 colours come near"
    clips = pofx.open_data(pictures(20, 8).reshape(4, 5, 8, 8), kind="video", options={"length": 5}, test=0)
    assert len(frames_of(film(clips.x[:2, None], clips.space, tmp_path / "clips.gif", 5))) == 2


def test_what_makes_no_film(images, tmp_path):
    model, x = images
    answer = pofx.interpolate(model, x[:1], x[1:2], 3)
    with pytest.raises(ValueError, match="got 5 frames.*a .gif"):
        video(answer, tmp_path / "way.mp4")
    with pytest.raises(ValueError, match="seconds = 0"):
        video(answer, tmp_path / "way.gif", seconds=0)
    with pytest.raises(ValueError, match="'embed'; expected one of pofx.interpolate"):
        video(pofx.embed(model, x), tmp_path / "way.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        video(answer, tmp_path / "file" / "way.gif")


# What became of rows


def test_a_restored_picture_and_how_sure_it_is():
    data = pofx.open_data(pictures(300, 4), kind="image", test=0)
    model = pofx.fit(data, "gaussian", threads=1, progress=False)

    def halves(x):
        return x.reshape(len(x), 2, 2, 2, 2, 1).mean((2, 4))

    answer = pofx.restore(model, halves(data.x[:3].double()), halves, 5.0, draws=4, rng=0)
    figure = drawn(answer.figure())
    line = figure.axes[:6]
    np.testing.assert_array_equal(line[0].images[0].get_array(), pixels(answer.question["y"][0], data.space))
    for k in range(3):
        np.testing.assert_array_equal(line[1 + k].images[0].get_array(), pixels(answer.raw[k, 0], data.space))
    np.testing.assert_array_equal(line[4].images[0].get_array(), pixels(answer.diagnostics["mean"][0], data.space))
    np.testing.assert_allclose(line[5].images[0].get_array(), answer.diagnostics["spread"][0, ..., 0])
    assert figure.axes[-1].get_ylabel() == "standard deviation, levels of 255"
    mean = pofx.restore(
        model, torch.full((1, 1), 60.0), lambda x: x.double().mean((1, 2, 3))[:, None], 5.0, draws=1, rng=0
    )
    assert "measured" not in titles(drawn(mean.figure())), "one number is no picture"


def test_restored_columns_and_series(normal, waves):
    answer = pofx.restore(normal, torch.zeros(5, 1), lambda x: x[:, :1], 0.1, draws=8, rng=0)
    figure = drawn(answer.figure())
    assert [a._left_title.get_text() for a in figure.axes] == ["x0", "x1", "x2"]
    bars = figure.axes[1].containers[0]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), answer.diagnostics["mean"][:, 1])
    ends = np.array([s[:, 1] for s in bars.lines[2][0].get_segments()])
    np.testing.assert_allclose(np.ptp(ends, axis=1) / 2, answer.diagnostics["spread"][:, 1])
    model, x = waves
    answer = pofx.restore(model, x[:2, :6].reshape(2, -1), lambda x: x[:, :6].flatten(1), 0.1, draws=4, rng=0)
    axes = drawn(answer.figure()).axes[3]
    np.testing.assert_allclose(axes.lines[-2].get_ydata(), answer.diagnostics["mean"][1, :, 1])
    wide = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0)).double()
    drawn(restored_figure(torch.zeros(2, 1), wide, wide.mean(0), wide.std(0), real(40)))


def test_rows_above_their_translations(images, normal):
    model, x = images
    before, after = x[:4], x[4:8]
    upper, lower = drawn(paired_figure(before, model.space, after, model.space, ("from", "to"))).axes
    np.testing.assert_array_equal(cells(upper.images[0], 4, 6)[0], pixels(before, model.space))
    np.testing.assert_array_equal(cells(lower.images[0], 4, 6)[0], pixels(after, model.space))
    rows = normal.sample(20, rng=0)
    answer = pofx.translate(normal, rows, strength=0.5, rng=0)
    axes = drawn(answer.figure()).axes[2]
    np.testing.assert_allclose(np.stack(axes.lines[0].get_data(), 1), np.stack([rows[:, 2], answer.raw[:, 2]], 1))
    drawn(pofx.translate(normal, rows[:1], strength=0.0).figure())


def test_a_translation_that_was_learnt():
    rng = np.random.default_rng(0)
    side = rng.normal(size=(300, 2))
    data = pofx.open_data(side @ [[1, 0.5], [0, 1]] + 0.1, given={"side": side}, test=0)
    model = pofx.fit(data, "gaussian", threads=1, progress=False)
    answer = pofx.translate(model, side[:10], rng=0)
    assert answer.route == "learned"
    axes = drawn(answer.figure()).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), side[:10, 0])
    labels = Space((), (Variable("label", "category", 3, ("a", "b", "c")),), dtype="int64")
    space = pofx.open_data(pictures(), kind="image", test=0).space
    words = drawn(paired_figure(torch.tensor([2, 0]), labels, torch.zeros(2, 6, 6, 1), space, ("given", "to")))
    assert [t.get_text() for t in words.axes[0].get_xticklabels()] == ["c", "a"]


# Fans


def test_the_fan_is_the_past_and_the_quantiles(waves):
    model, x = waves
    past = [pd.DataFrame(x[k].numpy(), columns=["u", "v"]) for k in (0, 40)]
    answer = pofx.forecast(model, past, ahead=4, quantiles=(0.2, 0.5, 0.8), draws=50)
    figure = drawn(answer.figure())
    assert len(figure.axes) == 4
    axes = figure.axes[3]  # series 1, channel v
    np.testing.assert_allclose(axes.lines[0].get_ydata(), x[40, -8:, 1])
    draws = answer.raw[:, 1, :, 1].numpy()
    np.testing.assert_allclose(axes.lines[1].get_ydata()[1:], np.median(draws, 0))
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == ["past", "90% of futures", "60% of futures", "50% of futures", "median"]
    asked = axes.collections[1].get_paths()[0].vertices
    for level in (0.2, 0.8):
        gaps = np.abs(asked[:, 1][:, None] - np.quantile(draws, level, axis=0)).min(0)
        assert gaps.max() < 1e-9, "the band's edge goes through the quantiles that were asked for"
    drawn(fan_figure(np.full((1, 3, 1), np.nan), np.zeros((5, 1, 1, 1)), ["x"], (0.5,)))
    drawn(fan_figure(np.zeros((1, 0, 1)), np.zeros((5, 1, 2, 1)), ["x"], (0.1, 0.9)))


def test_a_fan_of_a_model_that_is_given_the_past():
    t = np.sin(np.linspace(0, 60, 500))
    data = pofx.open_data(t, kind="series", given="past", options={"length": 8, "ahead": 3}, test=0)
    model = pofx.fit(data, "gaussian", threads=1, progress=False)
    answer = pofx.forecast(model, t[:50], draws=20)
    assert answer.route == "given"
    np.testing.assert_allclose(drawn(answer.figure()).axes[0].lines[0].get_ydata(), t[45:50])


def test_texts_go_on_in_another_colour():
    data = pofx.open_data(["the cat sat on the mat. " * 40], kind="text", options={"length": 12}, test=0)
    model = pofx.fit(data, "ngram", threads=1, progress=False)
    for prompt in ("the cat", ["the cat", "on the"]):
        answer = pofx.forecast(model, prompt, ahead=10, draws=2)
        said = [t.get_text() for t in drawn(answer.figure()).axes[0].texts]
        first = answer.value[0] if isinstance(answer.value[0], str) else answer.value[0][0]
        assert said[0] == "the cat" and said[1] == " " * 7 + first[7:]
    assert "↵" in drawn(texts_figure(["a"], [["a\nb"]])).axes[0].texts[1].get_text()


def test_clips_go_on_frame_by_frame(tmp_path):
    data = pofx.open_data(pictures(40, 8).reshape(8, 5, 8, 8), kind="video", options={"length": 5}, test=0)
    past, draws = data.x[:2, :3], data.x[None, :2, 3:].repeat(4, 1, 1, 1, 1, 1)
    (axes,) = drawn(frames_figure(past, draws, data.space)).axes
    found = cells(axes.images[0], 5, 8, lines=4)
    np.testing.assert_array_equal(found[0], pixels(data.x[0], data.space))
    np.testing.assert_array_equal(found[3], pixels(data.x[1], data.space))


def test_music_goes_on_as_its_kind_draws_it():
    rolls = (np.random.default_rng(0).random((40, 16, 88)) < 0.03).astype(np.uint8)
    data = pofx.open_data(list(rolls), kind="music", options={"length": 16}, test=0)
    model = pofx.fit(data, "mixture", budget="2 steps", threads=1, progress=False)
    answer = pofx.forecast(model, [rolls[0][:8]], draws=2)
    assert "of 16 steps were known" in titles(drawn(answer.figure()))


# Plans


def test_a_plan_shows_its_actions_and_their_spread():
    model = pofx.fit(_transitions(), "gaussian", threads=1, progress=False)
    answer = pofx.plan(model, [1.5], lambda s, a, n: -n[:, 0].square(), 4, candidates=32, rounds=2)
    actions, states, search = drawn(answer.figure()).axes
    np.testing.assert_allclose(actions.lines[0].get_ydata(), answer.value[:, 0])
    band = actions.collections[0].get_paths()[0].vertices
    wide = answer.diagnostics["proposal"].deviation[:, 0].numpy()
    for edge in (answer.value[:, 0] - wide, answer.value[:, 0] + wide):
        assert np.abs(band[:, 1][:, None] - edge).min(0).max() < 1e-9
    np.testing.assert_allclose(states.lines[0].get_ydata(), answer.diagnostics["states"][:, 0])
    np.testing.assert_allclose(search.lines[0].get_ydata(), answer.diagnostics["trace"])
    assert "expected return" in titles(actions.figure)
    again = pofx.plan(model, [1.0], lambda s, a, n: -n[:, 0].square(), 4, candidates=32, rounds=1, after=answer)
    assert again.question["problem"].after is None, "plans do not hang on all plans before"
    assert len(drawn(again.figure()).axes) == 2, "one round is no curve"


def _transitions() -> np.ndarray:
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(2, 500))
    return np.stack([x, u, 1.1 * x + 0.5 * u + 0.03 * rng.normal(size=500)], 1)


def test_a_plan_of_codes_and_one_asked_for_a_return():
    class Walk(Model):
        card = CARD

        def _sample(self, count, given, rng):
            return given["state"].double() + 2 * given["action"].reshape(count, 1).double() - 1

    action = Space((), (Variable("action", "binary", 2, ("down", "up")),), dtype="int64")
    state = Space((1,), (Variable("state"),))
    walk = Walk().build(state, {"state": state, "action": action})
    answer = pofx.plan(walk, [0.0], lambda s, a, n: n[:, 0], 3, candidates=32, rounds=2)
    axes = drawn(answer.figure()).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), answer.diagnostics["proposal"].shares.T)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["down", "up"]
    assert axes.lines[0].get_ydata().tolist() == [1, 1, 1]
    rng = np.random.default_rng(0)
    state, gain = rng.normal(size=(400, 1)), rng.normal(size=400)
    acts = np.stack([gain + 0.1 * rng.normal(size=400), state[:, 0]], 1)[:, :, None]
    data = pofx.open_data(acts.reshape(400, 2), given={"state": state, "return": gain}, test=0)
    model = pofx.fit(data, "gaussian", threads=1, progress=False)
    answer = pofx.plan(model, [0.3], target=1.0, candidates=64)
    axes = drawn(answer.figure()).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), answer.value)
    assert answer.diagnostics["deviation"].shape == (2,) and len(axes.collections) == 1


# All of them


def test_a_notebook_shows_the_picture_beside_the_words(images):
    model, x = images
    text = pofx.embed(model, x)._repr_html_()
    assert text.startswith("<p><b>embed</b>") and "data:image/png;base64," in text
    bare = dataclasses.replace(pofx.embed(model, x), model=None)
    with pytest.raises(ValueError, match="no picture"):
        bare.figure()


def test_pixels_look_as_their_kind_draws_them():
    """Dark pictures in ink on paper, others as they are, colours in their colours; means lie between levels."""
    dark, light = (pofx.open_data(x, kind="image") for x in (pictures(), 255 - pictures()))
    np.testing.assert_array_equal(pixels(dark.x, dark.space)[..., 0], 255 - dark.x[..., 0].numpy())
    np.testing.assert_array_equal(pixels(light.x, light.space)[..., 2], light.x[..., 0])
    coloured = pofx.open_data(pictures(channels=3), kind="image")
    np.testing.assert_array_equal(pixels(coloured.x, coloured.space), coloured.x)
    digits = pofx.open_data("digits").space
    assert pixels(torch.tensor([[[0.0], [8.0], [16.0], [20.0]]]), digits)[0, :, 0].tolist() == [255, 128, 0, 0]


def test_numbers_are_in_the_users_units():
    data = pofx.open_data(pd.DataFrame({"level": [10, 20, 40] * 30, "word": list("abc") * 30}), test=0)
    assert columnar(data.space) and not columnar(pofx.open_data(pictures(), kind="image").space)
    v = data.space.variables[0]
    if v.discrete:
        np.testing.assert_allclose(units(data.space, data.x[:3])[:, 0], [10, 20, 40])

    class Axis:
        def set_ticks(self, places, words):
            self.found = dict(zip(places, words, strict=True))

    axis = Axis()
    place = close_up(axis, Variable("w", "category", 4, ("a", "b", "c", "d")), np.array([3.0, 1.0, 3.0]))
    assert axis.found == {0: "b", 1: "d"} and place(np.array([1.0, 3.0])).tolist() == [0, 1]


def test_importing_draws_nothing():
    """matplotlib is imported by the first figure, not by the library."""
    root = Path(__file__).parents[1] / "src"
    names = [f"pofx.drawing.{p.stem}" for p in sorted((root / "pofx" / "drawing").glob("[!_]*.py"))]
    code = f"import sys, importlib; sys.path.insert(0, {str(root)!r})\n"
    code += f"for name in {[*names, 'pofx.tasks.embed', 'pofx.tasks.plan']}: importlib.import_module(name)\n"
    code += "print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr
