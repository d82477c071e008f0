"""Picture files: folders of PNG, JPEG, BMP and WebP, and idx files, as arrays of levels.

Offers `read_folder`, `read_one`, `read_idx`, `labels_beside`. A damaged picture among good ones is left out with a
note; pictures of several sizes or modes are an error that names the option which makes them one.
"""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
Array = np.ndarray


def is_idx(path: Path) -> bool:
    """Whether a file name is that of idx pictures, such as train-images-idx3-ubyte.gz."""
    return "idx3" in path.name or "idx4" in path.name


def read_folder(
    folder: Path, size: tuple[int, int] | None, mode: str | None, key: Callable[[Path], Any] | None = None
) -> tuple[Array, list[str] | None, tuple[str, ...]]:
    """Pictures `(N, H, W, C)` uint8 of a folder, the class folder of each (None without class folders), and notes.

    They stand in the order of their paths, or of `key(path)`.

    Raises:
        ValueError: no picture, none readable, or several sizes or modes where `size` or `mode` does not settle it.
    """
    paths = sorted((p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()), key=key)
    if not paths:
        raise ValueError(f"{folder} holds no picture; expected files that end in {', '.join(SUFFIXES)}.")
    pictures: list[Array] = []
    found: list[tuple[int, int, str]] = []
    kept, notes = [], []
    for path in paths:
        try:
            picture, was = _read_picture(path, size, mode)
        except (OSError, ValueError, SyntaxError) as error:
            notes.append(f"{path.relative_to(folder)} left out: it cannot be read ({error})")
            continue
        pictures.append(picture)
        found.append(was)
        kept.append(path)
    if not pictures:
        raise ValueError(f"{folder}: none of {len(paths)} pictures can be read; the first: {notes[0]}.")
    _same(folder, found, size, mode)
    return np.stack(pictures), _classes(folder, kept), tuple(notes)


def read_one(path: Path, size: tuple[int, int] | None = None, mode: str | None = None) -> Array:
    """The picture `(1, H, W, C)` uint8 of a file.

    Raises:
        ValueError: it is damaged, or of a mode that `mode` does not settle.
    """
    try:
        return _read_picture(path, size, mode)[0][None].copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}).") from error


def _read_picture(path: Path, size: tuple[int, int] | None, mode: str | None) -> tuple[Array, tuple[int, int, str]]:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        own = "L" if picture.mode in ("1", "L") else "RGB" if picture.mode in ("RGB", "P") else picture.mode
        if mode is None and own not in ("L", "RGB"):
            raise ValueError(f"its mode is {picture.mode}; mode='RGB' or mode='L' converts it")
        was = (picture.height, picture.width, own)
        converted = picture.convert(mode or own)
    if size is not None and (converted.height, converted.width) != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    array = np.asarray(converted, dtype=np.uint8)
    return (array if array.ndim == 3 else array[..., None]), was


def _same(folder: Path, found: list[tuple[int, int, str]], size: tuple[int, int] | None, mode: str | None) -> None:
    sizes, modes = Counter(f[:2] for f in found), Counter(f[2] for f in found)
    wrong = []
    if len(sizes) > 1 and size is None:
        h, w = sizes.most_common(1)[0][0]
        shown = ", ".join(f"{a} x {b} ({n})" for (a, b), n in sizes.most_common(4))
        more = ", ..." if len(sizes) > 4 else ""
        wrong.append(f"{len(sizes)} sizes (height x width): {shown}{more}; size=({h}, {w}) resizes all")
    if len(modes) > 1 and mode is None:
        shown = ", ".join(f"{m} ({n})" for m, n in modes.most_common())
        wrong.append(f"modes {shown}; mode='RGB' or mode='L' converts all")
    if wrong:
        raise ValueError(f"{folder} holds pictures of {' and '.join(wrong)}.")


def _classes(folder: Path, paths: list[Path]) -> list[str] | None:
    parents = [p.relative_to(folder).parts[:-1] for p in paths]
    return None if any(not p for p in parents) or len(set(parents)) < 2 else ["/".join(p) for p in parents]


def read_idx(path: Path) -> Array:
    """The array of an idx file of unsigned bytes (.gz or not).

    Raises:
        ValueError: it is no idx file of unsigned bytes, or it is cut short.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} starts with {content[:4].hex()}; expected 000008.., an idx file of unsigned bytes.")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is cut short: it has {len(content)} bytes, less than its header.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{path}: its header says {shape}, but {len(content) - start} bytes follow; it is cut short.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def labels_beside(path: Path) -> Path | None:
    """The idx file of the labels that belong to idx pictures, where it lies beside them."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    stem = name.removesuffix(".gz")
    found = [p for p in (path.with_name(stem), path.with_name(stem + ".gz")) if p != path and p.is_file()]
    return found[0] if found else None
