"""Compare: what is read back from the folder of a comparison, and what is said of one that is damaged."""

from __future__ import annotations

import json

import pytest
import torch

from pofx.data import Data
from pofx.kinds.base import real
from pofx.tasks.compare import compare, read

SETTINGS = {"budget": "1 cpu s", "seed": 0}


@pytest.fixture
def folder(tmp_path):
    data = Data(torch.zeros(4, 2).double(), real(2), split={"test": torch.arange(4)})
    data.save(tmp_path / "data.safetensors")
    saved = {"settings": SETTINGS, "rows": [{"family": "kde", "nats": 1.0}]}
    (tmp_path / "rows.json").write_text(json.dumps(saved, indent=1))
    return tmp_path


def test_a_comparison_is_read_back(folder):
    found = read(folder)
    assert found.settings == SETTINGS and found.rows[0]["family"] == "kde" and len(found.data) == 4


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"[1]", lambda b: b"\xff\xfe"])
def test_a_damaged_one_is_named_with_what_to_do(folder, damage):
    path = folder / "rows.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="rows.json is damaged or cut off.*--resume") as said:
        read(folder)
    assert str(folder) in str(said.value)


def test_damaged_settings_are_named_too(folder):
    (folder / "settings.json").write_text('{"budget": "1 c')
    with pytest.raises(ValueError, match="settings.json is damaged or cut off"):
        compare("iris", ["gaussian"], folder=folder, resume=True, baselines=False)


def test_a_damaged_row_is_named_too(folder):
    (folder / "gaussian").mkdir()
    (folder / "gaussian" / "row.json").write_text('{"family": "gau')
    with pytest.raises(ValueError, match="row.json is damaged or cut off"):
        compare("iris", ["gaussian"], folder=folder, resume=True, baselines=False)
