"""Manifest: pairs stay pairs, by a table or by equal names; what does not match is said, row by row."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

import pofx
from pofx.data import open_data
from pofx.kinds._clips import write_clip


@pytest.fixture
def pairs(tmp_path):
    """Twelve pictures of one grey level k, their negatives under equal names, and a table."""
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    for k in range(12):
        Pillow.fromarray(np.full((4, 5), 20 * k, np.uint8)).save(tmp_path / "x" / f"p{k}.png")
        Pillow.fromarray(np.full((3, 3), 255 - 20 * k, np.uint8)).save(tmp_path / "y" / f"p{k}.bmp")
    frame = pd.DataFrame({
        "photo": [f"x/p{k}.png" for k in range(12)][::-1],
        "sketch": [f"y/p{k}.bmp" for k in range(12)][::-1],
        "caption": [f"a grey of {20 * k}" for k in range(12)][::-1],
        "side": ["left", "right"] * 6,
        "angle": np.arange(12) / 2,
    })  # fmt: skip
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path


def test_a_table_of_paths_and_captions(pairs):
    data = open_data(pairs / "pairs.csv", given=["sketch", "caption", "side", "angle"])
    assert data.x.shape == (12, 4, 5, 1) and data.space.kind == "image"
    for row in range(12):
        level = int(data.x[row, 0, 0, 0])
        assert level == 20 * (11 - row) and int(data.given["sketch"][row, 0, 0, 0]) == 255 - level
    text = data.given_spaces["caption"]
    codes = data.given["caption"][0].tolist()
    spelt = "".join(text.variables[0].values[c] for c in codes[: codes.index(text.meta["end"])])
    assert spelt == "a grey of 220"
    assert {k: s.spec[0] for k, s in data.given_spaces.items()} == {
        "sketch": "picture", "caption": "tokens", "side": "category", "angle": "real",
    }  # fmt: skip
    other = open_data(pairs / "pairs.csv", options={"x": "sketch", "columns": {"photo": {"size": (8, 8)}}})
    assert other.x.shape == (12, 3, 3, 1) and other.aside["photo"][0].shape == (12, 8, 8, 1)


def test_folders_with_equal_names(pairs):
    data = open_data({"photo": pairs / "x", "sketch": pairs / "y"}, given="sketch")
    assert (data.x[:, 0, 0, 0].int() + data.given["sketch"][:, 0, 0, 0].int() == 255).all()
    model = pofx.fit(data, "process", progress=False)
    drawn = model.sample(1, {"sketch": data.given["sketch"]}, rng=0)[0]
    assert float((drawn.double() - data.x.double()).abs().mean()) < 15


def test_kinds_are_mixed_freely(pairs):
    (pairs / "clips").mkdir()
    for k in range(12):
        write_clip(pairs / "clips" / f"p{k}.gif", np.stack([np.full((4, 4), v, np.uint8) for v in (k, 2 * k + 1, 90)]))
    data = open_data({"clip": pairs / "clips", "photo": pairs / "x"}, given="photo")
    assert data.space.kind == "video" and data.space.shape == (3, 4, 4, 1)
    assert (20 * data.x[:, 0, 0, 0, 0].int() == data.given["photo"][:, 0, 0, 0].int()).all()


# --- bad input


def test_pairs_that_do_not_match(pairs):
    (pairs / "y" / "p3.bmp").unlink()
    with pytest.raises(ValueError, match=r"1 of 'photo' are not in 'sketch' \(p3\)"):
        open_data({"photo": pairs / "x", "sketch": pairs / "y"})
    with pytest.raises(ValueError, match="row 9: sketch is 'y/p3.bmp', and there is no such file"):
        open_data(pairs / "pairs.csv")
    Pillow.new("L", (3, 3)).save(pairs / "y" / "p3.png")
    Pillow.new("L", (3, 3)).save(pairs / "y" / "p3.bmp")
    with pytest.raises(ValueError, match="two files named 'p3'"):
        open_data({"photo": pairs / "x", "sketch": pairs / "y"})


def test_a_damaged_half_is_an_error_since_its_pair_would_be_lost(pairs):
    (pairs / "y" / "p3.bmp").write_bytes(b"BM broken")
    with pytest.raises(ValueError, match="12 files gave 11 rows"):
        open_data(pairs / "pairs.csv")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f: f[:0], {"kind": "manifest"}, "has no rows"),
        (lambda f: f[["side", "angle"]], {"kind": "manifest"}, "no column of files"),
        (lambda f: f.assign(caption=[None, *f.caption[1:]]), {}, "row 1 is empty"),
        (lambda f: f.assign(photo=["x/p1.png", "a.mp4", *f.photo[2:]]), {}, "no such file"),
        (lambda f: f, {"options": {"x": "side"}}, "x a column of files"),
        (lambda f: f, {"options": {"columns": {"foto": {}}}}, "foto"),
        (lambda f: f, {"options": {"size": 3}}, "takes 'x' and 'columns'"),
    ],
)
def test_bad_tables(pairs, change, options, words):
    change(pd.read_csv(pairs / "pairs.csv")).to_csv(pairs / "bad.csv", index=False)
    with pytest.raises(ValueError, match=words):
        open_data(pairs / "bad.csv", **options)


def test_bad_folders(pairs):
    (pairs / "none").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        open_data({"photo": pairs / "x", "other": pairs / "none"})
    with pytest.raises(FileNotFoundError):
        open_data({"photo": pairs / "nowhere"})
