"""Container: the file that `compress` writes and `decompress` reads, and what it knows its model by.

    head, names of givens, gap counts, words, CRC-32 of all before it      little-endian
    head: "POFX", version u8, flags u8, program u8, threads u8, dtype u8, growth u8, chunk u16, rows u32,
          model u64, probe u64, rows' hash u64, initial words u32
    flags 1: there are gaps, and gap counts are u32 an entry. words: u32, of a range coder or of a stack
    flags 2: the rows were told given something; a length u16 and a JSON list of the names, not their values

The first 8 bytes of SHA-256 are a hash here. The hash of a model is of its class and those of its parts, its
hyper-parameters, its Space and every weight: two models that share all of these compute the same law.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.files import hyper_parameters
from pofx.model import Model

MAGIC, VERSION, GAPS, GIVEN = b"POFX", 3, 1, 2
HEAD, LENGTH = struct.Struct("<4sBBBBBBHIQQQI"), struct.Struct("<H")
DTYPES = ("none", "float32", "float64", "bfloat16", "float16")
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Head:
    """What a file says before its words.

    Args:
        program: the number of the program that wrote it.
        threads, dtype, chunk: of the arithmetic: threads of a sum, dtype of the weights, rows of a batch.
        rows: in the file.
        model, probe, content: hashes.
        growth: of the chunks of a stack, in 1/16 of the rows before.
        initial: words on the stack before the first row.
        given: names of what the rows were told given, sorted; the reader must be told the same.
    """

    program: int
    threads: int
    dtype: str
    growth: int
    chunk: int
    rows: int
    model: int
    probe: int
    content: int
    initial: int = 0
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A file, read: its head, how many gaps each entry has, and the coder's words."""

    head: Head
    gaps: NDArray[np.uint32]
    words: Words


def closed(file: Opened) -> bytes:
    """The bytes of a file."""
    h, gaps = file.head, bool(file.gaps.any())
    flags = (GAPS if gaps else 0) | (GIVEN if h.given else 0)
    start = HEAD.pack(
        MAGIC, VERSION, flags, h.program, h.threads, DTYPES.index(h.dtype), h.growth, h.chunk, h.rows,
        h.model, h.probe, h.content, h.initial,
    )  # fmt: skip
    names = json.dumps(h.given, separators=(",", ":")).encode() if h.given else b""
    start += LENGTH.pack(len(names)) + names if names else b""
    body = start + (file.gaps.astype("<u4").tobytes() if gaps else b"") + file.words.astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def opened(content: bytes, model: Model) -> Opened:
    """A file, checked.

    Raises:
        ValueError: no such file, damaged, of another format, or written with another model.
    """
    if content[:4] != MAGIC or len(content) < HEAD.size + 4:
        raise ValueError("decompress: this is no file of compress, or it was cut off.")
    if struct.unpack("<I", content[-4:])[0] != zlib.crc32(content[:-4]):
        raise ValueError("decompress: the file is damaged (its checksum is wrong); use an intact copy.")
    if content[4] != VERSION:
        raise ValueError(
            f"decompress: the file has format {content[4]}, this pofx reads {VERSION}; write it again from the rows."
        )
    _, _, flags, program, threads, dtype, growth, chunk, rows, *hashes = HEAD.unpack(content[: HEAD.size])
    if dtype >= len(DTYPES) or 0 in (chunk, rows, threads) or flags > GAPS | GIVEN:
        raise ValueError("decompress: the file's head makes no sense; use an intact copy.")
    names, start = _names(content) if flags & GIVEN else ((), HEAD.size)
    which, probe, every, initial = hashes
    head = Head(program, threads, DTYPES[dtype], growth, chunk, rows, which, probe, every, initial, names)
    if head.model != model_hash(model) or head.dtype != dtype_of(model):
        raise ValueError(f"decompress: the file was written with another model than this {model.name}.")
    end = start + (4 * model.space.size if flags & GAPS else 0)
    counts = np.frombuffer(content[start:end], "<u4").astype(np.uint32)
    gaps = counts if flags & GAPS else np.zeros(model.space.size, np.uint32)
    return Opened(head, gaps, np.frombuffer(content[end:-4], "<u4").astype(np.uint32))


def _names(content: bytes) -> tuple[tuple[str, ...], int]:
    """The names of the givens, and where they end."""
    start = HEAD.size + LENGTH.size
    end = start + LENGTH.unpack(content[HEAD.size : start])[0]
    return tuple(json.loads(content[start:end])), end


def model_hash(model: Model) -> int:
    """64 bits of the hash of a model: its classes, hyper-parameters, Spaces and every weight."""
    parts = [[name, type(part).__module__, type(part).__qualname__] for name, part in model.named_modules()]
    spaces = {name: space.to_json() for name, space in model.given.items()}
    words = [parts, hyper_parameters(model.core), model.space.to_json(), spaces]
    found = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return _first_bytes(found.digest())


def content_hash(x: Tensor, observed: Tensor) -> int:
    """64 bits of the hash of rows and of which entries are observed."""
    known = torch.where(observed, x.double(), 0.0).contiguous().numpy().tobytes() + observed.numpy().tobytes()
    return _first_bytes(hashlib.sha256(known).digest())


def dtype_of(model: Model) -> str:
    """The dtype of the weights, as a word."""
    found = next((t.dtype for t in model.state_dict().values() if t.is_floating_point()), None)
    return "none" if found is None else str(found).removeprefix("torch.")


@contextlib.contextmanager
def same_program(model: Model, threads: int) -> Iterator[None]:
    """The arithmetic that writer and reader share: so many threads, no dropout, no mixed precision, no gradients."""
    before, modes = torch.get_num_threads(), [(part, part.training) for part in model.modules()]
    torch.set_num_threads(threads)
    model.eval()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(before)
        for part, mode in modes:
            part.training = mode


def initial_words(count: int) -> Words:
    """Words that look random and are always the same, for a stack that must give before it was given."""
    stream = b"".join(hashlib.sha256(f"pofx {k}".encode()).digest() for k in range(count // 8 + 1))
    words: Any = np.frombuffer(stream, "<u4")[:count].astype(np.uint32)
    words[-1:] |= 1  # a stack's last word is not 0
    return words


def _first_bytes(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
