"""Damaged, empty, cut and mixed files of every kind: one clear error, or what is said to be done; never a traceback."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

import pofx
from pofx.data import open_data
from pofx.kinds import KINDS
from pofx.kinds._arrays import header, load_arrays
from pofx.kinds._clips import write_clip
from pofx.kinds._scores import write_midi
from pofx.kinds._sounds import write_sound

TS = "@problemName x\n@univariate true\n@classLabel true a b\n@data\n" + "1,2,3,4:a\n2,3,4,5:b\n" * 9
TUNES = "".join(f"X:{k}\nT:tune\nM:4/4\nL:1/8\nK:C\nCDEF GABc CDEF GABc\n" for k in range(5))
OPTIONS = {"audio": {"length": 200}, "music": {"length": 4}, "video": {"length": 4}}
LIBRARY = {".wav": "soundfile", ".flac": "soundfile", ".mid": "mido", ".mp4": "av", ".parquet": "pyarrow"}
LIBRARY |= dict.fromkeys((".off", ".obj", ".ply", ".stl", ".glb"), "trimesh")


def noise(*shape, top=256):
    return np.random.default_rng(0).integers(0, top, shape)


def cloud():
    return np.random.default_rng(0).normal(size=(50, 3))


def arrays(path, x, **more):
    if path.suffix == ".npz":
        np.savez_compressed(path, x=x, **more)
    else:
        np.save(path.with_suffix(""), x)


def mesh(path):
    import trimesh

    content = trimesh.creation.icosphere(1).export(file_type=path.suffix[1:])
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def roll():
    x = np.zeros((40, 88), np.uint8)
    x[::2, 40] = 1
    return x


GOOD = {
    "table.csv": lambda p: pd.DataFrame(cloud()).to_csv(p, index=False),
    "table.parquet": lambda p: pd.DataFrame(cloud(), columns=list("abc")).to_parquet(p),
    "array.npy": lambda p: arrays(p, cloud()),
    "array.npz": lambda p: arrays(p, cloud()),
    "image.npy": lambda p: arrays(p, noise(50, 5, 5).astype(np.uint8)),
    "image.npz": lambda p: arrays(p, noise(50, 5, 5).astype(np.uint8), y=np.arange(50) % 3),
    "video.npz": lambda p: arrays(p, noise(10, 4, 5, 5, 1).astype(np.uint8)),
    "shape.npz": lambda p: arrays(p, noise(10, 5, 5, 5, top=2).astype(bool)),
    "shape.npy.gz": lambda p: p.write_bytes(gzip.compress(npy(noise(10, 5, 5, 5, top=2).astype(bool), p))),
    "text.txt": lambda p: p.write_text("a text of some length\n" * 40),
    "text.txt.gz": lambda p: p.write_bytes(gzip.compress(b"a text of some length\n" * 40)),
    "series.ts": lambda p: p.write_text(TS),
    "audio.wav": lambda p: write_sound(p, noise(4000, top=99).astype(np.int32), 8000),
    "audio.flac": lambda p: write_sound(p, noise(4000, top=99).astype(np.int32), 8000),
    "music.mid": lambda p: write_midi(p, roll()),
    "music.abc": lambda p: p.write_text(TUNES),
    "music.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps([[[60, 64], [62]] * 10] * 5).encode())),
    "video.gif": lambda p: write_clip(p, noise(20, 6, 6, 1).astype(np.uint8)),
    "video.mp4": lambda p: write_clip(p, noise(20, 16, 16, 1).astype(np.uint8)),
    "shape.off": mesh, "shape.obj": mesh, "shape.ply": mesh, "shape.stl": mesh, "shape.glb": mesh,
}  # fmt: skip


def npy(x, path):
    np.save(path.with_name("plain.npy"), x)
    return path.with_name("plain.npy").read_bytes()


def damaged(whole):
    """The same file as it may come out of an accident."""
    flipped = bytearray(whole)
    for at in np.random.default_rng(0).integers(0, len(whole), max(3, len(whole) // 50)):
        flipped[at] ^= 0xFF
    yield from {"empty": b"", "zeros": bytes(300), "words": b"hello world\nnothing here\n"}.items()
    yield "noise", np.random.default_rng(0).bytes(300)
    yield "flipped", bytes(flipped)
    for share in (0.02, 0.1, 0.3, 0.5, 0.8, 0.97):
        yield f"cut {share}", whole[: max(1, int(len(whole) * share))]


@pytest.mark.parametrize("name", GOOD)
def test_damage_is_told_in_one_line(tmp_path, name):
    """Whatever is wrong, by the kind said or by sight: ValueError (or a library that is missing), in a sentence."""
    kind, path = name.split(".")[0], tmp_path / name
    for ending, library in LIBRARY.items():
        if ending in name:
            pytest.importorskip(library)
    GOOD[name](path)
    told = []
    for what, content in damaged(path.read_bytes()):
        path.write_bytes(content)
        for said in (kind, None):
            try:
                open_data(path, kind=said, options=OPTIONS.get(kind) if said else None)
            except (ValueError, ImportError) as error:
                told.append((what, str(error)))
    assert len(told) >= 6, "the empty file, noise, zeros by either way"
    assert all(len(words) > 25 for _, words in told), told
    assert all(name in words for what, words in told if what == "empty"), told


def test_empty_and_odd_numpy_files_are_named(tmp_path):
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, "a"], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    for name, says in (("none.npz", "holds no array"), ("objects.npy", "Python objects")):
        for kind in ("array", "image", "video", "shape"):
            with pytest.raises(ValueError, match=f"{name}.*{says}"):
                KINDS[kind].read(tmp_path / name)
    assert header(tmp_path / "none.npz") == ((), None) == header(tmp_path / "zip.npz")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), x=np.ones((4, 2)))
    assert header(tmp_path / "two.npz") == ((4, 2), np.float64)
    assert list(load_arrays(tmp_path / "two.npz")) == ["a", "x"]


def test_a_cut_mesh_says_what_is_lacking(tmp_path):
    pytest.importorskip("trimesh")
    from test_kind_shape import CUBE_OFF

    lines = CUBE_OFF.splitlines()
    for kept in (5, 12, len(lines) - 1):
        (tmp_path / "a.off").write_text("\n".join(lines[:kept]))
        with pytest.raises(ValueError, match="cut short: it says 8 points and 12 faces"):
            KINDS["shape"].read(tmp_path / "a.off")
    (tmp_path / "a.off").write_text("OFF 8 12 0\n# a comment\n\n" + "\n".join(lines[2:]))  # the counts may stand first
    assert len(KINDS["shape"].read(tmp_path / "a.off", resolution=8).x) == 1


# --- files of several kinds -----------------------------------------------------------------------------------------


def test_a_folder_of_several_kinds_is_read_as_the_kind_said(tmp_path):
    pytest.importorskip("soundfile")
    for k in range(4):
        Pillow.fromarray(noise(5, 5).astype(np.uint8)).save(tmp_path / f"{k}.png")
        write_sound(tmp_path / f"{k}.wav", noise(200, top=99).astype(np.int32), 8000)
    (tmp_path / "notes.docx").write_bytes(b"words")
    assert open_data(tmp_path, kind="image").space.shape == (5, 5, 1)
    assert open_data(tmp_path, kind="audio").space.shape == (200,)
    for kind in ("shape", "music"):
        with pytest.raises(ValueError, match="holds no"):
            open_data(tmp_path, kind=kind)


# --- the smallest and the dullest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gaussian", "mixture", "autoregressive", "vae", "flow", "diffusion", "gan"])
def test_pictures_of_one_pixel_are_learnt(family):
    x = np.where(np.random.default_rng(0).random((200, 1, 1)) < 0.3, 200, 40).astype(np.uint8)
    model = pofx.fit(x, family, budget="6 steps", threads=1, progress=False)
    assert pofx.sample(model, 4, rng=0).value.shape == (4, 1, 1)
    if "log_prob" in model.offers():
        assert bool(torch.isfinite(pofx.density(model, x[:5], draws=2).value).all())


@pytest.mark.parametrize("kind", ["image", "video", "shape", "series"])
def test_rows_that_are_all_alike_are_learnt(kind):
    """One level everywhere: nothing divides by a spread of zero."""
    same = {
        "image": np.full((40, 4, 4), 7, np.uint8), "video": np.full((40, 3, 4, 4, 1), 7, np.uint8),
        "shape": np.ones((40, 4, 4, 4), bool), "series": np.full((40, 5, 2), 7.0),
    }[kind]  # fmt: skip
    data = open_data(same, kind=kind)
    for family in ("gaussian", "diffusion"):
        model = pofx.fit(data, family, budget="4 steps", threads=1, progress=False)
        drawn = pofx.sample(model, 3, rng=0)
        assert drawn.raw.shape == (3, *data.space.shape) and bool(drawn.raw.double().isfinite().all())
        assert bool(torch.isfinite(pofx.density(model, data.x[:3], draws=2).value).all())


def test_one_frame_is_a_picture_however_it_comes(tmp_path):
    one = noise(1, 6, 6, 1).astype(np.uint8)
    write_clip(tmp_path / "one.gif", one)
    write_clip(tmp_path / "frames", one)
    for source in (tmp_path / "one.gif", tmp_path / "frames", one):
        with pytest.raises(ValueError, match="one frame only, which is a picture; read it by kind='image'"):
            KINDS["video"].read(source)
    write_clip(tmp_path / "many" / "a.gif" if (tmp_path / "many").mkdir() is None else None, one)
    write_clip(tmp_path / "many" / "b.gif", noise(4, 6, 6, 1).astype(np.uint8))
    raw = KINDS["video"].read(tmp_path / "many", length=2)
    assert len(raw.x) == 2 and any("1 clips are shorter and left out" in n for n in raw.notes)


def test_an_hour_of_silence_in_a_file_and_a_pause_in_a_sound(tmp_path):
    pytest.importorskip("soundfile")
    write_sound(tmp_path / "hour.wav", np.zeros(3600 * 8000, np.int32), 8000)
    with pytest.raises(ValueError, match=r"hour.wav.*silent"):
        open_data(tmp_path / "hour.wav", options={"length": 8000})
    sound = np.concatenate([noise(1000, top=99), np.zeros(3000)]).astype(np.int32)
    write_sound(tmp_path / "pause.wav", sound, 8000)
    data = open_data(tmp_path / "pause.wav", options={"length": 100, "view": "mu-law"})
    model = pofx.fit(data, "ngram", progress=False)  # windows of silence among others are windows as any
    assert len(data) == 40 and bool(torch.isfinite(pofx.density(model, data.part("test").x).value).all())
