"""Every mutant of our mathematics is killed by the tests that the list names (slow), and the list is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mutants import MUTANTS, ROOT, run


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_line_to_change_is_there_once(mutant):
    assert (ROOT / "src" / "pofx" / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_is_killed(mutant):
    assert run(mutant), f"{mutant.name} survives {mutant.tests}"
