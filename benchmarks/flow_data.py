"""Seven data sets for density estimators: rows in, the same rows for every library, the truth where it is known.

    table        6 columns of known density: 12 Gaussians (ratios of deviations 6 to 249), two bananas, asinh
    moons, checkerboard, pinwheel          toys of two columns
    power-plant, protein                   UCI tables, with uniform noise at each column's resolution
    mnist        28 x 28 pixels of 256 levels

Tables are standardised on the training rows; log p is in nats a row of the standardised columns. Of pictures log p is
in bits a pixel, of x + e with e uniform in the bin, which bounds the log probability of the levels from below.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = ("table", "moons", "checkerboard", "pinwheel", "power-plant", "protein", "mnist")


@dataclass(frozen=True)
class Rows:
    """Training, validation and test rows `(N, D)`; `truth` is the mean of -log p of the test rows where known."""

    train: Tensor
    valid: Tensor
    test: Tensor
    truth: float | None = None


def load(name: str) -> Rows:
    """A data set by name; pictures are levels 0 .. 255 in rows of 784."""
    if name == "table":
        return hard_table()
    if name in ("moons", "checkerboard", "pinwheel"):
        return _standard(*np.split(toy(name, 32_000, np.random.default_rng(5)), [20_000, 22_000]))
    if name == "mnist":
        train, test = (torch.from_numpy(_images(part).reshape(-1, 784)) for part in ("train", "t10k"))
        return Rows(train[:55_000], train[55_000:], test[:2_000])
    return _uci({"protein": "protein-tertiary-structure"}.get(name, name))


def toy(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a plane."""
    if name == "moons":
        angle, side = np.pi * rng.random(n), rng.integers(0, 2, n)
        x = np.stack(
            [np.cos(angle) + side * (1 - 2 * np.cos(angle)), np.sin(angle) + side * (0.5 - 2 * np.sin(angle))], 1
        )
        return x + 0.05 * rng.normal(size=(n, 2))
    if name == "checkerboard":
        row, column = rng.integers(0, 4, n), rng.integers(0, 2, n)
        return np.stack([2 * column + row % 2, row], 1) + rng.random((n, 2)) - 2
    arm = rng.integers(0, 5, n)
    x = rng.normal(size=(n, 2)) * [0.3, 0.05] + [1, 0]
    turn = 2 * np.pi * arm / 5 + 0.25 * np.exp(x[:, 0]) * 3
    c, s = np.cos(turn), np.sin(turn)
    return 2 * np.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)


def hard_table(train: int = 100_000, valid: int = 5_000, test: int = 20_000) -> Rows:
    """Six columns whose density is known by a change of variables."""
    rng, K, d, n = np.random.default_rng(2024), 12, 6, train + valid + test
    ratios = np.exp(np.linspace(math.log(6), math.log(249), K))
    scales = np.stack([0.35 * np.exp(math.log(r) * (0.5 - rng.permutation(d) / (d - 1))) for r in ratios])
    turns = np.stack([np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(K)])
    centres, weights = 2 * rng.normal(size=(K, d)), rng.dirichlet(np.full(K, 4.0))
    pick = rng.choice(K, n, p=weights)
    v = centres[pick] + np.einsum("nij,nj->ni", turns[pick], scales[pick] * rng.normal(size=(n, d)))
    log_p = np.full(n, -np.inf)
    for k in range(K):
        e = ((v - centres[k]) @ turns[k]) / scales[k]
        own = math.log(weights[k]) - 0.5 * (e**2).sum(1) - np.log(scales[k]).sum() - d / 2 * math.log(2 * math.pi)
        log_p = np.logaddexp(log_p, own)
    y = v.copy()
    y[:, 1] += 0.4 * y[:, 0] ** 2  # bananas shear: their determinant is 1
    y[:, 4] -= 0.5 * y[:, 3] ** 2
    stretch = np.array([1.0, 2.0, 4.0, 1.0, 2.0, 4.0])
    x = np.arcsinh(stretch * y)
    log_p -= (np.log(stretch) - 0.5 * np.log1p((stretch * y) ** 2)).sum(1)
    rows = _standard(*np.split(x, [train, train + valid]))
    truth = -(log_p[train + valid :].mean() + np.log(x[:train].std(0)).sum())
    return Rows(rows.train, rows.valid, rows.test, float(truth))


def _standard(train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> Rows:
    mean, scale = train.mean(0), train.std(0)
    return Rows(*(torch.from_numpy(((part - mean) / scale).astype(np.float32)) for part in (train, valid, test)))


def _folder() -> Path:
    if "POFX_DATA" not in os.environ:
        raise SystemExit("POFX_DATA is not set; it names the folder of the data sets.")
    return Path(os.environ["POFX_DATA"])


def _uci(name: str) -> Rows:
    """The first of the standard splits, a tenth of its training rows to validate."""
    folder = _folder() / "tables" / "uci_regression" / name
    x = np.loadtxt(io.BytesIO(gzip.decompress((folder / "data.txt.gz").read_bytes())))
    with zipfile.ZipFile(folder / "splits.zip") as z:
        train, test = (np.loadtxt(io.BytesIO(z.read(f"index_{p}_0.txt"))).astype(int) for p in ("train", "test"))
    rng = np.random.default_rng(0)
    x = x + _resolution(x) * (rng.random(x.shape) - 0.5)
    train = rng.permutation(train)
    return _standard(x[train[len(train) // 10 :]], x[train[: len(train) // 10]], x[test])


def _resolution(x: np.ndarray) -> np.ndarray:
    """The largest power of ten of which a column's values are multiples."""
    steps = []
    for column in x.T:
        steps.append(
            next(s for s in (10.0**-k for k in range(13)) if np.allclose(column / s, np.round(column / s), atol=1e-4))
        )
    return np.array(steps)


def _images(part: str) -> np.ndarray:
    raw = gzip.decompress((_folder() / "images" / "mnist" / f"{part}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28).copy()
