"""Clips: moving pictures `(T, H, W, C)` of bytes in GIF, MP4 (H.264 through PyAV) and folders of frames.

Offers `read_clip`, `clips_of_folder`, `write_clip` and `contact_sheet`. GIF and MP4 say how long a frame stands: a GIF
whose frames all stand a whole multiple of the shortest time gives them so often. A clip that is damaged on the way
keeps the frames before the damage, with a note; one of which nothing can be read is an error.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pofx.kinds._pictures import SUFFIXES as PICTURES
from pofx.kinds._pictures import read_folder

MOVING = (".gif", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
NEEDED = "MP4 and other video files need the library PyAV: pip install 'pofx[video]' (GIF and folders of frames do not)"
RATE = 10.0  # frames a second, where nothing says
Array = np.ndarray


def read_clip(path: Path, size: tuple[int, int] | None, mode: str | None) -> tuple[Array, float, tuple[str, ...]]:
    """Frames `(T, H, W, C)` uint8 of one file or one folder of frames, frames a second, and notes.

    Raises:
        ValueError: nothing can be read. ImportError: PyAV is missing.
    """
    if path.is_dir():
        return _frames_of_folder(path, size, mode)
    read = _read_gif if path.suffix.lower() == ".gif" else _read_av
    frames, rate, damage = read(path, size, mode)
    if not frames:
        raise ValueError(f"{path} cannot be read as a video ({damage or 'it holds no frame'}).")
    notes = (f"{path.name}: damaged after {len(frames)} frames ({damage}); those are kept",) if damage else ()
    clip = np.stack(frames)
    return (clip if clip.ndim == 4 else clip[..., None]), rate, notes


def clips_of_folder(
    folder: Path, size: tuple[int, int] | None, mode: str | None
) -> tuple[list[Array], list[str] | None, float, list[str]]:
    """The clips of a folder: its video files, or its folders of frames, or its own frames; class folders, rate, notes.

    A clip of which nothing can be read is left out with a note, unless it is the only one.
    """
    paths = sorted((p for p in folder.rglob("*") if p.suffix.lower() in MOVING and p.is_file()), key=natural)
    if not paths:
        inner = {p.parent for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file()}
        paths = sorted(inner - {folder}, key=natural) or [folder]
    clips, kept, notes, rates = [], [], [], []
    for path in paths:
        try:
            clip, rate, more = read_clip(path, size, mode)
        except ValueError as error:
            if len(paths) == 1:
                raise
            notes.append(f"left out: {error}")
            continue
        clips.append(clip)
        kept.append(path)
        rates.append(rate)
        notes += more
    if not clips:
        raise ValueError(f"{folder}: none of {len(paths)} clips can be read; the first: {notes[0]}")
    classes = [p.relative_to(folder).parts[:-1] for p in kept]
    words = None if any(not c for c in classes) or len(set(classes)) < 2 else ["/".join(c) for c in classes]
    return clips, words, rates[0], notes


def natural(path: Path) -> list[Any]:
    """A key by which frame 2 stands before frame 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def write_clip(path: str | Path, clip: Array, rate: float = RATE, scale: int = 1) -> None:
    """Write frames `(T, H, W)` or `(T, H, W, C)` uint8 as GIF, as MP4 (H.264), or as a folder of PNG frames.

    A GIF of grey frames and a folder keep every level; MP4 does not, and repeats the last row or column of an odd side,
    which H.264 does not take.

    Args:
        path: ends in .gif or .mp4 (or .mov, .mkv), or has no ending: a folder.
        rate: frames a second.
        scale: each pixel becomes a square of this side.

    Raises:
        ValueError: no frames, other numbers than bytes, or an ending that is none of these.
    """
    path, clip = Path(path), np.asarray(clip)
    clip = clip[..., None] if clip.ndim == 3 else clip
    if clip.ndim != 4 or clip.shape[-1] not in (1, 3) or 0 in clip.shape or clip.dtype != np.uint8:
        raise ValueError(f"got a clip of shape {clip.shape} and dtype {clip.dtype}; expected (T, H, W, 1 or 3), uint8.")
    clip = clip.repeat(scale, 1).repeat(scale, 2)
    if path.suffix.lower() == ".gif":
        frames = [_pillow(f) for f in clip]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0)
    elif path.suffix.lower() in (".mp4", ".mov", ".mkv"):
        _write_av(path, clip, rate)
    elif not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        for k, frame in enumerate(clip):
            _pillow(frame).save(path / f"{k:04d}.png")
    else:
        raise ValueError(f"{path}: a clip is written as .gif, .mp4, .mov, .mkv or a folder, not as {path.suffix}.")


def contact_sheet(clips: Array, columns: int = 10, gap: int = 1, white: int = 255) -> Array:
    """Clips `(N, T, H, W, C)` as one picture `(h, w, C)` uint8: a row for each, frames evenly chosen."""
    n, t, h, w, c = clips.shape
    chosen = np.unique(np.linspace(0, t - 1, min(t, columns)).round().astype(int))
    sheet = np.full((n * (h + gap) - gap, len(chosen) * (w + gap) - gap, c), white // 2, dtype=np.uint8)
    for row, clip in enumerate(clips):
        for column, k in enumerate(chosen):
            top, left = row * (h + gap), column * (w + gap)
            sheet[top : top + h, left : left + w] = clip[k]
    return sheet


def _pillow(frame: Array) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(frame if frame.shape[-1] == 3 else frame[..., 0]))


def _frames_of_folder(
    folder: Path, size: tuple[int, int] | None, mode: str | None
) -> tuple[Array, float, tuple[str, ...]]:
    frames, _, notes = read_folder(folder, size, mode, key=natural)
    return frames, RATE, notes


def _fitted(picture: Any, size: tuple[int, int] | None, mode: str | None) -> Array:
    from PIL import Image

    picture = picture.convert(mode or ("L" if picture.mode in ("1", "L") else "RGB"))
    if size is not None and (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)


def _read_gif(path: Path, size: tuple[int, int] | None, mode: str | None) -> tuple[list[Array], float, str]:
    from PIL import Image

    frames: list[Array] = []
    times: list[int] = []
    damage = ""
    try:
        with Image.open(path) as file:
            while True:
                frames.append(_fitted(file, size, mode or "RGB"))
                times.append(int(file.info.get("duration", 0)))
                file.seek(len(frames))
    except EOFError as error:  # "no more images in GIF file" is how it ends
        damage = "" if "no more images" in str(error) else str(error) or "it is cut short"
    except (OSError, ValueError, SyntaxError, IndexError, struct.error) as error:
        damage = str(error)
    if mode is None and all((f == f[..., :1]).all() for f in frames):  # a GIF has no grey mode of its own
        frames = [f[..., 0] for f in frames]
    shortest = min([t for t in times if t > 0], default=0)
    if shortest and all(t % shortest == 0 for t in times):
        frames = [f for f, t in zip(frames, times, strict=True) for _ in range(max(1, t // shortest))]
    return frames, 1000 / shortest if shortest else RATE, damage


def _read_av(path: Path, size: tuple[int, int] | None, mode: str | None) -> tuple[list[Array], float, str]:
    av = _av()
    frames: list[Array] = []
    rate, damage = RATE, ""
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                return [], rate, "it has no moving picture"
            stream = file.streams.video[0]
            rate = float(stream.average_rate or RATE)
            for frame in file.decode(stream):
                frames.append(_fitted(frame.to_image(), size, mode))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        damage = str(error)
    return frames, rate, damage


def _write_av(path: Path, clip: Array, rate: float) -> None:
    av = _av()
    from fractions import Fraction

    even = [(0, 0), (0, clip.shape[1] % 2), (0, clip.shape[2] % 2), (0, 0)]
    clip = np.pad(clip.repeat(3, -1) if clip.shape[-1] == 1 else clip, even, mode="edge")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "yuv420p"
        for frame in clip:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(NEEDED) from error
    return av
