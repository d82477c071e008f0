"""Video: windows of T frames, (T, H, W, C), of levels 0 .. K-1, one ordinal variable that all pixels share.

    x = (f_{s+1}, ..., f_{s+T})              a whole clip, or a window of a longer one
    ahead=A:  x = the last A frames,  given "past" = the frames before them

Reads GIF, MP4 and other video files, folders of them (a folder for each class gives the label), folders of frames, npz
and npy arrays, and NumPy arrays of bytes (N, T, H, W) or (N, T, H, W, C); with kind="video" also one clip (T, H, W) or
(T, H, W, 3). Videos come back as bytes in the shape they had; `write` makes GIF, MP4 or frames of them.

What comes next is `forecast` (of a model of whole windows, by conditioning; of one fitted `ahead`, by its sampler); the
same as `impute` with the future unobserved. Its trivial baseline is the last frame, held (`baselines.hold`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._arrays import header, is_arrays
from pofx.kinds._clips import MOVING, RATE, clips_of_folder, contact_sheet, read_clip, write_clip
from pofx.kinds.base import Kind, Raw, Space, numbered
from pofx.kinds.image import Image, _array_of, _converted, _label, _pictures_of, _size, _space

WINDOW = 16  # frames of a window of one clip, where none are asked for
SHOWN = 8  # clips of a contact sheet


class Video(Kind):
    """Videos: one clip, or one window of a clip, is one x."""

    name = "video"
    layout = "grid"
    endings = (".gif", ".mp4", ".mov", ".mkv")
    trivial = "last"
    together = False
    measures = True

    def reads(self, source: object) -> bool:
        if not isinstance(source, Path):
            return isinstance(source, np.ndarray) and _is_videos(source.shape, source.dtype)
        if source.is_dir():
            return any(p.suffix.lower() in MOVING for p in source.rglob("*"))
        if is_arrays(source):
            return _is_videos(*header(source))
        return source.suffix.lower() in MOVING

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        length: int | None = None,
        stride: int | None = None,
        every: int = 1,
        ahead: int | None = None,
        size: tuple[int, int] | None = None,
        mode: str | None = None,
    ) -> Raw:
        """Windows `(N, T, H, W, C)`, uint8.

        Args:
            source: a video file, a folder of video files or of frames, an npz or npy file, or an array of bytes.
            given: "label" (a folder for each class, or labels of an npz) and "past" (with `ahead`), wherever they are.
            length: T; None: 16 frames of one clip, the whole of several clips of one length.
            stride: from one window to the next; None: the length, so that none overlap.
            every: keeps each so-manieth frame.
            ahead: x is only the last so many frames of a window, and the frames before are the given "past".
            size: (height, width) to resize to.
            mode: "L" (grey) or "RGB".

        Raises:
            ValueError: no clip, none readable, one frame, several sizes, too short, or an option that does not fit.
            ImportError: a video file needs PyAV, which is not there.
        """
        if mode not in (None, "L", "RGB"):
            raise ValueError(f"mode is {mode!r}; expected 'L' (grey) or 'RGB'.")
        if every < 1 or (length is not None and length < 2) or (stride is not None and stride < 1):
            raise ValueError(f"every is {every}, length {length}, stride {stride}; expected 1, 2 and 1 at least.")
        size = None if size is None else _size(size)
        clips, axis, label, rate, notes = _clips_of(source, size, mode)
        clips = [c[::every] for c in clips]
        x, start, more = _windows(clips, length, stride)
        space, _ = _space(torch.from_numpy(x), axis)
        meta = {**space.meta, "rate": rate / every}
        space = space.replace(kind="video", meta=meta)
        notes = (*notes, more, f"frames {x.shape[2]} x {x.shape[3]} x {x.shape[4]}, {space.variables[0].levels} levels")
        known: dict[str, tuple[Tensor, Space]] = {}
        if label is not None and len(x) == len(clips):
            known["label"] = _label(label, len(x))
        if ahead is not None:
            if not 1 <= ahead < x.shape[1]:
                raise ValueError(
                    f"ahead is {ahead}; a window has {x.shape[1]} frames, so expected less and at least 1."
                )
            past = torch.from_numpy(x[:, :-ahead].copy())
            known["past"] = past, space.replace(shape=tuple(past.shape[1:]))
            x = x[:, -ahead:].copy()
            space = space.replace(shape=tuple(x.shape[1:]), meta={**meta, "before": past.shape[1]})
        if "past" in given and ahead is None:
            raise ValueError("given 'past' needs ahead=: how many of the last frames are x.")
        values, spaces = {k: v for k, (v, _) in known.items()}, {k: s for k, (_, s) in known.items()}
        return Raw(torch.from_numpy(x), space, values, spaces, notes=notes, start=start)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        array = rows.detach().cpu() if isinstance(rows, Tensor) else rows
        values = np.asarray(array) if not isinstance(array, (list, tuple)) else _stacked(array)
        t, *frame = space.shape
        tail = next((s for s in _tails(frame) if values.shape[-len(s) :] == s), None)
        if tail is None or values.ndim - len(tail) not in (1, 2) or values.shape[-len(tail) - 1] != t:
            raise ValueError(
                f"got clips of shape {values.shape}; expected {('N', t, *frame)}, as in the training data."
            )
        # a video is so many pictures: what a picture must be, a frame must be
        still = space.replace(shape=tuple(frame), kind="image")
        x, observed = Image().encode(values.reshape(-1, *frame), still)
        return x.reshape(-1, *space.shape), observed.reshape(-1, *space.shape)

    def restore(self, x: Tensor, space: Space) -> np.ndarray:
        return Image().restore(x, space)

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> np.ndarray:
        return Image().complete(_stacked(rows) if isinstance(rows, (list, tuple)) else rows, x, observed, space)

    def blank(self, rows: Any, observed: Tensor, space: Space) -> np.ndarray:
        return Image().blank(rows, observed, space)

    def rows(self, source: Any, space: Space) -> np.ndarray:
        """The windows of a file, side by side, resized to the frames that the model knows."""
        t, h, w, c = space.shape
        t += int(space.meta.get("before", 0))
        raw = self.read(source, length=t, size=(h, w), mode="RGB" if c == 3 else "L")
        return self.restore(raw.x[:, -space.shape[0] :], space)

    def past(self, rows: Any, space: Space, ahead: int | None = None) -> tuple[Tensor, Tensor]:
        """The last frames of each clip as the beginning of a window, of which the last `ahead` are missing."""
        t = space.shape[0]
        ahead = t // 2 if ahead is None else ahead
        if not 1 <= ahead < t:
            raise ValueError(f"ahead is {ahead}; a window has {t} frames, so expected 1 to {t - 1}.")
        known = self._last(rows, space, t - ahead)
        x = torch.cat([known, torch.zeros(len(known), ahead, *known.shape[2:], dtype=known.dtype)], 1)
        observed = torch.ones_like(x, dtype=torch.bool)
        observed[:, -ahead:] = False
        return x, observed

    def before(self, rows: Any, space: Space) -> Tensor:
        """The last frames of each clip as the given "past", for a model that was fitted `ahead`."""
        return self._last(rows, space, int(space.meta["before"]))

    def future(self, x: Tensor, rows: Any, space: Space) -> np.ndarray:
        """Frames that follow, as bytes in the shape of the user's clips."""
        frames = Image().restore(x.double().round(), space)
        return frames[0] if isinstance(rows, np.ndarray) and rows.ndim == frames.ndim - 1 else frames

    def write(self, rows: Any, path: str | Path, space: Space, scale: int = 1) -> list[Path]:
        """Write clips `(N, T, H, W, C)`: one to `path`, several to path-0, path-1, ... (.gif, .mp4, or folders)."""
        path, white = Path(path), space.meta.get("white", 255)
        x = torch.as_tensor(rows).reshape(-1, *space.shape)
        pictures = (x.detach().cpu().double() * (255 / white)).round().clamp(0, 255).to(torch.uint8).numpy()
        many = [path.with_stem(f"{path.stem}-{k}") for k in range(len(x))]  # a clip without an ending is a folder
        paths = numbered(path, len(x), self.endings) if path.suffix else [path] if len(x) == 1 else many
        for clip, to in zip(pictures, paths, strict=True):
            write_clip(to, clip, space.meta.get("rate", RATE), scale)
        return paths

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """A contact sheet: a row for each of the first clips, its frames from left to right."""
        white = space.meta.get("white", 255)
        sheet = contact_sheet(x[:SHOWN].detach().cpu().numpy().astype(np.uint8), white=white)
        axes.set_axis_off()
        if sheet.shape[-1] == 3:
            axes.imshow((sheet / white * 255).round().astype(np.uint8), interpolation="nearest")
            return
        axes.imshow(sheet[..., 0], cmap="gray", vmin=0, vmax=white, interpolation="nearest")

    def _last(self, rows: Any, space: Space, frames: int) -> Tensor:
        values = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows)
        tail = next((s for s in _tails(space.shape[1:]) if values.shape[-len(s) :] == s), None)
        if tail is None or values.ndim - len(tail) not in (1, 2):
            raise ValueError(f"got clips of shape {values.shape}; expected (N, frames, {space.shape[1:]}).")
        clips = values.reshape(-1, values.shape[-len(tail) - 1], *space.shape[1:])
        if clips.shape[1] < frames:
            raise ValueError(f"got {clips.shape[1]} frames; the model wants {frames} before what it foretells.")
        x, observed = self.encode(clips[:, -frames:], space.replace(shape=(frames, *space.shape[1:])))
        if not bool(observed.all()):
            raise ValueError("the past has gaps; give impute the whole clip, with its gaps and its future as NaN.")
        return x


def _is_videos(shape: tuple[int, ...], dtype: Any) -> bool:
    if dtype is None or dtype != np.uint8 or len(shape) not in (4, 5):
        return False
    return (len(shape) == 5) == (shape[-1] in (1, 3))


def _tails(frame: Any) -> list[tuple[int, ...]]:
    h, w, c = frame
    return [(h, w, c)] + ([(h, w)] if c == 1 else [])


def _stacked(clips: Any) -> np.ndarray:
    arrays = [np.asarray(c) for c in clips]
    if len({a.shape for a in arrays}) != 1:
        raise ValueError(f"got clips of shapes {sorted({a.shape for a in arrays})}; expected one shape.")
    return np.stack(arrays)


def _clips_of(
    source: Any, size: tuple[int, int] | None, mode: str | None
) -> tuple[list[np.ndarray], bool, np.ndarray | None, float, tuple[str, ...]]:
    """Clips `(T, H, W, C)`, whether the user's have the last axis, their labels, frames a second, and notes."""
    label: np.ndarray | None = None
    notes: list[str] | tuple[str, ...] = ()
    if isinstance(source, Path) and source.is_dir():
        clips, words, rate, notes = clips_of_folder(source, size, mode)
        label = None if words is None else np.array(words)
    elif isinstance(source, Path) and source.suffix.lower() in MOVING:
        clip, rate, notes = read_clip(source, size, mode)
        clips = [clip]
    else:
        if isinstance(source, Path) and not is_arrays(source):
            raise ValueError(f"{source} is no video; expected {', '.join(MOVING)}, npy, npz or a folder.")
        clips, label, axis = _of_array(source)
        flat = [_converted(c, size, mode) for c in clips]
        return flat, axis and not (mode == "L" and clips[0].shape[-1] == 1), label, RATE, ()
    shapes = sorted({c.shape[1:] for c in clips})
    if len(shapes) > 1:
        raise ValueError(
            f"{source} holds clips of frames {shapes}; size=(height, width) and mode='L' or 'RGB' fit them."
        )
    return clips, shapes[0][-1] > 1, label, rate, tuple(notes)


def _of_array(source: Any) -> tuple[list[np.ndarray], np.ndarray | None, bool]:
    label = None
    if isinstance(source, Path):
        array, label = _pictures_of(source)
    else:
        array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    if array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (1, 3)):
        pictures = _array_of(array)[0]  # one clip: its frames are pictures
        return [pictures if pictures.ndim == 4 else pictures[..., None]], None, pictures.ndim == 4
    if not _is_videos(array.shape, array.dtype) or 0 in array.shape:
        raise ValueError(
            f"got an array of shape {array.shape} and dtype {array.dtype}; expected clips (N, T, H, W) or "
            "(N, T, H, W, 1 or 3) of bytes 0..255 (uint8), at least one frame."
        )
    axis = array.ndim == 5
    return list((array if axis else array[..., None]).astype(np.uint8)), label, axis


def _windows(clips: list[np.ndarray], length: int | None, stride: int | None) -> tuple[np.ndarray, Tensor | None, str]:
    """Windows `(N, T, H, W, C)`, where each starts in all clips one after the other (None: whole clips), and a note."""
    frames = sorted({len(c) for c in clips})
    if frames[-1] < 2:
        raise ValueError("every clip has one frame only, which is a picture; read it by kind='image'.")
    if len(clips) > 1 and len(frames) == 1 and length in (None, frames[0]):
        return np.stack(clips), None, f"{len(clips)} clips of {frames[0]} frames"
    if length is None and len(clips) > 1:
        raise ValueError(f"the clips have {frames[0]} to {frames[-1]} frames; length= cuts windows of one length.")
    length = min(WINDOW, frames[-1]) if length is None else length
    parts, starts, before, short = [], [], 0, 0
    for clip in clips:
        if len(clip) >= length:
            at = np.arange(0, len(clip) - length + 1, stride or length)
            parts.append(np.stack([clip[k : k + length] for k in at]))
            starts.append(at + before)
        short += len(clip) < length
        before += len(clip)
    if not parts:
        raise ValueError(f"the longest clip has {frames[-1]} frames; a window of {length} needs as many: say length=.")
    note = f"{sum(map(len, parts))} windows of {length} frames, {stride or length} apart, split in their order"
    note += f"; {short} clips are shorter and left out" if short else ""
    return np.concatenate(parts), torch.from_numpy(np.concatenate(starts)), note
