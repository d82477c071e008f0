"""Texts from files: a file as one text, a line as one text, a folder of files, a column of a table."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.kinds._frames import is_table_file, read_frame
from pofx.kinds._symbols import Words

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".txt", ".text", ".md")


def suffix_of(path: Path) -> str:
    """The suffix, without .gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def content(path: Path, encoding: str | None) -> Words:
    """A file's text; its bytes where encoding is None.

    Raises:
        ValueError: it is empty, damaged or not text; the message says where.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}).") from error
    if not raw:
        raise ValueError(f"{path} is empty; expected text.")
    if encoding is None:
        return raw
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in {encoding}: byte {error.start} is 0x{raw[error.start]:02x}; say encoding=, or "
            "unit='byte'."
        ) from error
    if "\x00" in text:
        raise ValueError(
            f"{path} holds NUL at place {text.index(chr(0))}, as no text does; unit='byte' takes any file."
        )
    return text.removeprefix("\ufeff")


def lines_of(text: Words) -> list[Any]:
    """The lines of a text, without their ends; a last empty one is none."""
    ends: Any = "\n" if isinstance(text, str) else b"\n"
    found = [line.rstrip("\r" if isinstance(text, str) else b"\r") for line in text.split(ends)]  # type: ignore[arg-type]
    return found[:-1] if found and not found[-1] else found


def folder(path: Path, encoding: str | None) -> list[Words]:
    """The text files of a folder, in the order of their names.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    found = sorted(p for p in path.rglob("*") if p.is_file() and suffix_of(p) in SUFFIXES)
    if not found:
        raise ValueError(f"{path} holds no text file ({', '.join(SUFFIXES)}).")
    return [content(p, encoding) for p in found]


def frame_of(source: Any, encoding: str) -> pd.DataFrame | None:
    """The table that a source is, or None; its quotes are letters like any other where it is a TSV."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source
    if not (isinstance(source, Path) and source.is_file() and is_table_file(source)):
        return None
    if suffix_of(source) != ".tsv":
        return read_frame(source, encoding=encoding)[0]
    text = content(source, encoding)
    assert isinstance(text, str)
    rows = [line.split("\t") for line in lines_of(text)]
    ragged = next((k for k, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if ragged is not None:
        raise ValueError(
            f"{source}, line {ragged + 1}: got {len(rows[ragged])} fields, expected {len(rows[0])} (as in the first "
            "line)."
        )
    return pd.DataFrame(rows[1:], columns=rows[0])


def column_of(frame: pd.DataFrame, column: str | None, given: Sequence[str]) -> str:
    """Which column is the text: the one that is asked for, or the longest of words.

    Raises:
        ValueError: there is none of that name, or none of words.
    """
    if column is not None:
        if column not in frame.columns:
            raise ValueError(f"column is {column!r}; the table has the columns {list(frame.columns)}.")
        return column
    seen = {str(k): frame[k].dropna() for k in frame.columns if k not in given}
    long = {k: float(v.str.len().mean()) for k, v in seen.items() if len(v) and all(isinstance(w, str) for w in v)}
    if not long:
        raise ValueError(f"no column of {list(frame.columns)} holds text; say column=.")
    return max(long, key=long.__getitem__)
