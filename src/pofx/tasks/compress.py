"""Compress: make rows small without losing a bit, by the model's own probabilities.

    length = sum -log2 p(x) + a few bytes            what is likely becomes short

Four programs (see `programs` and `bitsback`), each run by the writer and by the reader over chunks of the same number
of rows, in the same dtype, on the same number of threads; for floats computed in another shape differ in their last
bits, and then nothing after them can be read. The file (see `container`) holds hashes of the model, of a probe of its
probabilities and of the rows: another model, another machine's arithmetic or a flipped bit is an error, never silent
garbage. What was written is read again before it is called done.

References: MacKay 2003, chapter 6; Townsend 2019 (arXiv:1901.04866); Bamler 2022 (arXiv:2201.01741).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.drawing.rows import counted
from pofx.drawing.sizes import packed, sizes_figure, sizes_of
from pofx.files import write_atomic
from pofx.kinds import KINDS
from pofx.kinds.base import Space
from pofx.model import Model, Quality, Unsupported
from pofx.tasks.base import Answer, given_for, route, rows_of, solve
from pofx.tasks.bitsback import BitsBack
from pofx.tasks.container import Head, Opened, closed, content_hash, dtype_of, model_hash, opened, same_program
from pofx.tasks.programs import Codes, Marginals, Program, Walk, Written, mask_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "How small can x be made, without loss?"
UNIT = "bytes"
THREADS = 1  # sums are then added in the same order on every machine
PROGRAMS: dict[int, type[Program]] = {p.number: p for p in (Walk, BitsBack, Marginals, Codes)}


def compress(
    model: Model,
    x: Any,
    path: str | Path | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    chunk: int = 256,
    route: str | None = None,
) -> Answer:
    """Rows as bytes that `decompress` gives back exactly.

    Args:
        model: fitted, on the CPU; with steps, with encode and decode, or with an exact log_prob of some entries alone.
        x: rows in the user's own type, or a tensor `(N, *event)`; NaN is missing.
        path: where to write the bytes, in a folder that is made where there is none; None: nowhere.
        given: name -> one value, or N values; the file holds the names alone, and the reader must be told the same.
        chunk: rows that are computed together.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `bytes`; diagnostics: bits per dimension (of the file, an observed entry), -log2 p of
        the observed entries (by steps, with gaps at their likeliest values), bits that say where gaps are, and the
        overhead, what the file takes beyond both as a share; of bits back also the initial and the net bits; and
        `not in the file`, the givens' names, whose values the reader needs.

    Raises:
        Unsupported: no route, or an entry has no probability (a real number without a resolution).
        ValueError: there are no rows; they have a column that would not come back, or one that is told otherwise; a
            row holds a code that its variable does not have, or a number that its column would give back rounded;
            `chunk` is out of range; the model is not on the CPU.
    """
    _check_columns(model, x, given or {})
    rows, observed = rows_of(model, x)
    if len(rows) == 0:
        raise ValueError("compress: got no rows.")
    if not 1 <= chunk < 2**16:
        raise ValueError(f"compress: got chunk = {chunk}, expected 1 to 65535.")
    _on_cpu(model)
    _check_codes(model.space, rows.flatten(1), observed.flatten(1))
    _check_numbers(model.space, x, rows)
    c = given_for(model, given, len(rows))
    _check_givens(model, x, c)
    answer = solve("compress", ROUTES, model, route, x=rows, observed=observed, given=c, chunk=min(chunk, len(rows)))
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(path), answer.value)
    return answer


def decompress(model: Model, source: bytes | str | Path, given: Mapping[str, Any] | None = None) -> Any:
    """The rows of a compressed file, in the user's own type, each as it was.

    A table's columns come in the order in which the model was fitted, whatever order they were written in, and the
    givens are not among them; series come as the windows into which they were cut.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, was written with another model or other givens, or this machine computes other
            probabilities than the writer's did.
    """
    _on_cpu(model)
    file = opened(_content(source), model)
    _check_told(file.head.given, given or {})
    x, observed = _read(model, file, given_for(model, given, file.head.rows))
    if content_hash(x, observed) != file.head.content:
        raise ValueError("decompress: the rows differ from those written; the givens, or the model, are not the same.")
    kind = KINDS[model.space.kind]
    if kind.name == "series":  # whose frames hold NaN themselves
        return kind.restore(torch.where(observed, x, torch.nan), model.space)
    value = kind.restore(x, model.space)
    return value if bool(observed.all()) else kind.blank(value, observed, model.space)


def written_given(model: Model, source: bytes | str | Path) -> tuple[str, ...]:
    """The names of what a compressed file was written given, which its reader must be told."""
    return opened(_content(source), model).head.given


def by_steps(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int) -> Answer:
    """A range coder over the entries, one after the other."""
    return _coded(Walk, model, x, observed, given, chunk)


def by_bits_back(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int) -> Answer:
    """A stack coder over latent numbers, whose choice is paid back."""
    return _coded(BitsBack, model, x, observed, given, chunk)


def by_codes(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int) -> Answer:
    """A range coder over the codes of a bijection of whole numbers."""
    return _coded(Codes, model, x, observed, given, chunk)


def by_marginals(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int) -> Answer:
    """A range coder over the entries, each by the log p of those so far with every value it can have."""
    return _coded(Marginals, model, x, observed, given, chunk)


def _coded(
    kind: type[Program], model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int
) -> Answer:
    with same_program(model, THREADS):
        program = kind(model, given, chunk)
        flat, seen = x.flatten(1), observed.flatten(1)
        probe, written = program.probe(), program.write(flat, seen)
    gaps = (~seen).sum(0).numpy().astype("uint32")
    head = Head(
        kind.number, THREADS, dtype_of(model), written.growth, chunk, len(x), model_hash(model), probe,
        content_hash(x, observed), written.initial, tuple(sorted(given)),
    )  # fmt: skip
    payload = closed(Opened(head, gaps, written.words))
    again, back = _read(model, opened(payload, model), given)
    if content_hash(again, back) != head.content:
        raise RuntimeError("compress: the rows did not come back as they were; nothing was written. Please report it.")
    return Answer(payload, UNIT, Quality.EXACT, diagnostics=_facts(payload, written, seen, head.given))


def _facts(payload: bytes, written: Written, seen: Tensor, told: tuple[str, ...]) -> dict[str, Any]:
    bits, gaps = 8 * len(payload), mask_bits(seen)
    return {
        "bytes": len(payload),
        "rows": len(seen),
        "bits per dimension": bits / max(int(seen.sum()), 1),
        "-log2 p": written.ideal - gaps,
        **({"bits of gaps": gaps} if gaps else {}),
        "overhead": bits / max(written.ideal, 1e-9) - 1,
        **({"not in the file": list(told)} if told else {}),
        **written.facts,
    }


def _read(model: Model, file: Opened, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows and which entries are observed; the probe first."""
    head = file.head
    if head.program not in PROGRAMS:
        raise ValueError(f"decompress: the file was written by program {head.program}, which this pofx does not have.")
    with same_program(model, head.threads):
        try:
            program = PROGRAMS[head.program](model, given, head.chunk)
            agrees = program.probe() == head.probe
        except Unsupported as error:
            raise ValueError(f"decompress: the file is not of this {model.name} ({error}).") from error
        if not agrees:
            raise ValueError(
                "decompress: this machine computes other probabilities than the one that wrote the file (another "
                "processor or library version, or other givens); read it where it was written."
            )
        try:
            x, observed = program.read(file)
        except (ValueError, IndexError, RuntimeError, AssertionError) as error:  # words that no writer wrote
            what = "the words make no sense; the givens, or the model, differ"
            raise ValueError(f"decompress: {what} ({error}).") from error
    shape = (head.rows, *model.space.shape)
    return torch.where(observed, x, 0.0).to(model.space.torch_dtype).reshape(shape), observed.reshape(shape)


def _content(source: bytes | str | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    if not Path(source).is_file():
        raise FileNotFoundError(f"decompress: there is no file {source}; expected one that compress wrote.")
    return Path(source).read_bytes()


def _check_told(written: tuple[str, ...], told: Mapping[str, Any]) -> None:
    """Other givens are other probabilities: say which are missing, or too many, before any are computed."""
    missing = [name for name in written if name not in told]
    if missing:
        names, ways = ", ".join(missing), " ".join(f"--given {name}=..." for name in missing)
        raise ValueError(
            f"decompress: the file was written given {names}; pass given= with the same values (in a terminal {ways}, "
            "or --rows FILE with these columns)."
        )
    more = [name for name in told if name not in written]
    if more:
        raise ValueError(
            f"decompress: the file was written given {', '.join(written) or 'nothing'}; leave {', '.join(more)} out."
        )


def _check_columns(model: Model, x: Any, told: Mapping[str, Any]) -> None:
    """Only the model's own columns come back: refuse others, but for givens, which the reader is told anyway."""
    if model.space.kind not in ("table", "series"):
        return
    meta, timed = model.space.meta, model.space.kind == "series"
    known = {str(name) for name in (meta["channels"] if timed else [saved["key"] for saved in meta["columns"]])}
    lost = [name for name in _columns(x, numbers=timed) if name not in known and name not in told]
    givens = [name for name in lost if name in model.given]
    if givens:
        one = givens[0]
        raise ValueError(
            f"compress: {', '.join(givens)} would not come back, for the model is given it and does not hold it; tell "
            f"it (given={{{one!r}: ...}}, in a terminal --given {one}), or drop it."
        )
    if lost:
        raise ValueError(
            f"compress: the model does not have the columns {', '.join(lost)}, which would not come back; drop them, "
            "or fit with them."
        )


def _check_givens(model: Model, x: Any, told: Mapping[str, Tensor]) -> None:
    """A given that also is a column comes back from what the reader is told: refuse another value there."""
    import pandas as pd

    for name in [n for n in told if isinstance(x, pd.DataFrame) and n in x.columns]:
        own = given_for(model, {name: x[name].to_numpy()}, len(told[name]))[name]
        other = (own != told[name]).reshape(len(own), -1).any(1)
        if bool(other.any()):
            row = int(other.nonzero()[0])
            raise ValueError(
                f"compress: {name!r} of row {row} is {x[name].iloc[row]!r}, but another value is told as given, so it "
                "would not come back; tell the column itself, or drop it."
            )


def _columns(x: Any, *, numbers: bool) -> list[str]:
    """The names that a user's rows have; `numbers`: of columns of numbers alone, which leaves a series' time out."""
    import pandas as pd

    found: list[Any] = []
    for rows in x if isinstance(x, (list, tuple)) else [x]:
        if isinstance(rows, pd.DataFrame):
            found += [c for c in rows.columns if not numbers or pd.api.types.is_numeric_dtype(rows[c])]
        elif isinstance(rows, Mapping) or (isinstance(rows, pd.Series) and not numbers):
            found += list(rows.keys())
    return list(dict.fromkeys(map(str, found)))


def _check_codes(space: Space, x: Tensor, observed: Tensor) -> None:
    """Codes must be among 0 .. K - 1; numbers may be anything finite."""
    every = [space.variable(i) for i in range(space.size)]
    levels = torch.tensor([v.levels if v.discrete else 0 for v in every])
    wrong = ((x < 0) | (x >= levels) | (x != x.round())) & (levels > 0) & observed
    if bool(wrong.any()):
        row, entry = wrong.nonzero()[0].tolist()
        v = every[entry]
        raise ValueError(
            f"compress: {v.name!r} of row {row} is {float(x[row, entry]):g}, expected a code 0 .. {v.levels - 1}."
        )


def _check_numbers(space: Space, user: Any, x: Tensor) -> None:
    """A table holds numbers at the resolution of its columns: refuse a cell that it would give back rounded."""
    import pandas as pd

    if space.kind != "table" or not isinstance(user, pd.DataFrame):  # a series is kept as it is, to the last bit
        return
    back = KINDS[space.kind].restore(x, space)
    for name in [c for c in back.columns if c in user.columns and pd.api.types.is_numeric_dtype(user[c])]:
        if not pd.api.types.is_numeric_dtype(back[name]):
            continue
        got, given_back = (pd.to_numeric(t[name]).to_numpy(float, na_value=math.nan) for t in (user, back))
        wrong = (got != given_back) & ~np.isnan(got)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"compress: {name!r} of row {row} is {got[row]:.15g}, which this model's table would give back as "
                f"{given_back[row]:.15g} (the resolution it was fitted at); round it, or fit again."
            )


def _on_cpu(model: Model) -> None:
    if model.device.type != "cpu":
        raise ValueError(f"compress: the model is on {model.device}, expected the CPU; call model.cpu() first.")


def figure(answer: Answer) -> Figure:
    """Bytes of the same rows: as they are, by zlib, by xz, and of this file, beside -log2 p of the model."""
    assert answer.model is not None
    x, observed, facts = answer.question["x"], answer.question["observed"], answer.diagnostics
    form, raw = _plainly(answer.model.space, x, observed)
    sizes = {form: len(raw), **sizes_of(raw), f"this file ({answer.model.core.name})": len(answer.value)}
    ideal = (facts["-log2 p"] + facts.get("bits of gaps", 0.0)) / 8
    return sizes_figure(sizes, max(int(observed.sum()), 1), ideal, f"the same {counted(len(x), 'row')}, without loss")


def _plainly(space: Space, x: Tensor, observed: Tensor) -> tuple[str, bytes]:
    """The rows as other compressors meet them, and what form that is: CSV, UTF-8, or numbers of fixed width."""
    kind, whole = KINDS[space.kind], bool(observed.all())
    if kind.name == "table":
        rows = kind.restore(x, space)
        frame = rows if whole else kind.blank(rows, observed, space)
        return "as CSV", frame.to_csv(index=False).encode()
    if kind.name == "text" and whole:
        texts = kind.restore(x, space)
        return "as text", b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts)
    return "as bytes", packed(torch.where(observed, x, torch.zeros_like(x)), space)


ROUTES = (
    route(by_steps, "steps", sources="Bamler 2022 (arXiv:2201.01741)"),
    route(by_bits_back, "encode", "decode", sources="Townsend 2019 (arXiv:1901.04866)"),
    route(by_codes, "encode", "log_prob", sources="Hoogeboom 2019 (arXiv:1905.07376)"),
    route(by_marginals, "log_prob"),
)
