"""Manifest: pairs and triples of kinds, by a table of paths and captions, or by folders with equal names.

    table       a CSV or TSV with a column of files for x; other columns are what x is given: files, captions, numbers
    folders     {"x": folder, "view": folder, ...}: the files of one name (without its ending) belong together

A column of files is read by its kind (pictures, shapes, videos), a column of words with several words a row is a text,
any other is a category or a number. A row of which a file is missing is an error that names the row. Offers
`is_manifest`, `read_manifest`, and its parts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._clips import MOVING
from pofx.kinds._meshes import mesh_suffix
from pofx.kinds._pictures import SUFFIXES as PICTURES
from pofx.kinds.base import Raw, Space, Variable, category

TABLES = (".csv", ".tsv")


def kind_of_file(path: Path) -> str | None:
    """The kind of one file by its ending, None where it is none that a manifest takes."""
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return "image"
    if suffix in MOVING:
        return "video"
    return "shape" if mesh_suffix(path) else None


def stem_of(path: Path) -> str:
    """The name by which files of several folders are paired: up to its first dot."""
    return path.name.split(".")[0]


def rows_of(path: Path) -> tuple[dict[str, list[Path]], Any]:
    """The columns of files of a manifest (name -> paths), and the frame of its other columns.

    Raises:
        ValueError: no rows, no column of files, or a file that is not there.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}).") from error
    if frame.empty:
        raise ValueError(f"{path} has no rows; expected a line for each x.")
    files = {str(c): _paths(path, frame[c], str(c)) for c in frame.columns if _is_files(frame[c])}
    if not files:
        raise ValueError(
            f"{path} has no column of files; expected one whose entries end in {', '.join(PICTURES)}, "
            f"{', '.join(MOVING)} or a mesh's ending. Columns: {list(frame.columns)}."
        )
    return files, frame.drop(columns=[c for c in frame.columns if str(c) in files])


def is_manifest(path: Path) -> bool:
    """Whether a table has a column of files, by its first rows."""
    if path.suffix.lower() not in TABLES or not path.is_file():
        return False
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", nrows=5)
    except (ValueError, OSError, UnicodeDecodeError):
        return False
    return any(len(frame) and _is_files(frame[c]) for c in frame.columns)


def pairs_of_folders(folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The files of each folder, in one order of names that all of them have.

    Raises:
        ValueError: a folder without files, a name twice, or names that other folders lack.
    """
    found = {name: _by_stem(Path(folder)) for name, folder in folders.items()}
    first, *others = found
    for other in others:
        a, b = set(found[first]), set(found[other])
        if a != b:
            lack = [f"{len(a - b)} of {first!r} are not in {other!r} ({', '.join(sorted(a - b)[:3])})"] if a - b else []
            lack += (
                [f"{len(b - a)} of {other!r} are not in {first!r} ({', '.join(sorted(b - a)[:3])})"] if b - a else []
            )
            raise ValueError(f"the folders do not match: {'; '.join(lack)}. Every name must be in each folder.")
    return {name: [files[stem] for stem in sorted(found[first])] for name, files in found.items()}


def read_files(name: str, paths: Sequence[Path], kinds: Mapping[str, Any], options: Mapping[str, Any]) -> Raw:
    """The files of one column, read by their kind in this order, one row for each.

    Raises:
        ValueError: kinds are mixed, or a file cannot be read (a pair would lose its other half).
    """
    found = {kind_of_file(p) for p in paths}
    if len(found) != 1 or None in found:
        raise ValueError(f"column {name!r} holds files of several kinds ({sorted(map(str, found))}); expected one.")
    kind = kinds[str(found.pop())]
    with tempfile.TemporaryDirectory() as folder:
        for k, path in enumerate(paths):
            to = Path(folder) / f"{k:08d}{''.join(path.suffixes[-2:]) if path.suffix == '.gz' else path.suffix}"
            try:
                to.symlink_to(path.resolve())
            except OSError:  # a system without links
                shutil.copyfile(path, to)
        raw = kind.read(Path(folder), **options)
    if len(raw.x) != len(paths):
        why = next((n for n in raw.notes if "left out" in n), "")
        raise ValueError(f"column {name!r}: {len(paths)} files gave {len(raw.x)} rows, so pairs would not match. {why}")
    return raw


def _is_files(column: Any) -> bool:
    words = [str(v) for v in column.dropna()]
    return bool(words) and all(kind_of_file(Path(w)) is not None for w in words)


def _paths(manifest: Path, column: Any, name: str) -> list[Path]:
    paths = []
    for row, value in enumerate(column):
        path = manifest.parent / str(value)
        if not isinstance(value, str) or not path.is_file():
            raise ValueError(f"{manifest}, row {row + 1}: {name} is {value!r}, and there is no such file beside it.")
        paths.append(path)
    return paths


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and kind_of_file(p))
    if not files:
        raise ValueError(f"{folder} holds no picture, video or mesh.")
    found: dict[str, Path] = {}
    for path in files:
        stem = stem_of(path)
        if stem in found:
            raise ValueError(f"{folder} holds two files named {stem!r}: {found[stem].name} and {path.name}.")
        found[stem] = path
    return found


def read_manifest(source: Path | Mapping[str, Any], kinds: Mapping[str, Any], options: Mapping[str, Any]) -> Raw:
    """x with everything that stands beside it, as what it may be given.

    Args:
        source: a table, or name -> folder.
        kinds: all kinds, by name.
        options: "x": the column (or folder) that is x, the first of files where none is said; "columns": name -> the
            options of its kind, such as {"photo": {"size": (32, 32)}}.

    Raises:
        ValueError: see `rows_of`, `pairs_of_folders` and `read_files`; an unknown column.
    """
    unknown = set(options) - {"x", "columns"}
    if unknown:
        raise ValueError(f"options {sorted(unknown)}: a manifest takes 'x' and 'columns'.")
    frame = None
    if isinstance(source, Mapping):
        files = pairs_of_folders({k: Path(v) for k, v in source.items()})
    else:
        files, frame = rows_of(source)
    others = {} if frame is None else {str(c): frame[c] for c in frame.columns}
    x, own = str(options.get("x") or next(iter(files))), dict(options.get("columns") or {})
    wrong = [c for c in (x, *own) if c not in files and c not in others]
    if wrong or x not in files:
        raise ValueError(f"column(s) {wrong or [x]}: expected some of {[*files, *others]}, and x a column of files.")
    raws = {name: read_files(name, paths, kinds, own.get(name, {})) for name, paths in files.items()}
    known = {name: (raw.x, raw.space) for name, raw in raws.items() if name != x}
    notes = [f"{name}: {note}" for name, raw in raws.items() for note in raw.notes]
    for name, column in others.items():
        known[name] = _beside(name, column, kinds, own.get(name, {}), notes)
    values, spaces = {k: v for k, (v, _) in known.items()}, {k: s for k, (_, s) in known.items()}
    return Raw(raws[x].x, raws[x].space, values, spaces, raws[x].observed, tuple(notes))


def _beside(
    name: str, column: Any, kinds: Mapping[str, Any], options: Mapping[str, Any], notes: list[str]
) -> tuple[Tensor, Space]:
    """A column that is no file: texts where a row has several words, else codes or a number."""
    if bool(column.isna().any()):
        row = int(column.isna().to_numpy().argmax()) + 1
        raise ValueError(f"column {name!r}, row {row} is empty; fill it or drop the row.")
    if column.dtype.kind in "iuf":
        x = torch.from_numpy(column.to_numpy(dtype=np.float64).copy())
        v = Variable(name, mean=float(x.mean()), scale=float(x.std()) or 1.0)
        return x, Space((), (v,))
    words = [str(w) for w in column]
    if options or any(" " in w.strip() for w in words):
        raw = kinds["text"].read(words, **{"form": "documents", **options})
        notes += [f"{name}: {note}" for note in raw.notes]
        return raw.x, raw.space
    levels, codes = np.unique(np.array(words), return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), category(len(levels), name, tuple(w.item() for w in levels))
