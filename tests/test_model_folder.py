"""A fitted model as a folder: what was saved comes back, and what is damaged, foreign or incomplete is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pofx
from pofx import files
from pofx.data import Data
from pofx.kinds.base import Space, Variable
from pofx.model import Card, Model, Value

CARD = Card("exact", "fast", "none", "none", "small", ("explicit",), "refuses", "a family for tests", "none")


class Shift(Model):
    """One weight, one buffer that grows."""

    card = CARD

    def __init__(self, *, scale: float = 1.0, words: object = None) -> None:
        super().__init__()
        self.scale, self.words = scale, words

    def _build(self):
        self.shift = torch.nn.Parameter(torch.zeros(self.space.size))
        self.tied = self.shift
        self.register_buffer("kept", torch.zeros(0, self.space.size))

    def _log_prob(self, x, given, observed, draws, rng):
        return Value(-0.5 * (x - self.shift).square().sum(-1))


SPACE = Space((2,), (Variable("a"), Variable("b", mean=3.0, scale=2.0)))


def made(d: int = 2, **options) -> Model:
    space = SPACE if d == 2 else Space((d,), (Variable(),))
    model = Shift(**options).build(space)
    with torch.no_grad():
        model.shift += torch.arange(1.0, d + 1)
    model.kept = torch.full((5, d), 7.0)
    model.history, model.record = [{"step": 1, "loss": 2.5, "seconds": 0.1}], {"data": {"name": "none"}}
    return model


@pytest.fixture
def folder(tmp_path) -> Path:
    made().save(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> Model:
    return pofx.load(folder, families=[Shift])


def test_what_is_saved_comes_back(folder) -> None:
    model, again = made(), load(folder)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.log_prob(x).value, again.log_prob(x).value)
    assert torch.equal(again.kept, model.kept) and again.space == SPACE and again.shift is again.tied
    assert again.history == model.history and again.record == model.record and not again.training
    again.save(folder)  # over itself
    assert torch.equal(load(folder).shift, model.shift)
    assert sorted(p.name for p in folder.iterdir()) == ["history.jsonl", "model.json", "weights.safetensors"]


def test_a_relaxed_family_comes_back(tmp_path) -> None:
    data = pofx.open_data("iris", given="species")
    model = pofx.fit(data, "gaussian", folder=tmp_path / "run", progress=False)
    part = data.part("test")
    ask = lambda m: m.log_prob(part.x, part.given, rng=0).value  # noqa: E731
    again = pofx.load(tmp_path / "run")
    assert again.name == "gaussian" and torch.equal(ask(model), ask(again))
    assert again.record == json.loads(json.dumps(model.record)) and again.history == model.history


def test_a_folder_never_imports_code(tmp_path, folder) -> None:
    with pytest.raises(ValueError, match=r"holds a 'Shift'.*load\(path, families=\[Shift\]\)"):
        pofx.load(folder)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    for home in ("evil:Shift", "os:system", f"{tmp_path}/evil.py:Shift"):
        rewrite(folder, family=home)
        with pytest.raises(ValueError, match="which is no family of pofx"):
            pofx.load(folder)


def rewrite(folder: Path, **changes) -> None:
    """Change model.json as one who knows its checksum could."""
    words = json.loads((folder / files.MODEL).read_text()) | changes
    words.pop("checksum")
    words["weights"] = files._digest((folder / files.WEIGHTS).read_bytes())
    words["checksum"] = files._digest(files._canonical(words))
    (folder / files.MODEL).write_text(json.dumps(words))


@pytest.mark.parametrize("name", [files.MODEL, files.WEIGHTS])
def test_a_missing_file_is_named(folder, name) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(folder)


def test_no_folder_is_no_model(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model.json"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="written by fit or save"):
        load(tmp_path / "empty")


@pytest.mark.parametrize("name", [files.MODEL, files.WEIGHTS])
def test_a_truncated_file_is_refused_wherever_it_was_cut(folder, name) -> None:
    whole = (folder / name).read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            load(folder)


@pytest.mark.parametrize("name", [files.MODEL, files.WEIGHTS])
def test_one_flipped_bit_anywhere_is_noticed(folder, name) -> None:
    whole = (folder / name).read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 60)
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(place % 7)
        (folder / name).write_bytes(flipped)
        try:
            same = json.loads(bytes(flipped)) == json.loads(whole)  # a blank between two words may turn into another
        except ValueError:
            same = False
        if not same:
            with pytest.raises(ValueError, match="damaged|changed after|holds a|reads up to"):
                load(folder)


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '"model"', "{}", '{"format": 1}', "\x00\x01", '{"format": "x"}']
)
def test_foreign_json_is_refused(folder, content) -> None:
    (folder / files.MODEL).write_text(content)
    with pytest.raises(ValueError, match="not written by pofx"):
        load(folder)


def test_foreign_weights_are_refused(folder) -> None:
    save_file({"shift": torch.ones(2)}, folder / files.WEIGHTS)  # safetensors, but not ours
    with pytest.raises(ValueError, match="not written by pofx"):
        load(folder)
    torch.save({"shift": torch.ones(2)}, folder / files.WEIGHTS)
    with pytest.raises(ValueError, match="not written by pofx"):
        load(folder)


def test_another_models_weights_are_refused(tmp_path, folder) -> None:
    made(scale=2.0).save(tmp_path / "other")
    other = made()
    with torch.no_grad():
        other.shift += 1
    other.save(tmp_path / "other")
    os.replace(tmp_path / "other" / files.WEIGHTS, folder / files.WEIGHTS)
    with pytest.raises(ValueError, match="damaged or of another model"):
        load(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("shift"), "1 names differ, such as \\['shift'\\]"),
        (lambda t: t.update(odd=torch.ones(1)), "1 names differ, such as \\['odd'\\]"),
        (lambda t: t.update(shift=torch.ones(3)), "weight shift: got shape \\(3,\\), expected \\(2,\\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message) -> None:
    tensors = load_file(folder / files.WEIGHTS)
    change(tensors)
    files.save_tensors(folder / files.WEIGHTS, tensors, {})
    rewrite(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [{"hyper_parameters": {"depth": 3}}, {"hyper_parameters": 7}, {"space": {}}, {"space": None}, {"given": [1]}],
)
def test_words_that_do_not_fit_the_family_are_refused(folder, changes) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match="does not fit this Shift"):
        load(folder)


def test_a_newer_format_asks_for_a_newer_pofx(folder) -> None:
    rewrite(folder, format=99)
    with pytest.raises(ValueError, match="has format 99; this pofx reads up to 1"):
        load(folder)


def test_an_edited_model_json_is_refused(folder) -> None:
    words = json.loads((folder / files.MODEL).read_text())
    words["space"]["variables"][1]["mean"] = 3.5
    (folder / files.MODEL).write_text(json.dumps(words))
    with pytest.raises(ValueError, match="changed after it was written"):
        load(folder)


def test_a_history_cut_off_by_a_kill_keeps_its_whole_lines(folder) -> None:
    with open(folder / files.HISTORY, "a") as file:
        file.write('{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert [line["step"] for line in load(folder).history] == [1, 2]


def test_a_hyper_parameter_that_is_not_json_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="is not a number, word, list or None"):
        made(words=object()).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the folder .*Not a directory; give another one"):
        made().save(tmp_path / "file" / "model")
    made().save(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write .*No space left on device; make room, or give another folder"):
        made().save(tmp_path / "model")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}  # the old model is whole


def test_a_checkpoint_holds_what_was_put_in(tmp_path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    files.save_tensors(tmp_path / "t", {"a": whole.t(), "b": whole, "c": whole[0]}, {"best": float("inf")})
    tensors, words = files.load_tensors(tmp_path / "t")
    assert (
        torch.equal(tensors["a"], whole.t()) and torch.equal(tensors["c"], whole[0]) and words["best"] == float("inf")
    )


def test_data_is_not_needed_to_load(tmp_path) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 2)))
    pofx.fit(Data(x, SPACE).splitted(), "gaussian", folder=tmp_path / "run", progress=False)
    assert pofx.load(tmp_path / "run").sample(3, rng=0).shape == (3, 2)
