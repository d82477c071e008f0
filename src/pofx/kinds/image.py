"""Image: pictures (N, H, W, C) of levels 0 .. K-1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds.base import Kind, Raw, Space, Variable


class Image(Kind):
    """Pictures: one picture is one x."""

    name = "image"
    layout = "grid"

    def reads(self, source: object) -> bool:
        return isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim in (3, 4)

    def read(self, source: Any, given: tuple[str, ...] = ()) -> Raw:
        pictures = np.asarray(source)
        axis = pictures.ndim == 4
        pictures = pictures if axis else pictures[..., None]
        x = torch.from_numpy(pictures.copy())
        level = x.double()
        variable = Variable("pixel", "ordinal", 256, mean=float(level.mean()), scale=max(float(level.std()), 0.25))
        space = Space(tuple(x.shape[1:]), (variable,), "grid", "image", "uint8", {"white": 255, "axis": axis})
        return Raw(x, space)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.array(rows, dtype=np.uint8)).reshape(-1, *space.shape)
        return x, torch.ones(x.shape, dtype=torch.bool)

    def restore(self, x: Tensor, space: Space) -> np.ndarray:
        return x.squeeze(-1).numpy() if space.shape[-1] == 1 and not space.meta.get("axis") else x.numpy()

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        axes.imshow(np.concatenate(list(x[:8, ..., 0].numpy()), 1), cmap="gray_r")
        axes.set_axis_off()
