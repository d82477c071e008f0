"""Files that the commands write: each kind its own, and an ending that does not fit is refused before any drawing."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pofx
from pofx import cli, cli_io
from pofx.data import open_data
from pofx.kinds import KINDS


def sources():
    """A small source of every kind, and how it is read."""
    rng = np.random.default_rng(0)
    tone = lambda: (3000 * np.sin(np.arange(64) / rng.uniform(2, 6))).astype(np.int16)  # noqa: E731
    roll = np.zeros((30, 8, 88), np.uint8)
    for k, one in enumerate(roll):
        one[:, 40 + k % 5], one[:4, 52] = 1, 1
    cube = np.zeros((30, 6, 6, 6), bool)
    cube[:, 1:5, 1:5, 2:4] = True
    cube[::2, 1, 1, 1:5] = True
    return {
        "table": (pd.DataFrame({"a": rng.integers(0, 5, 40), "b": rng.normal(size=40).round(2)}), {}),
        "array": (rng.normal(size=(40, 3)), {}),
        "image": (rng.integers(0, 200, (30, 6, 6), dtype=np.uint8), {}),
        "text": ([f"a text of {k} signs" for k in range(30)], {}),
        "series": (pd.DataFrame({"y": rng.normal(size=80)}, index=pd.date_range("2020", periods=80)), {"length": 8}),
        "audio": ([tone() for _ in range(30)], {"rate": 8000, "view": "mu-law"}),
        "music": (list(roll), {}),
        "video": (rng.integers(0, 200, (30, 4, 6, 6, 1), dtype=np.uint8), {}),
        "shape": (cube, {}),
    }


ENDINGS = {kind.name: kind.endings for kind in KINDS.values()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A fitted model of every kind, in its folder."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (source, options) in sources().items():
        data = open_data(source, kind=name, options=options)
        family, budget = ("ngram", "1 steps") if name in ("text", "audio", "music") else ("gaussian", "60s")
        pofx.fit(data, family, budget=budget, folder=folder / name, progress=False, threads=1)
    return folder


def asked(*words):
    return CliRunner().invoke(cli.app, [str(w) for w in words])


@pytest.mark.parametrize(
    ("kind", "ending"), [(k, e) for k, endings in ENDINGS.items() for e in (*endings, ".png", ".npy")]
)
def test_every_kind_writes_its_own_files(runs, tmp_path, kind, ending):
    for library, endings in {
        "av": (".mp4", ".mov", ".mkv"),
        "trimesh": ENDINGS["shape"],
        "soundfile": (".flac",),
    }.items():
        if ending in endings:
            pytest.importorskip(library)
    if kind == "music" and ending.startswith(".mid"):
        pytest.importorskip("mido")
    done = asked("sample", runs / kind, "-n", 2, "--out", tmp_path / f"new/x{ending}", "--json")
    if ending == ".npy" and kind in ("music",):  # pieces of several lengths are no array
        assert done.exit_code == 0 or "lengths" in str(done.exception)
        return
    assert done.exit_code == 0, (done.output, done.exception)
    words = json.loads(done.stdout)
    files = sorted((tmp_path / "new").iterdir())
    many = not KINDS[kind].together and ending != ".npy" and (ending != ".png" or kind == "image")
    many = many and (kind, ending) != ("image", ".png")  # several pictures are one sheet
    assert [f.name for f in files] == (["x-0" + ending, "x-1" + ending] if many else ["x" + ending])
    assert all(f.stat().st_size > 8 for f in files)
    assert words.get("files", [words["file"]]) == [str(f) for f in files]


@pytest.mark.parametrize("kind", ENDINGS)
def test_an_unfit_ending_is_refused_before_anything_is_drawn(runs, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("pofx.tasks.sample.sample", lambda *_, **__: pytest.fail("it was drawn"))
    done = asked("sample", runs / kind, "--out", tmp_path / "x.xyz")
    assert isinstance(done.exception, ValueError)
    for ending in ENDINGS[kind]:
        assert ending in str(done.exception), done.exception
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [k for k in ENDINGS if not KINDS[k].together])
def test_a_name_without_an_ending_is_a_folder(runs, tmp_path, kind):
    for library in {"music": ["mido"], "audio": ["soundfile"], "shape": ["trimesh", "skimage"]}.get(kind, []):
        pytest.importorskip(library)
    done = asked("sample", runs / kind, "-n", 2, "--out", tmp_path / "many")
    assert done.exit_code == 0, done.exception
    made = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    if kind == "video":  # each clip is a folder of frames
        assert made[0] == "many-0/0000.png" and len(made) == 2 * 4
        return
    assert made == [f"many/000{k}{ENDINGS[kind][0]}" for k in range(2)]


def test_what_is_written_is_read_again(runs, tmp_path):
    """One picture, a clip, a text, a table and series come back as what was drawn."""
    space = pofx.load(runs / "image").space
    one = pofx.sample(pofx.load(runs / "image"), 1, rng=0).value
    (path,) = cli_io.write(one, tmp_path / "one.png", space)
    from PIL import Image

    shown = np.asarray(Image.open(path)).astype(float) * space.meta["white"] / 255
    assert np.abs(shown - one[0]).max() <= 0.5
    clips = pofx.sample(pofx.load(runs / "video"), 2, rng=0).value
    space = pofx.load(runs / "video").space
    paths = cli_io.write(clips, tmp_path / "c.gif", space)
    back = np.stack([KINDS["video"].read(p, length=4).x.numpy()[0] for p in paths])
    assert np.abs(back * (space.meta["white"] / 255) - clips).max() <= 0.5
    texts = pofx.sample(pofx.load(runs / "text"), 5, rng=0).value
    cli_io.write(texts, tmp_path / "t.csv", pofx.load(runs / "text").space)
    assert pd.read_csv(tmp_path / "t.csv", keep_default_na=False)["text"].tolist() == texts
    cli_io.write(texts, tmp_path / "t.txt", pofx.load(runs / "text").space)
    assert (tmp_path / "t.txt").read_text().split("\n")[:-1] == texts
    with pytest.raises(ValueError, match="'text' are written as"):
        cli_io.write(texts, tmp_path / "t.wav", pofx.load(runs / "text").space)
    series = pofx.sample(pofx.load(runs / "series"), 3, rng=0).raw.numpy()
    assert asked("sample", runs / "series", "-n", 3, "--seed", 0, "--out", tmp_path / "s.csv").exit_code == 0
    table = pd.read_csv(tmp_path / "s.csv")
    assert list(table.columns) == ["series", "step", "y"]
    np.testing.assert_allclose(table["y"].to_numpy().reshape(3, 8), series[..., 0])


def test_forecasts_are_written_as_their_kind(runs, tmp_path):
    rng = np.random.default_rng(0)
    pd.DataFrame({"y": rng.normal(size=20)}, index=pd.date_range("2021", periods=20)).to_csv(tmp_path / "past.csv")
    done = asked("forecast", runs / "series", tmp_path / "past.csv", "--ahead", 3, "--out", tmp_path / "next.csv")
    assert done.exit_code == 0, done.exception
    assert list(pd.read_csv(tmp_path / "next.csv").columns) == ["time", "y q0.1", "y q0.5", "y q0.9"]
    done = asked("forecast", runs / "text", "a te", "--out", tmp_path / "next.txt")
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "next.txt").read_text().startswith("a te")
    np.save(tmp_path / "clip.npy", rng.integers(0, 200, (1, 4, 6, 6, 1), dtype=np.uint8))
    words = ("--ahead", 2, "--draws", 2, "--out", tmp_path / "next.gif")
    done = asked("forecast", runs / "video", tmp_path / "clip.npy", *words)
    assert done.exit_code == 0, done.exception
    assert KINDS["video"].read(tmp_path / "next-1.gif").x.shape == (1, 2, 6, 6, 1)
    done = asked("forecast", runs / "text", "a te", "--out", tmp_path / "next.wav")
    assert "'text' are written as .txt, .csv" in str(done.exception)


def test_music_and_sounds_go_on(runs, tmp_path):
    music = pofx.load(runs / "music")
    roll = np.zeros((4, 88), np.uint8)
    roll[:, 41] = 1
    answer = pofx.forecast(music, roll, draws=3, rng=0)
    assert len(answer.value) == 3
    for (piece,) in answer.value:
        np.testing.assert_array_equal(piece[:4], roll)
    sound = sources()["audio"][0][0][:20]
    (whole,) = pofx.forecast(pofx.load(runs / "audio"), [sound], rng=0).value
    assert len(whole[0]) == 64
    with pytest.raises(ValueError, match="leave ahead out"):
        pofx.forecast(music, roll, 4)
    with pytest.raises(ValueError, match=r"fitted to a table; fit it as a series \(kind='series'\) to forecast"):
        pofx.forecast(pofx.load(runs / "table"), sources()["table"][0])


def test_translate_by_a_bridge_by_noise_and_as_learnt(runs, tmp_path):
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 200, (5, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "rows.npy", drawn)
    for words in (("--source", runs / "image"), ("--strength", 0.5)):
        out = tmp_path / f"by{words[0]}" / "x.jpg"
        done = asked("translate", runs / "image", tmp_path / "rows.npy", *words, "--out", out, "--json")
        assert done.exit_code == 0, done.exception
        assert len(json.loads(done.stdout)["files"]) == 5 == len(list(out.parent.iterdir()))
    pairs = open_data(drawn.repeat(8, 0), given={"coarse": (drawn // 2).repeat(8, 0)})
    model = pofx.fit(pairs, "gaussian", progress=False, folder=tmp_path / "learnt")
    done = asked("translate", tmp_path / "learnt", tmp_path / "rows.npy", "--out", tmp_path / "all.png")
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "all.png").stat().st_size > 100 and list(model.given) == ["coarse"]
    done = asked("translate", runs / "image", tmp_path / "rows.npy")
    assert "expected --source, --strength" in str(done.exception)
    done = asked("translate", runs / "image", tmp_path / "rows.npy", "--strength", 0.5, "--out", tmp_path / "x.mid")
    assert ".png, .jpg" in str(done.exception)


@pytest.fixture(scope="module")
def rows(runs):
    """The rows of the table's model as a file, and some with a gap."""
    frame = sources()["table"][0]
    frame.to_csv(runs / "rows.csv", index=False)
    frame.mask(frame.index.to_series() == 3).to_csv(runs / "gaps.csv", index=False)
    return runs / "rows.csv"


def never(monkeypatch):
    """No question is answered from now on."""
    for task in ("density", "anomaly", "classify", "impute", "augment", "compress", "forecast", "stylise"):
        monkeypatch.setattr(f"pofx.tasks.{task}.{task}", lambda *_, **__: pytest.fail("the work was done"))
    monkeypatch.setattr("pofx.tasks.compress.decompress", lambda *_, **__: pytest.fail("the work was done"))


@pytest.mark.parametrize(
    ("words", "name", "says"),
    [
        (["density", "table", "rows.csv", "-o"], "d.xyz", "--out .*d.xyz: expected a name that ends in .csv"),
        (["anomaly", "table", "rows.csv", "-o"], "d.png", "expected a name that ends in .csv"),
        (["anomaly", "table", "rows.csv", "--picture"], "an.bmp", "--picture .*an.bmp: expected .* .png, .svg"),
        (["classify", "table", "rows.csv", "-o"], "c", "expected a name that ends in .csv"),
        (["impute", "table", "rows.csv", "-o"], "i.xyz", "--out .*i.xyz: rows of the kind 'table' are written"),
        (["impute", "table", "rows.csv", "--mean"], "i.xyz", "--mean .*i.xyz: rows of the kind 'table' are written"),
        (["impute", "table", "rows.csv", "--picture"], "i.gif", "--picture .*i.gif: expected"),
        (["augment", "table", "rows.csv", "-o"], "a.xyz", "rows of the kind 'table' are written"),
        (["augment", "image", "rows.csv", "--by", "label", "-o"], "a.csv", "expected a name that ends in .npz"),
        (["decompress", "table", "rows.csv", "-o"], "b.xyz", "rows of the kind 'table' are written"),
        (["forecast", "series", "rows.csv", "-o"], "fc.png", "expected a name that ends in .csv, .parquet, .npy"),
        (["stylise", "rows.csv", "rows.csv", "-o"], "st.xyz", "expected a name that ends in .png, .jpg"),
        (["compress", "table", "rows.csv", "-o"], "rows.csv/c.pofx", "rows.csv is no folder that can be written to"),
        (["density", "table", "rows.csv", "-o"], "folder.csv", "folder.csv: this is a folder; expected the name of a"),
        (["sample", "table", "-o"], "rows.csv/new/s.csv", "rows.csv is no folder that can be written to"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(runs, rows, tmp_path, monkeypatch, words, name, says):
    never(monkeypatch)
    place = runs if name.startswith("rows.csv/") else tmp_path
    (tmp_path / "folder.csv").mkdir()
    done = asked(*[runs / w if (runs / w).exists() else w for w in words], place / name)
    assert isinstance(done.exception, ValueError), (done.output, done.exception)
    assert re.search(says, str(done.exception)), done.exception
    assert [p.name for p in tmp_path.iterdir()] == ["folder.csv"]


def test_folders_are_made_where_there_are_none(runs, rows, tmp_path):
    table = runs / "table"
    for words, files in (
        (["density", table, rows, "-o", "d/x.csv"], ["d/x.csv"]),
        (["anomaly", table, rows, "-o", "a/x.csv", "--picture", "b/x.svg"], ["a/x.csv", "b/x.svg"]),
        (["impute", table, runs / "gaps.csv", "--picture", "c/x.png", "--mean", "e/x.csv"], ["c/x.png", "e/x.csv"]),
        (["augment", table, rows, "-o", "f/x.csv"], ["f/x.csv"]),
        (["forecast", runs / "text", "a te", "--ahead", 2, "-o", "g/x.txt"], ["g/x.txt"]),
    ):
        done = asked(*[tmp_path / w if isinstance(w, str) and "/x" in w else w for w in words])
        assert done.exit_code == 0, (words, done.output, done.exception)
        assert all((tmp_path / f).stat().st_size > 4 for f in files)


def test_a_picture_is_stylised_into_a_new_folder(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    done = asked("stylise", tmp_path / "p.png", tmp_path / "p.png", "--steps", 1, "-o", tmp_path / "new/x.jpg")
    assert done.exit_code == 0, done.exception
    assert Image.open(tmp_path / "new/x.jpg").size == (16, 16)
