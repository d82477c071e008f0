"""Compress: make rows small without losing a bit, by the model's own probabilities.

    length = sum -log2 p(x) + a few bytes            what is likely becomes short

The encoder runs the decoder's own program: the same cursor over chunks of the same number of rows (the last one
padded), the same dtype, one thread; for floats computed in another shape differ in their last bits, and then nothing
after them can be read. The file holds hashes of the model, of a probe of its probabilities and of the rows: another
model, another machine's arithmetic or a flipped bit is an error, never silent garbage. What was written is read again
before it is called done. An entry that is missing costs its part of the mask, and nothing else.

File, little-endian: "POFX", version u8, flags u8, chunk u16, rows u32, model u64, probe u64, hash of the rows u64, gap
counts (u32 an entry, where flag 1 is set), words u32 ..., CRC-32 of all before it.

References: MacKay 2003, chapter 6; Bamler 2022 (arXiv:2201.01741).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.engines.coder import Reader, Table, Writer, fingerprint
from pofx.files import write_atomic
from pofx.kinds import KINDS
from pofx.model import Model, Predictive, Quality
from pofx.tasks.base import Answer, given_for, route, rows_of, solve
from pofx.tasks.coding import codec, likeliest

QUESTION = "How small can x be made, without loss?"
UNIT = "bytes"
MAGIC, VERSION, GAPS = b"POFX", 1, 1
HEAD = struct.Struct("<4sBBHIQQQ")
PROBED, PROBE_ROWS = 16, 4  # entries and rows of the probe
Each = Callable[[int, Predictive], Tensor]


@dataclass(frozen=True)
class Head:
    """What a file says before its words."""

    chunk: int
    rows: int
    flags: int
    model: int
    probe: int
    content: int


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
        model: fitted, with steps.
        x: rows in the user's own type, or a tensor `(N, *event)`; NaN is missing.
        path: where to write the bytes; None: nowhere.
        given: name -> one value, or N values; the reader must be told the same.
        chunk: rows that are walked together.
        route: a route by name; None takes the best.

    Returns:
        An Answer whose value is `bytes`; diagnostics: bits per dimension, -log2 p, bytes around it.

    Raises:
        Unsupported: the model has no steps, or an entry has no probability (a real number without a resolution).
        ValueError: there are no rows, or `chunk` is out of range.
    """
    rows, observed = rows_of(model, x)
    if len(rows) == 0:
        raise ValueError("compress: got no rows.")
    if not 1 <= chunk < 2**16:
        raise ValueError(f"compress: got chunk = {chunk}, expected 1 to 65535.")
    c = given_for(model, given, len(rows))
    answer = solve("compress", ROUTES, model, route, x=rows, observed=observed, given=c, chunk=min(chunk, len(rows)))
    if path is not None:
        write_atomic(Path(path), answer.value)
    return answer


def decompress(model: Model, source: bytes | str | Path, given: Mapping[str, Any] | None = None) -> Any:
    """The rows of a compressed file, in the user's own type, each as it was.

    Raises:
        ValueError: the file is damaged, was written with another model or other givens, or this machine computes other
            probabilities than the writer's did.
    """
    head, words, gaps = _opened(Path(source).read_bytes() if isinstance(source, (str, Path)) else source, model)
    x, observed = _read(model, head, words, gaps, given_for(model, given, head.rows))
    if _hash(x, observed) != head.content:
        raise ValueError("decompress: the rows differ from those written; the givens, or the model, are not the same.")
    kind = KINDS[model.space.kind]
    value = kind.restore(x, model.space)
    return value if bool(observed.all()) else kind.blank(value, observed, model.space)


def by_steps(model: Model, x: Tensor, observed: Tensor, given: dict[str, Tensor], chunk: int) -> Answer:
    """A range coder over the entries, one after the other."""
    out, walk = Writer(), Walk(model, given, chunk)
    gaps = (~observed).flatten(1).sum(0).numpy().astype(np.uint32)
    _write_mask(out, observed, gaps)
    with one_thread(), torch.no_grad():
        for rows in walk.chunks(len(x)):
            _write_rows(walk, out, rows, x[rows].flatten(1), observed[rows].flatten(1))
        probe = walk.probe()
    flags, words = GAPS if gaps.any() else 0, out.words()
    head = Head(chunk, len(x), flags, model_hash(model), probe, _hash(x, observed))
    again, seen = _read(model, head, words, gaps, given)
    if _hash(again, seen) != head.content:
        raise RuntimeError("compress: the rows did not come back as they were; nothing was written. Please report it.")
    payload = _closed(head, gaps, words)
    return Answer(payload, UNIT, Quality.EXACT, diagnostics=_facts(payload, out.ideal, x))


def _facts(payload: bytes, ideal: float, x: Tensor) -> dict[str, Any]:
    bits = 8 * len(payload)
    return {
        "bytes": len(payload),
        "rows": len(x),
        "bits per dimension": bits / x.numel(),
        "-log2 p": ideal,
        "overhead": bits / max(ideal, 1e-9) - 1,
    }


class Walk:
    """The program that writer and reader share: a cursor over chunks of one size.

    Args:
        model: with steps.
        given: name -> `(N, *given_event)`.
        chunk: rows that are walked together; a short chunk is padded.
    """

    def __init__(self, model: Model, given: Mapping[str, Tensor], chunk: int) -> None:
        self.model, self.given, self.chunk = model, given, chunk
        self.order = list(model.steps(1, {k: v[:1] for k, v in given.items()} or None).order)

    def chunks(self, rows: int) -> Iterator[slice]:
        """Slices of at most `chunk` rows."""
        return (slice(start, min(rows, start + self.chunk)) for start in range(0, rows, self.chunk))

    def run(self, rows: slice, each: Each, entries: int | None = None) -> None:
        """Through the entries: `each(entry, likelihood)` says what stands in the entry, `(chunk,)` float64."""
        parts = {k: v[rows] for k, v in self.given.items()}
        padded = {k: torch.cat([v, v[-1:].expand(self.chunk - len(v), *v.shape[1:])]) for k, v in parts.items()}
        cursor = self.model.steps(self.chunk, padded or None)
        p: Predictive | None = cursor.start()
        for entry in self.order[:entries]:
            assert p is not None, "the cursor ended before its order did"
            p = cursor.next(each(entry, p))

    def probe(self) -> int:
        """A hash of the probabilities of the first entries: machines that agree here compute the same numbers."""
        tables: list[Table] = []

        def each(entry: int, p: Predictive) -> Tensor:
            v = self.model.space.variable(entry)
            tables.append(codec(v).table(p)[:PROBE_ROWS])
            return likeliest(p, v)

        self.run(slice(0, self.chunk), each, PROBED)
        return int(fingerprint(tables)[:16], 16)


def _write_rows(walk: Walk, out: Writer, rows: slice, x: Tensor, observed: Tensor) -> None:
    def each(entry: int, p: Predictive) -> Tensor:
        v, seen = walk.model.space.variable(entry), observed[:, entry].numpy().nonzero()[0]
        value = likeliest(p, v)  # stands in gaps and padding: both sides know it
        value[seen] = x[seen, entry].double()
        codec(v).write(out, p, value, seen)
        return value

    walk.run(rows, each)


def _read_rows(walk: Walk, source: Reader, rows: slice, observed: Tensor) -> Tensor:
    x = torch.zeros(walk.chunk, observed.shape[1], dtype=torch.float64)

    def each(entry: int, p: Predictive) -> Tensor:
        v, seen = walk.model.space.variable(entry), observed[:, entry].numpy().nonzero()[0]
        value = likeliest(p, v)
        value[seen] = codec(v).read(source, p, seen)
        x[:, entry] = value
        return value

    walk.run(rows, each)
    return x[: len(observed)]


def _read(model: Model, head: Head, words: Any, gaps: Any, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows and which entries are observed; the probe first."""
    walk, source = Walk(model, given, head.chunk), Reader(words)
    observed = _read_mask(source, head.rows, gaps)
    x = torch.zeros(head.rows, model.space.size, dtype=torch.float64)
    with one_thread(), torch.no_grad():
        if walk.probe() != head.probe:
            raise ValueError(
                "decompress: this machine computes other probabilities than the one that wrote the file (another "
                "processor or library version, or other givens); read it where it was written."
            )
        for rows in walk.chunks(head.rows):
            x[rows] = _read_rows(walk, source, rows, observed[rows])
    shape = (head.rows, *model.space.shape)
    return torch.where(observed, x, 0.0).to(model.space.torch_dtype).reshape(shape), observed.reshape(shape)


def _write_mask(out: Writer, observed: Tensor, gaps: Any) -> None:
    for entry in gaps.nonzero()[0]:
        out.put((~observed).flatten(1)[:, entry].numpy().astype(np.int32), _share(gaps[entry], len(observed)))


def _read_mask(source: Reader, rows: int, gaps: Any) -> Tensor:
    observed = torch.ones(rows, len(gaps), dtype=torch.bool)
    for entry in gaps.nonzero()[0]:
        observed[:, entry] = torch.from_numpy(source.take(_share(gaps[entry], rows)) == 0)
    return observed


def _share(gaps: int, rows: int) -> Table:
    p = float(gaps) / rows
    return np.tile(np.array([[1 - p, p]], np.float32), (rows, 1))


def _closed(head: Head, gaps: Any, words: Any) -> bytes:
    start = HEAD.pack(MAGIC, VERSION, head.flags, head.chunk, head.rows, head.model, head.probe, head.content)
    body = start + (gaps.astype("<u4").tobytes() if head.flags & GAPS else b"") + words.astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def _opened(content: bytes, model: Model) -> tuple[Head, Any, Any]:
    """The head, the words and the gap counts of a file, checked.

    Raises:
        ValueError: no such file, damaged, of another format, or written with another model.
    """
    if content[:4] != MAGIC or len(content) < HEAD.size + 4:
        raise ValueError("decompress: this is no file of compress, or it was cut off.")
    if struct.unpack("<I", content[-4:])[0] != zlib.crc32(content[:-4]):
        raise ValueError("decompress: the file is damaged (its checksum is wrong); use an intact copy.")
    _, version, flags, chunk, rows, model_of, probe, content_of = HEAD.unpack(content[: HEAD.size])
    if version != VERSION:
        raise ValueError(f"decompress: the file has format {version}, this pofx reads {VERSION}.")
    if model_of != model_hash(model):
        raise ValueError(f"decompress: the file was written with another model than this {model.name}.")
    size, end = model.space.size, HEAD.size + (4 * model.space.size if flags & GAPS else 0)
    gaps = np.frombuffer(content[HEAD.size : end], "<u4") if flags & GAPS else np.zeros(size, np.uint32)
    words = np.frombuffer(content[end:-4], "<u4").astype(np.uint32)
    return Head(chunk, rows, flags, model_of, probe, content_of), words, gaps


def model_hash(model: Model) -> int:
    """64 bits of the hash of a model: its Space and every weight."""
    found = hashlib.sha256(json.dumps(model.space.to_json(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return int(found.hexdigest()[:16], 16)


def _hash(x: Tensor, observed: Tensor) -> int:
    known = torch.where(observed, x.double(), 0.0).contiguous().numpy().tobytes() + observed.numpy().tobytes()
    return int(hashlib.sha256(known).hexdigest()[:16], 16)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums are added in the same order on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ROUTES = (route(by_steps, "steps", sources="Bamler 2022 (arXiv:2201.01741)"),)
