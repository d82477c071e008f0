"""Stylise: pictures made here, of which the style (stripes, dots, colours) and the content (a disc) are known."""

import numpy as np
import pytest
import torch

from pofx.engines import style as engine
from pofx.engines.style import gram, gram_distance, pretrained, pyramid, random_filters, sliced_distance, slices
from pofx.tasks.stylise import stylise


def disc(h=48, w=64, cx=0.4) -> np.ndarray:
    """A light disc on dark ground."""
    y, x = np.mgrid[:h, :w]
    inside = (x - cx * w) ** 2 + (y - h / 2) ** 2 < (h / 4) ** 2
    return (np.where(inside[..., None], (220, 210, 190), (40, 50, 60))).astype(np.uint8)


def stripes(h=52, w=44, period=6.0) -> np.ndarray:
    """Oblique red and blue stripes."""
    y, x = np.mgrid[:h, :w]
    tone = 0.5 + 0.5 * np.sin(2 * np.pi * (x + y) / period)[..., None]
    return (tone * np.array((230, 60, 40)) + (1 - tone) * np.array((20, 40, 200))).astype(np.uint8)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(a.astype(float) - b).mean())))


def test_gram_is_the_second_moment_with_the_mean_and_knows_no_place():
    maps = torch.randn(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    g, f = gram(maps), maps[0].flatten(1)
    torch.testing.assert_close(g[0, 1:], f.mean(1))
    torch.testing.assert_close(g[1:, 1:] - f.mean(1)[:, None] * f.mean(1), f.cov(correction=0))
    torch.testing.assert_close(gram(maps[..., torch.randperm(9)]), g)
    assert gram_distance([g], [g]) == 0
    shifted = gram(maps + 1)
    want = (shifted - g).square().sum() / (g - g[:, :1] @ g[:1]).square().sum()
    torch.testing.assert_close(gram_distance([shifted], [g]), want)


def test_sliced_distance_of_a_shift_is_its_square_over_the_variance():
    maps = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    directions = torch.eye(2)
    a, b = slices(maps, directions), slices(maps + 0.5, directions)
    assert float(sliced_distance([b], [a])) == pytest.approx(0.25 / float(a.var(1).mean()), rel=1e-4)
    mixed = maps.flatten(2)[..., torch.randperm(400)].reshape(maps.shape)
    assert float(sliced_distance([slices(mixed, directions)], [a])) == 0
    twice = torch.nn.functional.interpolate(maps, scale_factor=2)
    assert float(sliced_distance([slices(twice, directions)], [a])) < 2e-3  # other sizes are compared by quantiles


def test_filters_answer_to_edges_alone_and_bands_add_up_to_the_picture():
    maps = random_filters(scales=3, filters=8)(torch.full((1, 3, 40, 32), 0.8))
    assert [tuple(m.shape) for m in maps] == [(1, 11, 40, 32), (1, 11, 20, 16), (1, 11, 10, 8)]
    assert all(m[:, :8].abs().max() < 1e-5 for m in maps)  # a flat picture has no texture
    x = tensor(disc())
    assert len(pyramid(x, 9)) == 3  # 48, 24, 12 pixels
    flat = engine.structure(x)
    torch.testing.assert_close(sum(b.mean() for b in flat[:-1]), torch.tensor(0.0), atol=0.02, rtol=0)
    assert engine.structure_distance(engine.structure(1 - x), flat) == pytest.approx(2, abs=0.01)
    assert engine.structure_distance(engine.structure(0.5 + 0.3 * x), flat) < 1e-3  # another contrast shows the same
    colours = x.flip(1)  # red and blue change places
    assert engine.structure_distance(engine.structure(colours), flat) < 1e-10


@pytest.mark.parametrize("statistic", ["gram", "sliced"])
def test_the_gram_distance_falls_and_the_content_stays(statistic):
    found = stylise(disc(), stripes(), statistic=statistic, steps=25)
    assert found.value.shape == (48, 64, 3) and found.value.dtype == np.uint8
    facts = found.diagnostics
    assert facts["gain"] >= 10 and facts["gain"] == pytest.approx(facts["gram before"] / facts["gram"])
    other = random_filters(seed=1)  # filters that the search did not see
    goal, before, after = ([gram(m) for m in other(tensor(p))] for p in (stripes(), disc(), found.value))
    assert gram_distance(before, goal) > 10 * gram_distance(after, goal)
    shown = engine.structure(tensor(found.value))
    own = engine.structure_distance(shown, engine.structure(tensor(disc())))
    others = [engine.structure_distance(shown, engine.structure(tensor(disc(cx=c)))) for c in (0.2, 0.3, 0.5, 0.6, 0.7)]
    assert own < min(others)
    assert own == pytest.approx(facts["content"], rel=1e-3)


def test_a_picture_in_its_own_style_is_itself():
    same = stylise(stripes(), stripes(), steps=20)
    assert psnr(same.value, stripes()) >= 50 and same.diagnostics["gram"] < 1e-9
    assert psnr(stylise(disc(), disc(), statistic="sliced", steps=10).value, disc()) >= 30


def test_more_weight_keeps_more_content():
    kept = [stylise(disc(), stripes(), weight=w, steps=15).diagnostics for w in (0.0, 0.05, 5.0)]
    assert kept[0]["content"] > kept[1]["content"] > kept[2]["content"]
    assert kept[0]["gram"] < kept[2]["gram"]


def test_the_seed_is_the_picture():
    ask = {"start": "noise", "steps": 4}
    first, again, other = (stylise(disc(), stripes(), **ask, rng=k).value for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_colours_may_stay_those_of_the_content():
    kept = stylise(disc(), stripes(), keep_colours=True, steps=15).value.reshape(-1, 3).astype(float)
    taken = stylise(disc(), stripes(), steps=15).value.reshape(-1, 3).astype(float)
    own, style = disc().reshape(-1, 3).mean(0), stripes().reshape(-1, 3).mean(0)
    assert np.abs(kept.mean(0) - own).max() < 15
    assert np.abs(taken.mean(0) - style).max() < 15 < np.abs(style - own).max()


@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (130, 20)])
def test_any_size_and_grey_pictures_and_files(shape, tmp_path):
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert stylise(grey, stripes(), steps=2).value.shape == (*shape, 3)
    Image.fromarray(stripes()).save(tmp_path / "stripes.png")
    ask = {"steps": 2, "size": 20}
    by_path, by_picture = (
        stylise(disc(), s, **ask).value for s in (tmp_path / "stripes.png", Image.fromarray(stripes()))
    )
    assert by_path.shape == (15, 20, 3) and (by_path == by_picture).all()


def test_another_network_may_look():
    def means(x):
        return [torch.nn.functional.avg_pool2d(x, 4)]

    found = stylise(disc(), stripes(), features=means, weight=0, steps=20)
    assert found.diagnostics["gain"] > 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": np.zeros((4, 9, 3), np.uint8)}, "8 a side"),
        ({"content": np.zeros((9, 9, 3))}, "bytes"),
        ({"style": np.zeros((9, 9, 4), np.uint8)}, "style of shape"),
        ({"statistic": "mean"}, "statistic"),
        ({"start": "style"}, "start"),
        ({"features": "eyes"}, "features 'eyes'"),
        ({"weight": -1}, "weight -1"),
        ({"size": 3}, "size 3"),
    ],
)
def test_a_mistake_is_told(change, words):
    ask = {"content": disc(), "style": stripes()} | change
    with pytest.raises(ValueError, match=words):
        stylise(**ask)


def test_a_pretrained_network_needs_torchvision():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="torchvision"):
            pretrained()


def test_the_command_writes_a_picture(tmp_path):
    import json

    from PIL import Image
    from typer.testing import CliRunner

    from pofx.cli import app

    for name, picture in (("disc", disc()), ("stripes", stripes())):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{n}.png") for n in ("disc", "stripes")]
    told = CliRunner().invoke(app, ["stylise", *files, "-o", str(tmp_path / "a.png"), "--steps", "3", "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["gain"] > 1
    assert (np.asarray(Image.open(tmp_path / "a.png")) == stylise(disc(), stripes(), steps=3).value).all()


def test_the_answer_shows_content_style_and_result():
    answer = stylise(disc(24, 32), stripes(24, 32), steps=2, rng=0)
    axes = answer.figure().axes
    assert [a.get_title(loc="left") for a in axes] == ["content", "style", "the content in that style"]
    assert np.array_equal(axes[0].images[0].get_array(), disc(24, 32))
    assert np.array_equal(axes[2].images[0].get_array(), answer.value)
    assert "<img" in answer._repr_html_()
