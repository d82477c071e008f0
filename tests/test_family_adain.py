"""AdaIN: features with the moments of others', a painter that keeps what lacks nothing, one network for any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pofx
from pofx.check import check_model
from pofx.cli import app
from pofx.engines import style as engine
from pofx.engines.style import gram, gram_distance, random_filters
from pofx.families.adain import AdaIN
from pofx.nn.adain import Painter, adain, recoloured
from pofx.randomness import Rng

SIDE = 24
SMALL = {"filters": 8, "scales": 2, "width": 8}


def blobs(rows: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Smooth pictures in three colours."""
    noise = Rng(seed).normal((rows, 3, side // 4, side // 4))
    fine = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")
    return (128 + 40 * fine).clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


def stripes(rows: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Oblique stripes in two colours, of some phase."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    tone = 0.5 + 0.5 * np.sin(2 * np.pi * (x + y) / 6 + rng.uniform(0, 6.3, (rows, 1, 1)))[..., None]
    return (tone * np.array((230, 60, 40)) + (1 - tone) * np.array((20, 40, 200))).astype(np.uint8)


def data(rows: int = 64) -> pofx.Data:
    style = pofx.open_data(stripes(rows))
    return pofx.open_data(blobs(rows), given={"style": style}, paired=False, test=8, valid=8)


def built() -> AdaIN:
    d = data()
    return AdaIN(**SMALL).build(d.space, d.given_spaces)


def awake(painter: Painter) -> Painter:
    """With weights where a new one has zeros."""
    for touch in painter.touches:
        torch.nn.init.constant_(touch.colours.weight, 0.3)
    return painter


@pytest.fixture(scope="module")
def fitted() -> pofx.Model:
    return pofx.fit(
        data(), AdaIN(**SMALL, weight=0.3, lr=1e-2), budget="120 steps", batch=8, seed=0, threads=1, progress=False
    )


def fallen(model: pofx.Model, content: np.ndarray, style: np.ndarray) -> float:
    """How many times the distance to the style fell, in filters that the model did not see."""
    other = random_filters(scales=2, seed=1)
    made = pofx.stylise(content, style, model=model).value
    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (style, content, made)]
    goal, before, after = ([gram(m) for m in other(p)] for p in pictures)
    return float(gram_distance(before, goal) / gram_distance(after, goal))


def test_features_take_the_moments_of_the_style_and_keep_their_order():
    f, g = Rng(0).normal((2, 5, 9, 7)), 3 + 2 * Rng(1).normal((2, 5, 8, 8))
    found = adain(f, g)
    torch.testing.assert_close(found.mean((2, 3)), g.mean((2, 3)))
    torch.testing.assert_close(found.std((2, 3), correction=0), g.std((2, 3), correction=0), rtol=1e-3, atol=0)
    assert torch.equal(found.flatten(2).argsort(2), f.flatten(2).argsort(2))
    torch.testing.assert_close(adain(f, f), f)
    found, many = recoloured(f[:, :3], g[:, :3]), torch.stack([p.flatten(1).cov(correction=0) for p in g[:, :3]])
    torch.testing.assert_close(found.mean((2, 3)), g[:, :3].mean((2, 3)))
    own = torch.stack([p.flatten(1).cov(correction=0) for p in found])
    torch.testing.assert_close(own, many, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(recoloured(f, f), f)
    assert torch.isfinite(adain(torch.zeros(1, 1, 4, 4), g[:1, :1])).all()  # a flat channel


def test_where_nothing_lacks_nothing_is_painted_whatever_the_weights():
    painter, wanted = awake(Painter(4, 2, 8)), [Rng(0).normal((2, 4, 8, 6)), Rng(1).normal((2, 4, 4, 3))]
    nothing, noise = [torch.zeros_like(w) for w in wanted], Rng(2).normal((2, 1, 8, 6))
    assert painter(wanted, nothing, noise).abs().max() == 0
    assert painter(wanted, wanted, noise).abs().max() > 0
    assert not torch.equal(painter(wanted, wanted, noise), painter(wanted, wanted, -noise))


def test_many_matrices_are_each_its_own():
    maps = Rng(0).normal((3, 4, 6, 5))
    many, goal = engine.moments(maps), engine.moments(maps.flip(0))
    for row in range(3):
        torch.testing.assert_close(many[row], gram(maps[row : row + 1]))
        one = gram_distance([many[row]], [goal[row]])
        torch.testing.assert_close(engine.gram_distances([many], [goal])[row], one)
    x, y = Rng(1).uniform((3, 3, 32, 32)), Rng(2).uniform((3, 3, 32, 32))
    alone = [engine.structure_distance(*(engine.structure(p[i : i + 1]) for p in (x, y))) for i in range(3)]
    torch.testing.assert_close(engine.structure_distance(engine.structure(x), engine.structure(y)), sum(alone) / 3)


def test_a_picture_in_its_own_style_is_itself_whatever_the_weights(fitted):
    other = built()
    awake(other.painter)
    for model in (other, fitted):
        for picture in (blobs(1, 3)[0], stripes(1, 4, 37)[0][:19]):
            gap = pofx.stylise(picture, picture, model=model).value.astype(int) - picture
            assert np.abs(gap).max() <= 1
            kept = pofx.stylise(picture, stripes(1, 5)[0], model=model, alpha=0).value.astype(int) - picture
            assert np.abs(kept).max() <= 1


def test_what_is_learnt_brings_new_pictures_near_to_the_style(fitted):
    content, style = blobs(4, 7), stripes(4, 8)
    learnt = np.array([fallen(fitted, c, s) for c, s in zip(content, style, strict=True)])
    raw = np.array([fallen(built(), c, s) for c, s in zip(content, style, strict=True)])
    assert learnt.min() > 2, learnt
    assert (learnt > 1.4 * raw).all(), (learnt, raw)  # raw: the colours alone


def test_more_alpha_is_nearer_to_the_style(fitted):
    content, style = blobs(1, 9)[0], stripes(1, 9)[0]
    asked = [pofx.stylise(content, style, model=fitted, alpha=a).diagnostics for a in (0.0, 0.4, 1.0)]
    assert asked[0]["gram"] > asked[1]["gram"] > asked[2]["gram"]
    assert asked[0]["content"] < 1e-4 < asked[1]["content"]


def test_any_size_and_the_same_picture_again(fitted):
    content, style = blobs(1, 2, 52)[0][:41], stripes(1, 2, 33)[0]
    first = pofx.stylise(content, style, model=fitted)
    assert first.value.shape == (41, 52, 3) and first.route == "feed forward"
    assert (first.value == pofx.stylise(content, style, model=fitted, rng=5).value).all()
    assert fitted.space.shape == (SIDE, SIDE, 3)  # the model is left as it was
    tiny = pofx.stylise(blobs(1, 1, 32)[0], style[:8, :8], model=fitted)  # fewer scales than the content has
    assert np.isfinite(tiny.diagnostics["gram"])


def test_rows_are_painted_alone_and_a_code_is_what_features_say():
    model, x, s = built(), torch.from_numpy(blobs(3)), torch.from_numpy(stripes(3))
    awake(model.painter)
    z = model.encode(x, {"style": s}).mean
    torch.testing.assert_close(z[1:2], model.encode(x[1:2], {"style": s[1:2]}).mean)
    torch.testing.assert_close(model.encode(x).mean, model.encode(x, {"style": x}).mean, atol=1e-5, rtol=1e-5)
    both, one = (model.decode(v, {"style": s[: len(v)]}).mean() for v in (z, z[:1]))
    assert (both[:1] - one).abs().max() <= 1  # a level, by rounding


def test_it_keeps_its_promises(fitted):
    report = check_model(fitted, data=data())
    assert report.ok, report.explain()


def test_saved_and_read_again(fitted, tmp_path):
    fitted.save(tmp_path)
    again = pofx.load(tmp_path, families=[AdaIN])
    ask = {"content": blobs(1, 6)[0], "style": stripes(1, 6)[0]}
    assert (pofx.stylise(**ask, model=again).value == pofx.stylise(**ask, model=fitted).value).all()


def test_the_command_paints_with_a_folder(fitted, tmp_path):
    Image.fromarray(blobs(1, 7)[0]).save(tmp_path / "a.png")
    Image.fromarray(stripes(1, 7)[0]).save(tmp_path / "b.png")
    fitted.save(tmp_path / "net")
    words = ["stylise", *(str(tmp_path / n) for n in ("a.png", "b.png")), "--model", str(tmp_path / "net")]
    found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "c.png")])
    assert found.exit_code == 0, found.output
    same = pofx.stylise(blobs(1, 7)[0], stripes(1, 7)[0], model=fitted).value
    assert np.array_equal(np.asarray(Image.open(tmp_path / "c.png")), same)


def test_what_it_cannot_is_told(fitted):
    picture = blobs(1)[0]
    with pytest.raises(pofx.Unsupported, match="given nothing"):
        pofx.fit(blobs(32), AdaIN(), budget="1 steps")
    with pytest.raises(pofx.Unsupported, match="x has shape"):
        pofx.fit(pofx.open_data(np.zeros((32, 4)), given={"style": stripes(32)}, paired=False), AdaIN(), budget=1)
    with pytest.raises(pofx.Unsupported, match="expected encode and decode"):
        pofx.stylise(picture, picture, model=pofx.fit(np.zeros((32, 2)) + np.arange(32)[:, None], "gaussian"))
    with pytest.raises(ValueError, match="alpha is 2"):
        pofx.stylise(picture, picture, model=fitted, alpha=2)
    with pytest.raises(ValueError, match="weight -1"):
        AdaIN(weight=-1)
