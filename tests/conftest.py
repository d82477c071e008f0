"""What every test may ask for: a seed, one torch thread, the folder of real data."""

import os
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)  # one process per core (`pytest -n`), so one thread per process


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for `data_dir` is a data test; a gpu test without a GPU is skipped."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture
def seed() -> int:
    """The seed of a test that needs one and does not care which."""
    return 0


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data named by the environment variable POFX_DATA."""
    named = os.environ.get("POFX_DATA")
    if not named:
        pytest.skip("POFX_DATA names no folder of real data")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        pytest.fail(f"POFX_DATA is {named!r}, which is not a folder.")
    return folder
