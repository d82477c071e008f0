"""Image: pictures (N, H, W, C) of levels 0 .. K-1, one ordinal variable that all pixels share.

Reads picture folders (a folder for each class gives the label), npz and npy arrays, idx files with their labels, and
NumPy arrays of bytes, (N, H, W) or (N, H, W, C). Pictures come back as bytes in the shape they had. K is 256, or
the largest level + 1 where that is at most 16 (binary pictures have two levels).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._arrays import header, is_arrays, label_array, load_arrays, main_array
from pofx.kinds._pictures import SUFFIXES, is_idx, labels_beside, read_folder, read_idx, read_one
from pofx.kinds.base import Kind, Raw, Space, Variable, category, numbered

FEW = 16  # pictures of at most this many levels keep their own number of levels


class Image(Kind):
    """Pictures: one picture is one x."""

    name = "image"
    layout = "grid"
    endings = (".png", ".jpg", ".jpeg")
    together = False

    def reads(self, source: object) -> bool:
        if not isinstance(source, Path):
            return isinstance(source, np.ndarray) and _is_pictures(source.shape, source.dtype)
        if source.is_dir():
            return any(p.suffix.lower() in SUFFIXES for p in source.rglob("*"))
        if is_arrays(source):
            return _is_pictures(*header(source))
        return is_idx(source) or source.suffix.lower() in SUFFIXES

    def read(
        self, source: Any, given: tuple[str, ...] = (), size: tuple[int, int] | None = None, mode: str | None = None
    ) -> Raw:
        """Pictures `(N, H, W, C)`, uint8.

        Args:
            source: a folder of pictures, one picture, an npz, npy or idx file, or an array of bytes.
            given: names of what x is given; there is only "label", which is read wherever there is one.
            size: (height, width) to resize to.
            mode: "L" (grey) or "RGB".

        Raises:
            ValueError: no picture, none readable, several sizes or modes, or an array that holds no pictures.
        """
        if mode not in (None, "L", "RGB"):
            raise ValueError(f"mode is {mode!r}; expected 'L' (grey) or 'RGB'.")
        size = None if size is None else _size(size)
        if isinstance(source, Path) and source.is_dir():
            pictures, words, notes = read_folder(source, size, mode)
            label, axis = (None if words is None else np.array(words)), pictures.shape[-1] > 1
        elif isinstance(source, Path) and source.suffix.lower() in SUFFIXES:
            pictures, label, notes = read_one(source, size, mode), None, ()
            axis = pictures.shape[-1] > 1
        else:
            pictures, label, notes = _array_of(source)
            axis = pictures.ndim == 4
            pictures = _converted(pictures if axis else pictures[..., None], size, mode)
            axis = axis and not (mode == "L" and pictures.shape[-1] == 1)
        x = torch.from_numpy(np.ascontiguousarray(pictures))
        space, note = _space(x, axis)
        if label is None:
            return Raw(x, space, notes=(note, *notes))
        codes, label_space = _label(label, len(x))
        return Raw(x, space, {"label": codes}, {"label": label_space}, notes=(note, *notes))

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        values = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows)
        h, w, c = space.shape
        if values.dtype.kind not in "uifb":
            raise ValueError(f"got pictures of dtype {values.dtype}; expected levels 0..{space.meta['white']}.")
        allowed = [(h, w, c)] + ([(h, w)] if c == 1 else [])
        tail = next((s for s in allowed if values.shape[-len(s) :] == s and values.ndim - len(s) in (0, 1)), None)
        if tail is None:
            shapes = " or ".join(str(("N", *s)).replace("'", "") for s in allowed)
            raise ValueError(f"got pictures of shape {values.shape}; expected {shapes}, as in the training data.")
        values = values.reshape(-1, h, w, c)
        observed = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
        top = space.variables[0].levels - 1
        bad = observed & ((values < 0) | (values > top) | (values != np.floor(values)))
        if bad.any():
            raise ValueError(
                f"got the level {values[bad][0]:g}; expected whole levels 0..{top} (NaN where one is missing)."
            )
        x = np.where(observed, values, 0).astype(np.uint8)
        return torch.from_numpy(x), torch.from_numpy(observed)

    def restore(self, x: Tensor, space: Space) -> np.ndarray:
        values = x.detach().cpu().numpy().astype(np.uint8)
        return values if space.meta.get("axis") or space.shape[-1] != 1 else values[..., 0]

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> np.ndarray:
        own = np.array(rows.detach().cpu() if isinstance(rows, Tensor) else rows, copy=True)
        hole = ~observed.cpu().numpy().reshape(own.shape)
        own[hole] = x.detach().cpu().numpy().reshape(own.shape)[hole].astype(own.dtype)
        whole = own.dtype.kind != "f" or bool((own == own.astype(np.uint8)).all())
        return own.astype(np.uint8) if whole else own

    def blank(self, rows: Any, observed: Tensor, space: Space) -> np.ndarray:
        return np.where(observed.cpu().numpy().reshape(rows.shape), rows.astype(np.float64), np.nan)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Pictures as PNG or JPEG: one to `path`, several to path-0, path-1, ..., or into a folder."""
        from PIL import Image as Pillow

        white = space.meta.get("white", 255)
        x = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows).reshape(-1, *space.shape)
        levels = (x.astype(np.float64) * (255 / white)).round().clip(0, 255).astype(np.uint8)
        found = numbered(path, len(x), self.endings)
        for one, where in zip(levels, found, strict=True):
            Pillow.fromarray(one if one.shape[-1] == 3 else one[..., 0]).save(where)
        return found

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """A grid of pictures; grey ones in ink on paper where most pixels are dark."""
        values, white = x.detach().cpu().numpy(), space.meta.get("white", 255)
        sheet = _sheet(values[:64], white)
        axes.set_axis_off()
        if sheet.shape[-1] == 3:
            axes.imshow((sheet / white * 255).round().astype(np.uint8), interpolation="nearest")
            return
        # by the data's own mean, so that every grid of one data set looks alike
        ink = space.variables[0].mean < 0.4 * white
        axes.imshow(sheet[..., 0], cmap="gray_r" if ink else "gray", vmin=0, vmax=white, interpolation="nearest")


def _sheet(pictures: np.ndarray, white: float) -> np.ndarray:
    n, h, w, c = pictures.shape
    columns = max(1, int(np.ceil(np.sqrt(n * h / w))))
    rows = max(1, -(-n // columns))
    sheet = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1, c), white / 2 if c == 3 else 0.0)
    for k, picture in enumerate(pictures):
        top, left = (k // columns) * (h + 1), (k % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = picture
    return sheet if c in (1, 3) else sheet[..., :1]


def _is_pictures(shape: tuple[int, ...], dtype: Any) -> bool:
    if dtype not in (np.uint8, np.bool_):
        return False
    return len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3))


def _array_of(source: Any) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Pictures `(N, H, W)` or `(N, H, W, C)`, their labels if any, and notes."""
    label, notes = None, ()
    if isinstance(source, Path) and is_idx(source):
        array, beside = read_idx(source), labels_beside(source)
        if beside is not None:
            label, notes = read_idx(beside), (f"labels from {beside.name}",)
    elif isinstance(source, Path):
        array, label = _pictures_of(source)
    else:
        array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    if not _is_pictures(array.shape, array.dtype) or 0 in array.shape:
        raise ValueError(
            f"got an array of shape {array.shape} and dtype {array.dtype}; expected pictures (N, H, W), "
            "(N, H, W, 1) or (N, H, W, 3) of bytes 0..255 (uint8), at least one."
        )
    return array.astype(np.uint8), label, notes


def _pictures_of(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = load_arrays(path, "pictures, arrays of bytes")
    label, words = label_array(arrays), arrays.get("classes")
    if label is not None and words is not None and label.dtype.kind in "ui" and label.max(initial=0) < len(words):
        label = words[label]
    return main_array(arrays), label


def _converted(pictures: np.ndarray, size: tuple[int, int] | None, mode: str | None) -> np.ndarray:
    from PIL import Image as Pillow

    c = pictures.shape[-1]
    if mode == "L" and c == 3:
        pictures = np.stack([np.asarray(Pillow.fromarray(p).convert("L")) for p in pictures])[..., None]
    elif mode == "RGB" and c == 1:
        pictures = np.repeat(pictures, 3, -1)
    if size is None or pictures.shape[1:3] == size:
        return pictures
    shape, to = pictures.shape[-1], (size[1], size[0])
    flat = pictures[..., 0] if shape == 1 else pictures
    resized = np.stack([np.asarray(Pillow.fromarray(p).resize(to, Pillow.Resampling.LANCZOS)) for p in flat])
    return resized.reshape(len(pictures), *size, shape)


def _size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise ValueError(f"size is {size!r}; expected (height, width) in pixels.")
    return sides[0], sides[1]


def _space(x: Tensor, axis: bool) -> tuple[Space, str]:
    count = torch.bincount(x.flatten(), minlength=256).double()
    level = torch.arange(256, dtype=torch.float64)
    mean = float((count @ level) / count.sum())
    scale = float((count @ (level - mean) ** 2 / count.sum()).sqrt())
    top = int(x.max())
    levels = max(top + 1, 2) if top < FEW else 256
    variable = Variable("pixel", "ordinal", levels, mean=mean, scale=max(scale, 0.25))
    space = Space(tuple(x.shape[1:]), (variable,), "grid", "image", "uint8", {"white": levels - 1, "axis": axis})
    return space, f"{len(x)} pictures {x.shape[1]} x {x.shape[2]} x {x.shape[3]}, {levels} levels"


def _label(label: np.ndarray, count: int) -> tuple[Tensor, Space]:
    if label.shape != (count,):
        raise ValueError(f"got labels of shape {label.shape} for {count} pictures; expected one label for each.")
    words, codes = np.unique(label, return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), category(len(words), values=tuple(w.item() for w in words))
