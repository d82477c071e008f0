"""Video: clips come back as they were, in every file that keeps them; the past and the future are where they belong."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image as Pillow

import pofx
from pofx.baselines import hold
from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds._clips import contact_sheet, read_clip, write_clip
from pofx.kinds.base import Space
from pofx.kinds.relax import Chart
from pofx.metrics.video import frame_errors, psnr

matplotlib.use("Agg")

VIDEO = KINDS["video"]


def clips(n=6, t=5, h=6, w=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, t, h, w), dtype=np.uint8)


def test_arrays_come_back_as_they_went_in():
    for x in (clips(), clips()[..., None], clips().repeat(3).reshape(6, 5, 6, 7, 3)):
        data = open_data(x)
        assert data.space.kind == "video" and data.space.shape == (5, 6, 7, 3 if x.shape[-1] == 3 else 1)
        np.testing.assert_array_equal(data.restore(data.x), x)
        np.testing.assert_array_equal(VIDEO.encode(x, data.space)[0], data.x)
        assert Space.from_json(data.space.to_json()) == data.space
    assert open_data(clips(1, 50)[0], kind="video").x.shape == (3, 16, 6, 7, 1)


def test_gif_and_frames_keep_every_level(tmp_path):
    clip = clips(1, 12)[0]
    for name in ("a.gif", "frames"):
        write_clip(tmp_path / name, clip, rate=20)
        back, rate, notes = read_clip(tmp_path / name, None, None)
        np.testing.assert_array_equal(back[..., 0], clip)
        assert notes == () and (rate == 20 if name == "a.gif" else rate == 10)


def test_frames_stand_in_the_order_of_their_numbers(tmp_path):
    for k in range(12):
        Pillow.fromarray(np.full((4, 4), 20 * k, np.uint8)).save(tmp_path / f"frame{k}.png")
    x = VIDEO.read(tmp_path, length=12).x
    assert x[0, :, 0, 0, 0].tolist() == [20 * k for k in range(12)]


def test_a_gif_frame_that_stands_longer_is_several(tmp_path):
    frames = [Pillow.fromarray(np.full((4, 4), v, np.uint8)) for v in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 100, 50])
    clip, rate, _ = read_clip(tmp_path / "a.gif", None, None)
    assert clip[:, 0, 0, 0].tolist() == [0, 90, 90, 200] and rate == 20


def test_mp4_comes_back_nearly(tmp_path):
    pytest.importorskip("av")
    ramp = np.linspace(0, 255, 31).round().astype(np.uint8)
    clip = np.stack([np.roll(np.tile(ramp, (33, 1)), k, 1) for k in range(8)])
    write_clip(tmp_path / "a.mp4", clip, rate=12)
    back, rate, _ = read_clip(tmp_path / "a.mp4", None, "L")
    assert rate == 12 and back.shape == (8, 34, 32, 1)  # an odd side is made even
    assert psnr(back[:, :33, :31], clip[..., None]).value > 35


def test_windows_share_no_frame_between_parts():
    x = np.arange(120, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    raw = VIDEO.read(x, length=6, stride=2)
    assert raw.x[:, 0, 0, 0, 0].tolist() == raw.start.tolist() == list(range(0, 115, 2))
    data = open_data(x, kind="video", options={"length": 6, "stride": 2})
    seen = {part: set(data.x[rows].unique().tolist()) for part, rows in data.split.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["valid"]
    assert VIDEO.read(x, length=5, every=3).x[0, :, 0, 0, 0].tolist() == [0, 3, 6, 9, 12]


def test_the_past_is_what_comes_before():
    x = clips(8, 5)
    data = open_data(x, given="past", options={"ahead": 2})
    np.testing.assert_array_equal(data.x[..., 0], x[:, 3:])
    np.testing.assert_array_equal(data.given["past"][..., 0], x[:, :3])
    assert data.given_spaces["past"].spec[0] == "picture"
    np.testing.assert_array_equal(VIDEO.before(x, data.space)[..., 0], x[:, -3:])
    whole = open_data(x)
    known, observed = VIDEO.past(x[:, :4], whole.space, ahead=1)
    assert (
        observed[:, :4].all()
        and not observed[:, 4:].any()
        and torch.equal(known[:, :4, ..., 0], torch.tensor(x[:, :4]))
    )


def test_the_chart_takes_frames_as_channels_and_gives_them_back():
    data = open_data(clips()[..., None].repeat(3, -1))
    chart = Chart(data.space)
    u = chart.encode(data.x)
    assert chart.space.shape == (15, 6, 7) and torch.equal(chart.decode(u), data.x)
    v = data.space.variables[0]
    torch.testing.assert_close(u[1, 3 * 2 + 1], ((data.x[1, 2, ..., 1].double() - v.mean) / v.scale).float())
    hidden = torch.ones_like(data.x, dtype=torch.bool)
    hidden[:, 4] = False
    assert not chart.mask(hidden)[:, 12:].any() and chart.mask(hidden)[:, :12].all()


def test_what_is_missing_is_completed_and_the_rest_kept():
    x = clips(40, 4, 3, 4)
    x[:] = x[:, :1]  # a clip that stands still
    data = open_data(x)
    model = pofx.fit(data, "process", progress=False)
    seen = torch.ones_like(data.x[:5], dtype=torch.bool)
    seen[:, 2:] = False
    done = pofx.impute(model, x[:5], observed=seen, rng=0).value[0]
    np.testing.assert_array_equal(done[:, :2], x[:5, :2])
    assert (
        np.abs(done[:, 2:].astype(float) - x[:5, 2:]).mean()
        < 0.4 * np.abs(x[5:10, 2:].astype(float) - x[:5, 2:]).mean()
    )
    gaps = VIDEO.blank(x[:5], seen, data.space)
    assert np.isnan(gaps[:, 2:]).all() and torch.equal(VIDEO.encode(gaps, data.space)[1], seen)


def test_it_is_drawn_and_written(tmp_path):
    data = open_data(clips())
    sheet = contact_sheet(data.x.numpy(), columns=3)
    assert sheet.shape == (6 * 7 - 1, 3 * 8 - 1, 1)
    np.testing.assert_array_equal(sheet[:6, 8:15], data.x[0, 2].numpy())
    axes = Figure().add_subplot()
    VIDEO.draw(axes, data.x, data.space)
    assert len(axes.images) == 1
    paths = VIDEO.write(data.x[:2], tmp_path / "draw.gif", data.space, scale=2)
    assert [p.name for p in paths] == ["draw-0.gif", "draw-1.gif"]
    np.testing.assert_array_equal(VIDEO.read(paths[1], length=5).x[0, :, ::2, ::2], data.x[1])


def test_few_levels_are_written_over_the_whole_range(tmp_path):
    space = open_data(clips()).space
    few = space.replace(meta={**space.meta, "white": 3})
    VIDEO.write(torch.tensor([0, 1, 2, 3, 3]).reshape(1, 5, 1, 1, 1).expand(1, 5, 6, 7, 1), tmp_path / "a.gif", few)
    back = read_clip(tmp_path / "a.gif", None, None)[0]
    assert back[:4, 0, 0, 0].tolist() == [0, 85, 170, 255]


def test_the_numbers_of_the_metrics():
    a, b = np.zeros((2, 3, 4, 4, 1)), np.full((2, 3, 4, 4, 1), 25.5)
    assert psnr(b, a).value == pytest.approx(20) and psnr(a, a).value == 100
    np.testing.assert_allclose(frame_errors(a, b), np.full((2, 3), 16 * 0.01))
    np.testing.assert_array_equal(hold(a + np.arange(3).reshape(1, 3, 1, 1, 1), 2), np.full((2, 2, 4, 4, 1), 2.0))
    with pytest.raises(ValueError, match="same"):
        psnr(a, b[:1])
    with pytest.raises(ValueError, match="expected"):
        hold(a[0], 2)


# --- bad input


def test_damaged_files(tmp_path):
    clip = clips(1, 20, 40, 40)[0]
    write_clip(tmp_path / "a.gif", clip)
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.gif").write_bytes(b"")
    (tmp_path / "noise.gif").write_bytes(np.random.default_rng(0).bytes(3000))
    kept, _, notes = read_clip(tmp_path / "cut.gif", None, None)
    assert 2 <= len(kept) < 20 and "damaged after" in notes[0]
    np.testing.assert_array_equal(kept[:2, ..., 0], clip[:2])
    for name in ("empty.gif", "noise.gif"):
        with pytest.raises(ValueError, match="cannot be read as a video"):
            VIDEO.read(tmp_path / name)
    raw = VIDEO.read(tmp_path, length=2)
    assert sum("left out" in n for n in raw.notes) == 2 and "damaged" in " ".join(raw.notes)


def test_damaged_video_files(tmp_path):
    pytest.importorskip("av")
    write_clip(tmp_path / "a.mp4", clips(1, 20, 40, 40)[0])
    whole = (tmp_path / "a.mp4").read_bytes()
    for name, content in (("cut.mp4", whole[: len(whole) // 2]), ("empty.mp4", b""), ("text.mp4", b"no video" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a video"):
            VIDEO.read(tmp_path / name)


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"pofx\[video\]"):
        VIDEO.read(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (clips(4, 1), {}, "one frame only"),
        (clips(1, 5)[0], {"length": 9}, "a window of 9"),
        (clips(), {"ahead": 5}, "ahead is 5"),
        (clips(), {"mode": "CMYK"}, "mode is"),
        (clips(), {"every": 0}, "every is 0"),
        (clips().astype(float), {}, "expected clips"),
        (clips()[:0], {}, "expected clips"),
        (clips()[0, 0], {}, "expected clips"),
    ],
)
def test_bad_clips(source, options, words):
    with pytest.raises(ValueError, match=words):
        VIDEO.read(source, **options)


def test_clips_that_do_not_fit_each_other_or_the_model(tmp_path):
    write_clip(tmp_path / "a.gif", clips(1, 5, 8, 8)[0])
    write_clip(tmp_path / "b.gif", clips(1, 5, 8, 9)[0])
    with pytest.raises(ValueError, match="size="):
        VIDEO.read(tmp_path)
    write_clip(tmp_path / "b.gif", clips(1, 7, 8, 8)[0])
    with pytest.raises(ValueError, match="length="):
        VIDEO.read(tmp_path)
    space = open_data(clips()).space
    for rows, words in (
        (clips(2, 4), "expected"),
        (clips(2, 5) * 1.5, "whole levels"),
        ([clips(1)[0], clips(1, 4)[0]], "one"),
    ):
        with pytest.raises(ValueError, match=words):
            VIDEO.encode(rows, space)
    with pytest.raises(ValueError, match="frames"):
        VIDEO.past(clips(2, 1), space, ahead=2)
    with pytest.raises(ValueError, match="written as"):
        write_clip(tmp_path / "a.txt", clips()[0])
    with pytest.raises(ValueError, match="ahead"):
        open_data(clips(), given="past")


def test_real_clips(data_dir):
    gif = open_data(data_dir / "video/clips/newtonscradle.gif", options={"length": 4})
    assert gif.x.shape == (9, 4, 150, 200, 3)
    mp4 = open_data(data_dir / "video/clips/realshort.mp4", options={"length": 6, "size": (48, 64)})
    other = np.load(data_dir / "video/clips/realshort_64x48.npz")["x"]
    assert mp4.x.shape == (6, 6, 48, 64, 3)
    assert psnr(mp4.x.flatten(0, 1).numpy(), other).value > 30  # another filter of the same frames
