"""Text: documents with their end, or windows of a long stream; one code a character, a byte or a learnt piece.

    documents   x = (s_1, ..., s_T, END, PAD, ..., PAD)    log p(x) = log p(s_1, ..., s_T, END): the length is part of x
    stream      x = (s_1, ..., s_L), a window; its first symbol has no context but the window's own start

Reads text files, folders of them, a column of a CSV or TSV, and lists of str or bytes. What is read comes back in the
same type: str as str, bytes as bytes. A missing symbol is written █ (where the text itself has none), so in-filling is
`impute`; how a text goes on is `forecast`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._symbols import UNITS, Symbols, Words, words
from pofx.kinds._texts import SUFFIXES, column_of, content, folder, frame_of, lines_of, suffix_of
from pofx.kinds.base import Kind, Raw, Space, Variable, numbered
from pofx.kinds.ending import Ending

GAP = "█"  # a symbol that is missing
FORMS = ("documents", "stream", "lines")
WINDOW = 64  # symbols of a window of a stream, where none are asked for
LONGEST = 1024  # symbols of a document, where no length is asked for


class Text(Kind):
    """Text: one document, or one window of a stream, is one x."""

    name = "text"
    layout = "sequence"
    endings = (".txt", ".csv")
    trivial = "unigram"

    def reads(self, source: object) -> bool:
        if isinstance(source, Path) and source.is_dir():
            return any(suffix_of(p) in SUFFIXES for p in source.rglob("*"))
        if isinstance(source, Path):
            return suffix_of(source) in SUFFIXES
        return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(r, (str, bytes)) for r in source)

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        unit: str = "character",
        form: str | None = None,
        length: int | None = None,
        stride: int | None = None,
        column: str | None = None,
        rare: int = 0,
        vocabulary: int = 1000,
        encoding: str = "utf-8",
    ) -> Raw:
        """Rows `(N, D)` of codes, int64.

        Args:
            source: a text file (.gz too), a folder of them, a CSV, TSV or frame with a column of text, or a list of str
                or bytes.
            given: columns of the table that x is given.
            unit: "character", "byte", or "bpe" (pieces, trained on this text).
            form: "stream" (windows), "documents" (each ends) or "lines" (each line is a document); None: a stream
                where there is one text, else documents.
            length: of a window, 64 by default; of a document, the longest by default, and longer ones are cut.
            stride: from one window to the next; None: the length, so that none overlap.
            column: which column of a table is the text; None: the one with the longest words.
            rare: characters seen less often than this, and all that are met later, are one symbol, U+FFFD.
            vocabulary: pieces of unit "bpe".
            encoding: of files.

        Raises:
            ValueError: nothing there, not text, a damaged file, or an option that does not fit; the message says which.
        """
        _check(unit, form, length, stride)
        texts, givens = self._texts(source, given, column, encoding if unit != "byte" else None, encoding)
        texts = [line for t in texts for line in lines_of(t)] if form == "lines" else texts
        if not any(texts):
            raise ValueError(f"got {len(texts)} empty text(s); expected at least one symbol.")
        form = "stream" if form == "stream" or (form is None and len(texts) == 1) else "documents"
        kind = "bytes" if isinstance(texts[0], bytes) else "str"
        symbols = _learnt(unit, texts, rare, vocabulary)
        codes = [symbols.codes(t, f"text {k}") for k, t in enumerate(texts)]
        if unit == "byte" and isinstance(source, Path):
            kind = "str" if _is_utf8(texts) else "bytes"
        meta: dict[str, Any] = {"unit": unit, "type": kind, "form": form, "tokenizer": symbols.tokenizer}
        if form == "documents":
            x, notes = _documents(codes, length, symbols.count)
            meta |= {"end": symbols.count, "pad": symbols.count + 1}
            return Raw(x, _space(symbols, x.shape[1], meta), *givens, notes=notes)
        if given:
            raise ValueError(f"given {list(given)}: windows of a stream have no columns; form='documents' has.")
        x, start, notes = _windows(codes, length or WINDOW, stride or length or WINDOW)
        return Raw(x, _space(symbols, x.shape[1], meta), notes=notes, start=start)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        return self._encode(rows, space, open_ended="end" not in space.meta)

    def past(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        """Prompts as `(x, observed)` `(N, D)`: whatever comes after a prompt is missing."""
        return self._encode(rows, space, open_ended=True)

    def prompt(self, text: Words, space: Space) -> Tensor:
        """The codes of one prompt of any length, `(T,)`."""
        (one,) = _list(text)
        return torch.from_numpy(_symbols(space).codes(one, "the prompt"))

    def spelt(self, codes: Tensor, like: Words, space: Space) -> list[Words]:
        """Codes `(N, T)` of any length as texts of the type of `like`; END and all after it are left out."""
        ending, kind = Ending.of(space), "bytes" if isinstance(like, bytes) else "str"
        ends = ending.lengths(codes).tolist() if ending else [codes.shape[1]] * len(codes)
        symbols = _symbols(space)
        return [symbols.text(row[:n].numpy(), kind) for row, n in zip(codes.cpu(), ends, strict=True)]

    def rows(self, source: Any, space: Space) -> list[Words]:
        """The texts of a file as a model of this Space takes them: documents, or windows side by side."""
        unit, form = space.meta["unit"], space.meta["form"]
        texts, _ = self._texts(source, (), None, "utf-8" if unit != "byte" else None, "utf-8")
        if form == "documents":
            # a file that is no table and stands alone has a document on each line
            return [line for t in texts for line in lines_of(t)] if len(texts) == 1 else texts
        symbols = _symbols(space)
        x = _windows([symbols.codes(t, "text") for t in texts], space.size, space.size)[0]
        return self.restore(x, space)

    def restore(self, x: Tensor, space: Space) -> list[Words]:
        codes, symbols, ending = x.detach().cpu().long().reshape(-1, space.size), _symbols(space), Ending.of(space)
        ends = ending.lengths(codes).tolist() if ending else [space.size] * len(codes)
        return [symbols.text(row[:n].numpy(), space.meta["type"]) for row, n in zip(codes, ends, strict=True)]

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Any:
        texts, symbols, ending = _list(rows), _symbols(space), Ending.of(space)
        full = self._encode(rows, space, open_ended="end" not in space.meta)[0]
        codes = torch.where(observed.cpu(), full, x.detach().cpu().long())
        kept = codes < ending.end if ending else torch.ones_like(codes, dtype=torch.bool)
        out = [
            text if bool(seen.all()) else symbols.text(row[keep].numpy(), "bytes" if isinstance(text, bytes) else "str")
            for text, row, keep, seen in zip(texts, codes, kept, observed.cpu(), strict=True)
        ]
        return _as_given(out, rows)

    def blank(self, rows: Any, observed: Tensor, space: Space) -> Any:
        _refuse_gap(space)
        if space.meta["unit"] != "character":
            raise ValueError(f"a missing {space.meta['unit']} has no mark inside a text; give impute its mask.")
        out: list[Words] = []
        for text, seen in zip(_list(rows), observed.cpu().tolist(), strict=True):
            out.append("".join(c if known else GAP for c, known in zip(words(text), seen, strict=False)))
        return _as_given(out, rows)

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """The first texts, one below the other."""
        axes.set_axis_off()
        shown = [repr(t)[1:-1][:72] for t in self.restore(x[:12], space)]
        for k, text in enumerate(shown):
            place = 1 - (k + 0.5) / len(shown)
            axes.text(0, place, text, family="monospace", fontsize=7, va="center", parse_math=False)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Texts in one file: .txt, one after the other with a line's end after each, or .csv, a column "text"."""
        (out,), texts = numbered(path, 1, self.endings), _list(rows)
        if out.suffix.lower() == ".csv":
            import pandas as pd

            words = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in texts]
            pd.DataFrame({"text": words}).to_csv(out, index=False)
            return [out]
        parts = [t if isinstance(t, bytes) else t.encode("utf-8", "replace") for t in texts]
        out.write_bytes(b"".join(t + b"\n" for t in parts))
        return [out]

    def _texts(
        self, source: Any, given: Sequence[str], column: str | None, encoding: str | None, table: str
    ) -> tuple[list[Any], tuple[dict[str, Tensor], dict[str, Space]]]:
        """The texts of a source, and what its table gives."""
        if isinstance(source, Path) and source.is_dir():
            return folder(source, encoding), ({}, {})
        frame = frame_of(source, table)
        if frame is not None:
            return _of_frame(frame, column, given)
        if column is not None or given:
            raise ValueError(f"column {column!r}, given {list(given)}: only a table has columns.")
        if isinstance(source, Path):
            return [content(source, encoding)], ({}, {})
        return _list(source), ({}, {})

    def _encode(self, rows: Any, space: Space, open_ended: bool) -> tuple[Tensor, Tensor]:
        symbols, ending, d = _symbols(space), Ending.of(space), space.size
        texts = _list(rows)
        x = torch.full((len(texts), d), ending.pad if ending else 0, dtype=torch.int64)
        observed = torch.ones(len(texts), d, dtype=torch.bool)
        for k, text in enumerate(texts):
            codes, seen = _with_gaps(text, symbols, space, f"text {k}")
            if len(codes) > d:
                raise ValueError(f"text {k} has {len(codes)} symbols; the model knows {d} at most: cut it.")
            x[k, : len(codes)], observed[k, : len(codes)] = torch.from_numpy(codes), torch.from_numpy(seen)
            if open_ended:
                x[k, len(codes) :], observed[k, len(codes) :] = 0, False
            elif len(codes) < d:
                assert ending is not None
                x[k, len(codes)] = ending.end
        return x, observed


def _check(unit: str, form: str | None, length: int | None, stride: int | None) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; expected one of {', '.join(UNITS)}.")
    if form not in (None, *FORMS):
        raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}.")
    for name, value in (("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")


def _learnt(unit: str, texts: Sequence[Words], rare: int, vocabulary: int) -> Symbols:
    try:
        return Symbols.learnt(unit, texts, rare, vocabulary)
    except UnicodeDecodeError as error:
        raise ValueError(f"got bytes that are not UTF-8 ({error}); unit='byte' takes any.") from error


def _list(rows: Any) -> list[Words]:
    """Texts of one type.

    Raises:
        ValueError: something is no text, or str and bytes are mixed.
    """
    texts = [rows] if isinstance(rows, (str, bytes)) else list(rows)
    odd = next((k for k, t in enumerate(texts) if not isinstance(t, (str, bytes))), None)
    if odd is not None:
        raise ValueError(f"text {odd} is {texts[odd]!r}; expected str or bytes: leave that row out.")
    if len({isinstance(t, str) for t in texts}) > 1:
        raise ValueError("got str and bytes mixed; expected one of the two.")
    return [str(t) if isinstance(t, str) else t for t in texts]


def _as_given(texts: list[Words], rows: Any) -> Any:
    """Texts in the container that the user's rows came in."""
    if isinstance(rows, (str, bytes)):
        return texts[0]
    if isinstance(rows, np.ndarray):
        return np.array(texts, dtype=rows.dtype if rows.dtype == object else None)
    if hasattr(rows, "index") and hasattr(rows, "iloc"):
        out = rows.copy()
        out.iloc[:] = texts
        return out
    return tuple(texts) if isinstance(rows, tuple) else texts


def _of_frame(
    frame: Any, column: str | None, given: Sequence[str]
) -> tuple[list[Any], tuple[dict[str, Tensor], dict[str, Space]]]:
    from pofx.kinds.table import Table

    if frame.empty:
        raise ValueError("the table has no rows.")
    chosen = column_of(frame, column, given)
    texts = frame[chosen]
    lacking = np.flatnonzero([not isinstance(t, (str, bytes)) for t in texts])
    if len(lacking):
        raise ValueError(f"column {chosen!r}, row {lacking[0]}: {texts.iloc[lacking[0]]!r} is no text; drop that row.")
    if not given:
        return list(texts), ({}, {})
    known = Table().read(frame[list(given)].assign(_row=np.arange(len(frame)) % 2), tuple(given))
    return list(texts), (known.given, known.given_spaces)


def _documents(codes: list[np.ndarray], length: int | None, end: int) -> tuple[Tensor, tuple[str, ...]]:
    longest = max(len(c) for c in codes) + 1
    if length is None and longest > LONGEST:
        raise ValueError(f"a document has {longest - 1} symbols; say length= to cut it, or form='stream' for windows.")
    d = length or longest
    x = np.full((len(codes), d), end + 1, dtype=np.int64)
    for row, own in zip(x, codes, strict=True):
        row[: min(len(own), d)] = own[:d]
        if len(own) < d:
            row[len(own)] = end
    cut = sum(len(c) > d for c in codes)
    notes = [
        f"{len(codes)} documents of {np.mean([len(c) for c in codes]):.0f} symbols on average, {longest - 1} at most"
    ]
    return torch.from_numpy(x), (*notes, *([f"{cut} documents are cut after {d} symbols"] if cut else []))


def _windows(codes: list[np.ndarray], length: int, stride: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Windows `(N, length)`, where each starts in all texts one after the other, and notes."""
    parts, starts, before, short = [], [], 0, 0
    for own in codes:
        if len(own) >= length:
            at = np.arange(0, len(own) - length + 1, stride)
            parts.append(np.lib.stride_tricks.sliding_window_view(own, length)[at])
            starts.append(at + before)
        short += len(own) < length
        before += len(own)
    if not parts:
        raise ValueError(f"every text has fewer than {length} symbols; say a smaller length=, or form='documents'.")
    start = torch.from_numpy(np.concatenate(starts))
    left_out = before - int(start[-1]) - length
    notes = [f"{len(start)} windows of {length} symbols, {stride} apart; the first symbol of a window has no context"]
    notes += [f"{short} texts are shorter than a window and left out"] if short else []
    notes += [f"the last {left_out} symbols fill no window"] if left_out and not short else []
    return torch.from_numpy(np.concatenate(parts)), start, tuple(notes)


def _space(symbols: Symbols, length: int, meta: dict[str, Any]) -> Space:
    ends = ("<end>", "<pad>") if "end" in meta else ()
    levels = symbols.count + len(ends)
    if levels < 2:
        raise ValueError(f"the text has one symbol only, {symbols.names[0]!r}: there is nothing to learn.")
    v = Variable("symbol", "category", levels, (*symbols.names, *ends))
    return Space((length,), (v,), "sequence", "text", "int64", {**meta, "symbols": symbols.count})


def _symbols(space: Space) -> Symbols:
    """The symbols of a Space."""
    names = space.variables[0].values or ()
    unit = space.meta["unit"]
    return Symbols(unit, names[: space.meta["symbols"]] if unit == "character" else (), space.meta["tokenizer"])


def _with_gaps(text: Words, symbols: Symbols, space: Space, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and which of them are observed."""
    if isinstance(text, bytes) or GAP not in text or _has_gap(space):
        codes = symbols.codes(text, where)
        return codes, np.ones(len(codes), dtype=bool)
    parts, seen = [], []
    for k, piece in enumerate(text.split(GAP)):
        own = symbols.codes(piece, where) if piece else np.zeros(0, dtype=np.int64)
        parts += [np.zeros(int(k > 0), dtype=np.int64), own]
        seen += [np.zeros(int(k > 0), dtype=bool), np.ones(len(own), dtype=bool)]
    return np.concatenate(parts), np.concatenate(seen)


def _has_gap(space: Space) -> bool:
    return GAP in (space.variables[0].values or ())


def _refuse_gap(space: Space) -> None:
    if _has_gap(space):
        raise ValueError(f"{GAP!r} is a character of this text, so it cannot mark what is missing; give a mask.")


def _is_utf8(texts: Sequence[Words]) -> bool:
    try:
        return all(isinstance(t, str) or t.decode("utf-8") is not None for t in texts)
    except UnicodeDecodeError:
        return False
