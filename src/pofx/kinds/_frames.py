"""Frames from files: CSV, TSV, white-space tables and Parquet, with errors that name the line.

The separator and whether the first line holds names are read off the first line; both can be said instead. Offers
`read_frame` and `is_table_file`.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "None", "null", "<NA>")
SEPARATED = (".csv", ".tsv", ".data", ".dat")
COLUMNS = (".parquet", ".pq")


def is_table_file(path: Path) -> bool:
    """Whether a path is a table by its suffix; a .txt is one where its first line holds only numbers."""
    suffix = _suffix(path)
    if suffix in (*SEPARATED, *COLUMNS):
        return True
    if suffix != ".txt" or not path.is_file():
        return False
    try:
        line = _first_line(path, "utf-8-sig")
    except (ValueError, OSError):
        return False
    return len(fields := _split(line, _separator(line, suffix))) > 1 and all(_is_number(f) for f in fields)


def read_frame(
    path: Path,
    names: tuple[str, ...] | None = None,
    header: bool | None = None,
    separator: str | None = None,
    encoding: str = "utf-8-sig",
) -> tuple[pd.DataFrame, list[str]]:
    """The frame of a file and notes on what was decided.

    Args:
        path: a CSV, TSV, white-space table (any of them .gz) or Parquet file.
        names: column names; they also say that the first line holds none.
        header: whether the first line holds names; None says no where it holds only numbers, or any decimals.
        separator: "," or ";" or a tab or " " (any white space); None looks at the first line.
        encoding: of a text file.

    Raises:
        ValueError: an empty, damaged or ragged file; the message names the file and the line.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; a table is one CSV, TSV or Parquet file.")
    if _suffix(path) in COLUMNS:
        return _read_parquet(path, names), []
    line = _first_line(path, encoding)
    separator = separator or _separator(line, _suffix(path))
    first = _split(line, separator)
    numbers = [_is_number(f) for f in first]
    header = (names is None and not _is_row(first)) if header is None else header
    _check_width(path, separator, encoding, names, first)
    frame = _read_text(path, separator, encoding, header)
    frame.columns = list(names) if names else ([n.strip() for n in first] if header else _numbered(len(first)))
    notes = [] if header else [f"{path.name}: no line of column names; the first line is a row"]
    if header and any(numbers):
        notes = [f"{path.name}: its first line was read as column names and holds numbers; header=False if it is a row"]
    return frame, notes


def _is_row(fields: list[str]) -> bool:
    # nobody names a column 5.1, though some name them 1, 2, 3
    return all(_is_number(f) for f in fields) or any(_is_number(f) and "." in f for f in fields)


def _numbered(count: int) -> list[str]:
    return [f"x{j}" for j in range(count)]


def _read_parquet(path: Path, names: tuple[str, ...] | None) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}).") from error
    return frame if names is None else frame[list(names)]


def _read_text(path: Path, separator: str, encoding: str, header: bool) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(
        path,
        sep=r"\s+" if separator == " " else separator,
        header=0 if header else None,
        names=None,
        index_col=False,
        encoding=encoding,
        skipinitialspace=True,
        keep_default_na=False,
        na_values=list(MISSING),
        low_memory=False,
    )


def _check_width(path: Path, separator: str, encoding: str, names: tuple[str, ...] | None, first: list[str]) -> None:
    # pandas fills short rows with blanks without a word
    width = len(names) if names else len(first)
    with _open(path, encoding) as file:
        lines = (_split(line, " ") for line in file) if separator == " " else csv.reader(file, delimiter=separator)
        try:
            for number, fields in enumerate(lines, 1):
                if fields and len(fields) != width and any(f.strip() for f in fields):
                    where = getattr(lines, "line_num", number)
                    raise ValueError(
                        f"{path}, line {where}: got {len(fields)} fields, expected {width}"
                        f" {'(the number of names)' if names else '(as in the first line)'}; separator={separator!r}."
                    )
        except (EOFError, OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is damaged or not text in {encoding} ({error}).") from error


def _first_line(path: Path, encoding: str) -> str:
    try:
        with _open(path, encoding) as file:
            line = next((line for line in file if line.strip()), "")
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not text in {encoding} ({error}); encoding= names another.") from error
    if not line:
        raise ValueError(f"{path} is empty; expected a table with at least one row.")
    return line


def _open(path: Path, encoding: str) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _separator(line: str, suffix: str) -> str:
    if suffix == ".tsv":
        return "\t"
    counts = {s: line.count(s) for s in (",", ";", "\t")}
    best = max(counts, key=lambda s: counts[s])
    if counts[best]:
        return best
    return "," if suffix == ".csv" else " "


def _split(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else next(csv.reader([line.rstrip("\r\n")], delimiter=separator))


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
