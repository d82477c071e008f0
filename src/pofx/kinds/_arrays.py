"""Arrays from NumPy files, .npy and .npz (.gz too), with errors that name the file. Offers `load_arrays`, `header`."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".npy", ".npz", ".npy.gz")
DAMAGE = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
LABELS = ("y", "label", "labels", "target", "subject")


def is_arrays(path: Path) -> bool:
    """Whether a path is a NumPy file by its name."""
    return path.name.lower().endswith(SUFFIXES)


def load_arrays(path: Path, what: str = "an array of numbers") -> dict[str, np.ndarray]:
    """The arrays of a file by name, that of a .npy as "x"; what holds them comes first.

    Raises:
        ValueError: empty, damaged, cut short, or of Python objects.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; expected {what}.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            with loaded:
                found = {name: loaded[name] for name in loaded.files}
    except DAMAGE as error:
        why = "Python objects, not numbers" if "allow_pickle" in str(error) else str(error)
        raise ValueError(f"{path} cannot be read as a NumPy file ({why}); expected {what}.") from error
    if not found:
        raise ValueError(f"{path} holds no array; expected {what}.")
    return found


def main_array(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The array called x, else the first."""
    return arrays["x"] if "x" in arrays else next(iter(arrays.values()))


def label_array(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """The array whose name says label, if any."""
    return next((arrays[k] for k in LABELS if k in arrays), None)


def header(path: Path) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of the main array without reading it; ((), None) where there is none, or a damaged one."""
    try:
        if path.name.lower().endswith(".npz"):
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.endswith(".npy")]
                with archive.open("x.npy" if "x.npy" in names else names[0]) as file:
                    return _of(file)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _of(file)
    except (*DAMAGE, IndexError):
        return (), None


def _of(file: Any) -> tuple[tuple[int, ...], Any]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
