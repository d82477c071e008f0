"""Inception features of pictures: the ones that published FID and KID are in, by torch-fidelity, where its weights are.

    f(x) = mean over the last 8 x 8 cells of Inception-v3's features of x, resized to 299 x 299          (2048 numbers)

Offers `Inception.load(path=None)`, then `inception(pictures)`. Nothing is fitted and nothing is downloaded: the weights
must lie where the caller says, else where torch-fidelity itself would put them. That file is a pickle, which could run
code as it is opened, so its SHA-256 is compared before anything reads it.

References: Szegedy 2015 (arXiv:1512.00567, Inception-v3); Heusel 2017 (arXiv:1706.08500, FID); Obukhov 2020
(torch-fidelity: TensorFlow's weights of 2015-12-05, its resizing and its pooling).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pofx.metrics.base import Array, ArrayLike, to_numpy

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BATCH = 32  # pictures at once, always: the last batch is filled up, so that no number depends on its neighbours


@dataclass(frozen=True)
class Inception:
    """The extractor, on the device where it runs."""

    network: Any
    device: torch.device

    @classmethod
    def load(cls, path: str | Path | None = None) -> Inception:
        """The extractor with its weights, on a CUDA device where torch finds one.

        Args:
            path: of the weights; None: in hub/checkpoints of TORCH_HOME (~/.cache/torch where that is not set).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is another one, or torch-fidelity or torchvision is not installed.
        """
        file = _weights(path)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError(
                f"features='inception' needs the libraries torch-fidelity and torchvision ({error}): "
                "pip install 'pofx[inception]', or leave features out."
            ) from error
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(network.eval().to(device), device)

    def __call__(self, pictures: ArrayLike) -> Array:
        """Features (N, 2048) of pictures (N, H, W) or (N, H, W, 1 or 3) of bytes; grey ones count as three channels.

        Bias in N: none, each row is of one picture.

        Raises:
            ValueError: not such pictures.
        """
        x = to_numpy(pictures)
        x = x[..., None] if x.ndim == 3 else x
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape:
            raise ValueError(
                f"Inception: got an array of shape {to_numpy(pictures).shape} and dtype {x.dtype}; expected pictures "
                "(N, H, W), (N, H, W, 1) or (N, H, W, 3) of bytes 0..255 (uint8)."
            )
        found = []
        for start in range(0, len(x), BATCH):
            rows = x[start : start + BATCH]
            batch = np.zeros((BATCH, *x.shape[1:3], 3), np.uint8)
            batch[: len(rows)] = rows
            with torch.no_grad():
                (out,) = self.network(torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device))
            found.append(out[: len(rows)].double().cpu().numpy())
        return np.concatenate(found)


def _weights(path: str | Path | None) -> Path:
    """The file of weights, which is the one it claims to be."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS if path is None else Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"features='inception': there is no file {file}{' (TORCH_HOME moves it)' if path is None else ''}. "
            f"Nothing is downloaded: put torch-fidelity's {WEIGHTS} there, say where it is "
            "(features='inception:FILE'), or leave features out."
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"features='inception': {file} has the SHA-256 {found[:16]}...; expected {SHA256[:16]}..., that of "
            f"torch-fidelity's {WEIGHTS}. Another pickle could run code, so it is not opened: put the right file there."
        )
    return file
