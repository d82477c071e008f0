"""How small do files get? pofx beside xz, zstd, PNG and WebP on the same rows in the same run.

    POFX_DATA=... python benchmarks/compress_peers.py [--only CELL ...] [--seeds 0] [--seconds 60] [--rows 1000]
    POFX_DATA=... python benchmarks/compress_peers.py table

digits: the 8 x 8 digits, 300 held out. binary, grey: the first `rows` test pictures of MNIST, black or white at 127 or
as they are, by a model of 59 500 training pictures. adult: 5000 held-out lines of the training file of Adult, as text;
the text is rebuilt from the decompressed cells and compared. `bits-back` and `marginals` are the other two routes. A
name with a family behind a colon (`adult:autoregressive`) takes that family. Peers see the same rows as bytes in one
stream (a pixel a byte, or 8 a byte) or as one strip of pictures. Everything but the model counts: heads, hashes, masks.

Every cell writes its file, reads it in a fresh process with OMP_NUM_THREADS=2 (and in one with 3), compares, and
measures the coder beyond the network: bytes of the rows over CPU seconds of tables and coding. Models stay in
runs/compress/, where an interrupted fit goes on; finished cells are lines of runs/compress_peers.jsonl and are not run
again. Budgets are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch
from PIL import Image
from torch import Tensor

import pofx
from pofx.data import Data, find, open_data
from pofx.engines.coder import Reader, Writer
from pofx.model import Model, Predictive
from pofx.tasks.coding import codec
from pofx.tasks.container import same_program
from pofx.tasks.programs import Walk

RESULTS, MODELS = Path("runs/compress_peers.jsonl"), Path("runs/compress")
NAMES = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
READ = """
import hashlib, sys, torch
from pofx.tasks.compress import decompress
from pofx.training.folder import load
rows = decompress(load(sys.argv[1]), sys.argv[2])
rows = rows.to_csv(index=False).encode() if hasattr(rows, "to_csv") else torch.as_tensor(rows).numpy().tobytes()
print(hashlib.sha256(rows).hexdigest())
"""


@dataclass(frozen=True)
class Cell:
    """A table or pictures, a family, and what the rows are to a peer."""

    data: Data
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    bytes_: bytes = b""  # what peers are given
    pictures: np.ndarray[Any, Any] | None = None  # (N, H, W) uint8, for PNG and WebP
    raw_bits: float = 8.0  # of an entry
    chunk: int = 256
    batch: int | None = None
    route: str | None = None


def digits(family: str, rows: int) -> Cell:
    """The demo's split."""
    data = open_data("digits", test=300, valid=180, seed=0)
    x = data.part("test").x.numpy().astype(np.uint8)
    return Cell(data, family, {}, x.tobytes(), x.reshape(-1, 8, 8) * 15, chunk=300)


def mnist(family: str, rows: int, cut: bool) -> Cell:
    """Training pictures to fit and validate, and the first test pictures."""
    train, test = (open_data(f"images/mnist/{part}-images-idx3-ubyte.gz").x for part in ("train", "t10k"))
    x = torch.cat([train, test[:rows]])
    x = ((x > 127).to(torch.uint8) if cut else x).reshape(-1, 28, 28)
    data = open_data(x.numpy(), kind="image")
    n = len(train)
    split = {"train": (0, n - 500), "valid": (n - 500, n), "test": (n, n + rows)}
    data = data.__class__(
        data.x, data.space, split={k: torch.arange(*ends) for k, ends in split.items()},
        name="MNIST, two levels" if cut else "MNIST",
    )  # fmt: skip
    held = x[n:].numpy()
    if cut:
        return Cell(data, family, {}, np.packbits(held).tobytes(), held * 255, 1.0, 500, 16)
    # two rounds through 59 500 pictures leave nothing to drop
    return Cell(data, family, {"longest": 256, "dropout": 0.0}, held.tobytes(), held, 8.0, 500, 8)


def adult(family: str, rows: int) -> Cell:
    """The training file with a hold-out of 5000 rows, in the order of the file."""
    path = find("tables/adult/adult-train.csv.gz")
    data = open_data(path, options={"header": False, "names": list(NAMES)}, test=5000, valid=2000, seed=0)
    import gzip

    lines = [line for line in gzip.decompress(path.read_bytes()).decode().splitlines() if line.strip()]
    test = data.split["test"].sort().values
    data.split["test"] = test
    text = "\n".join(lines[i] for i in test.tolist()) + "\n"
    return Cell(data, family, {}, text.encode(), chunk=1000)


def bits_back(family: str, rows: int) -> Cell:
    """Binary pictures through a VAE."""
    cell = mnist(family, rows, True)
    return Cell(cell.data, family, {}, cell.bytes_, cell.pictures, 1.0, 256, 64, "bits back")


def marginals(family: str, rows: int) -> Cell:
    """Digits by a mixture, which has no cursor."""
    cell = digits(family, rows)
    return Cell(cell.data, family, {}, cell.bytes_, cell.pictures, chunk=300, route="marginals")


CELLS: dict[str, tuple[str, Any]] = {
    "digits": ("autoregressive", digits),
    "binary": ("autoregressive", lambda family, rows: mnist(family, rows, True)),
    "grey": ("autoregressive", lambda family, rows: mnist(family, rows, False)),
    "adult": ("trees", adult),
    "bits-back": ("vae", bits_back),
    "marginals": ("mixture", marginals),
}


def fitted(cell: Cell, name: str, seed: int, seconds: float) -> Model:
    """The model of a cell, from its folder where it is finished."""
    folder = MODELS / f"{name.replace(':', '-')}-{seconds:g}-{seed}"
    if (folder / "model.json").exists():
        return pofx.load(folder)
    return pofx.fit(
        cell.data, cell.family, budget=f"{seconds} cpu s", seed=seed, threads=1, folder=folder, resume=folder.exists(),
        batch=cell.batch, precision="32-true", hyper_parameters=cell.options, progress=False,
    )  # fmt: skip


def run(name: str, seed: int, seconds: float, rows: int) -> dict[str, Any]:
    """One cell: fit, compress, read elsewhere, measure."""
    base, _, wanted = name.partition(":")
    family, make = CELLS[base]
    cell = make(wanted or family, rows)
    model = fitted(cell, name, seed, seconds)
    folder = MODELS / f"{name.replace(':', '-')}-{seconds:g}-{seed}"
    held = cell.data.part("test")
    value = held.x.double().masked_fill(~held.observed, torch.nan) if held.observed is not None else held.x
    started = time.process_time()
    answer = pofx.compress(model, value, folder / "rows.pofx", chunk=cell.chunk, route=cell.route)
    spent = time.process_time() - started
    back = pofx.decompress(model, folder / "rows.pofx")
    line = {
        **{k: v for k, v in answer.diagnostics.items() if isinstance(v, (int, float))},
        "route": answer.route,
        "compress cpu": spent,
        "fit cpu": model.record["seconds"]["cpu"],
        "log_prob bits": _log_prob_bits(model, held),
        "elsewhere": _elsewhere(folder, back),
        **peers(cell),
    }
    if isinstance(back, pd.DataFrame):
        line["text is the same"] = text_of(back) == cell.bytes_
    if answer.route == "steps":
        line |= speed(model, value, cell)
    return line


def _log_prob_bits(model: Model, held: Any) -> float | None:
    """-log2 p by the model's own log_prob, where no entry is missing."""
    if held.observed is not None and not bool(held.observed.all()):
        return None
    with torch.no_grad():
        parts = [model.log_prob(x, draws=16, rng=0).value.double().sum() for x in held.x.split(50)]
    return -float(torch.stack(parts).sum()) / math.log(2)


def _elsewhere(folder: Path, back: Any) -> bool:
    """Whether fresh processes with 2 and 3 threads in their environment read the same."""
    known = (
        back.to_csv(index=False).encode() if isinstance(back, pd.DataFrame) else torch.as_tensor(back).numpy().tobytes()
    )
    want = hashlib.sha256(known).hexdigest()
    found = []
    for threads in ("2", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [sys.executable, "-c", READ, str(folder), str(folder / "rows.pofx")]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=False))
    bad = [r.stderr[-500:] for r in found if r.stdout.strip() != want]
    if bad:
        print("\n".join(bad), file=sys.stderr)
    return not bad


def text_of(frame: pd.DataFrame) -> bytes:
    """Adult's own text: ", " between cells, "?" where one is missing."""
    whole = frame.astype(object).where(frame.notna(), "?")
    lines = [", ".join(_word(v) for v in row) for row in whole.itertuples(index=False)]
    return ("\n".join(lines) + "\n").encode()


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, (int, float, np.number)) and float(value).is_integer() else str(value)


def speed(model: Model, value: Tensor, cell: Cell) -> dict[str, float]:
    """Megabytes of rows a CPU second, tables and coding, without the network: writing, and reading."""
    program, kept = Walk(model, {}, min(cell.chunk, len(value))), list[tuple[int, Predictive, Tensor]]()
    x = value[: program.chunk].flatten(1).double()
    x = torch.where(x.isnan(), torch.zeros_like(x), x)
    with same_program(model, 1):
        program.run(slice(0, len(x)), lambda i, p: kept.append((i, p, x[:, i])) or x[:, i])  # type: ignore[func-returns-value]
        all_rows, out = np.arange(len(x)), Writer()
        started = time.process_time()
        for i, p, x_i in kept:
            codec(model.space.variable(i)).write(out, p, x_i, all_rows)
        middle, source = time.process_time(), Reader(out.words())
        for i, p, _ in kept:
            codec(model.space.variable(i)).read(source, p, all_rows)
        ended = time.process_time()
    size = len(cell.bytes_) * len(x) / len(value) / 1e6
    symbols = x.numel() / 1e6
    return {
        "write MB/s": size / (middle - started), "read MB/s": size / (ended - middle),
        "write M entries/s": symbols / (middle - started), "read M entries/s": symbols / (ended - middle),
    }  # fmt: skip


def peers(cell: Cell) -> dict[str, int]:
    """Bytes by general compressors of the stream, and of one strip by those of pictures."""
    xz = lzma.compress(cell.bytes_, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    zstd = pyarrow.Codec("zstd", compression_level=19).compress(cell.bytes_)
    found = {"raw": len(cell.bytes_), "xz": len(xz), "zstd -19": len(zstd)}
    if cell.pictures is not None:
        one = [_picture(p, cell.raw_bits) for p in cell.pictures[:1000]]
        found |= {
            f"{kind} each": sum(sizes) * len(cell.pictures) // len(one)
            for kind, sizes in zip(("png", "webp"), zip(*one, strict=True), strict=True)
        }
        tall = cell.pictures.reshape(-1, cell.pictures.shape[2])
        tall = tall[: 16383 // cell.pictures.shape[1] * cell.pictures.shape[1]]
        share = len(cell.pictures) * cell.pictures.shape[1] / len(tall)
        found |= {
            f"{kind} strip": int(n * share)
            for kind, n in zip(("png", "webp"), _picture(tall, cell.raw_bits), strict=True)
        }
    return found


def _picture(grey: np.ndarray[Any, Any], bits: float) -> tuple[int, int]:
    """Bytes of one picture as PNG and as lossless WebP."""
    image = Image.fromarray(grey)
    png, webp = io.BytesIO(), io.BytesIO()
    (image.convert("1") if bits == 1 else image).save(png, "PNG", optimize=True)
    image.convert("RGB").save(webp, "WEBP", lossless=True, quality=100, method=6)
    return len(png.getvalue()), len(webp.getvalue())


def finished() -> list[dict[str, Any]]:
    """The cells so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def show(lines: list[dict[str, Any]]) -> None:
    """One line a cell, bits an entry."""
    for line in lines:
        entries = line["bytes"] * 8 / line["bits per dimension"]
        others = {
            k: line[k]
            for k in ("raw", "xz", "zstd -19", "png each", "webp each", "png strip", "webp strip")
            if k in line
        }
        sizes = "  ".join(f"{k} {8 * v / entries:.3f}" for k, v in others.items())
        less = 100 * (1 - line["bytes"] / line["zstd -19"])
        print(
            f"{line['cell']} seed {line['seed']}, {line['seconds']:g} s: {line['bytes']} bytes, "
            f"{line['bits per dimension']:.4f} bits an entry, {less:.1f} % less than zstd -19; "
            f"{100 * line['overhead']:+.2f} % of -log2 p; {sizes}"
        )
        print("   ", {k: (round(v, 3) if isinstance(v, float) else v) for k, v in line.items() if k not in others})


def main() -> None:
    """Run what is missing and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--only", nargs="*", default=list(CELLS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rows", type=int, default=1000)
    asked = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    wanted = [(name, seed) for name in asked.only for seed in asked.seeds] if asked.what == "run" else []
    for name, seed in wanted:
        key = {"cell": name, "seed": seed, "seconds": asked.seconds, "rows asked": asked.rows}
        if any(key.items() <= line.items() for line in finished()):
            continue
        line = {**key, **run(name, seed, asked.seconds, asked.rows)}
        with open(RESULTS, "a") as file:
            file.write(json.dumps(line) + "\n")
    show(finished())


if __name__ == "__main__":
    main()
