"""Sounds in files: WAV and FLAC, alone, in folders and in zip archives, as whole numbers of the file's width.

Offers `Sound`, `read_sounds`, `write_sound`, `resampled`. A damaged file among good ones is left out with a note; files
of several rates, widths or channels are an error that names the option which makes them one. Needs soundfile (and
librosa to resample): pip install 'pofx[sound]'.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".wav", ".flac")
WIDTHS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "ULAW": 16, "ALAW": 16}
LONGEST = 2**17  # samples of a sound that is one x


@dataclass(frozen=True)
class Sound:
    """One sound.

    Args:
        x: samples (T,), whole numbers of `bits` bits with their sign, int32.
        rate: samples a second.
        bits: of the file.
        name: the file's name, without its folder and suffix.
        folder: the folder it was in, below the one that was read.
    """

    x: np.ndarray
    rate: int
    bits: int
    name: str = ""
    folder: str = ""


def needs(name: str) -> Any:
    """A library of the extra "sound".

    Raises:
        ValueError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"sound needs the library {name}: pip install 'pofx[sound]'.") from error


def is_sound(path: Path) -> bool:
    """Whether a path is a WAV or FLAC file, or a folder or archive that holds one."""
    if path.is_dir():
        return any(p.suffix.lower() in SUFFIXES for p in path.rglob("*"))
    if path.suffix.lower() == ".zip":
        return bool(_inside(path))
    return path.suffix.lower() in SUFFIXES


def read_sounds(path: Path, rate: int | None, bits: int | None, mono: bool) -> tuple[list[Sound], list[str]]:
    """The sounds of a file, a folder or a zip archive, in the order of their names, and notes.

    Raises:
        ValueError: there is none, none can be read, all are silent, or they differ where no option settles it.
    """
    sounds, notes, count = [], [], 0
    for where, own in _files(path):
        count += 1
        try:
            sound = _decoded(own, where, bits, mono)
        except ValueError as error:
            if path.is_file() and path.suffix.lower() != ".zip":
                raise
            notes.append(f"left out: {error}")
            continue
        if not sound.x.any():
            notes.append(f"left out: {where} is silent ({len(sound.x)} samples, all of them 0)")
            continue
        sounds.append(sound)
    if not count:
        raise ValueError(f"{path} holds no sound; expected files that end in {', '.join(SUFFIXES)}.")
    if not sounds:
        raise ValueError(f"{path}: nothing to learn from {count} file(s); the first: {notes[0]}.")
    return alike(sounds, rate), notes


def alike(sounds: list[Sound], rate: int | None) -> list[Sound]:
    """Sounds of one rate and one width.

    Raises:
        ValueError: several rates without `rate`, or several widths.
    """
    rates, widths = Counter(s.rate for s in sounds), Counter(s.bits for s in sounds)
    if len(rates) > 1 and rate is None:
        shown = ", ".join(f"{r} Hz ({n})" for r, n in rates.most_common())
        raise ValueError(f"got sounds of several rates: {shown}; rate={rates.most_common(1)[0][0]} resamples all.")
    if len(widths) > 1:
        shown = ", ".join(f"{b} bits ({n})" for b, n in widths.most_common())
        raise ValueError(f"got sounds of several widths: {shown}; bits={max(widths)} makes them one.")
    return sounds if rate is None else [resampled(s, rate) for s in sounds]


def resampled(sound: Sound, rate: int) -> Sound:
    """The sound at another rate."""
    if sound.rate == rate:
        return sound
    if rate < 1000:
        raise ValueError(f"rate is {rate}; expected samples a second, 1000 or more.")
    x = needs("librosa").resample(sound.x.astype(np.float64), orig_sr=sound.rate, target_sr=rate)
    top = 2 ** (sound.bits - 1)
    return replace(sound, x=np.clip(np.round(x), -top, top - 1).astype(np.int32), rate=rate)


def write_sound(path: str | Path, x: np.ndarray, rate: int, bits: int = 16) -> None:
    """Write whole samples (T,) as a WAV or FLAC file, bit by bit.

    Raises:
        ValueError: another suffix, samples beyond the width, or a width that the format has not.
    """
    path, top = Path(path), 2 ** (bits - 1)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    x = np.asarray(x)
    if x.ndim != 1 or x.dtype.kind not in "iu" or (len(x) and (x.min() < -top or x.max() >= top)):
        raise ValueError(f"{path}: got {x.dtype} of shape {x.shape}; expected whole samples of {bits} bits, (T,).")
    flac = path.suffix.lower() == ".flac"
    form = {8: "PCM_S8" if flac else "PCM_U8", 16: "PCM_16", 24: "PCM_24"}.get(bits)
    if form is None:
        raise ValueError(f"{path}: {bits} bits; expected 8, 16 or 24.")
    left = (x.astype(np.int64) << (32 - bits)).astype(np.int32)  # libsndfile keeps the upper bits
    needs("soundfile").write(path, left, rate, subtype=form)


def flac_bytes(x: np.ndarray, rate: int, bits: int = 16) -> int:
    """Bytes of whole samples (T,) as FLAC at its strongest, without the header of the file."""
    soundfile, out = needs("soundfile"), io.BytesIO()
    left = (x.astype(np.int64) << (32 - bits)).astype(np.int32)
    form = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits]
    soundfile.write(out, left, rate, format="FLAC", subtype=form, compression_level=1.0)
    file, start = out.getvalue(), 4
    while True:  # the metadata blocks: one byte (the highest bit: the last), three bytes of length
        last, size = file[start] >> 7, int.from_bytes(file[start + 1 : start + 4], "big")
        start += 4 + size
        if last:
            return len(file) - start


def _inside(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES)
    except (zipfile.BadZipFile, OSError):
        return []


def _files(path: Path) -> Iterator[tuple[Path, bytes]]:
    if path.is_dir():
        for own in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield own.relative_to(path), own.read_bytes()
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in _inside(path):
                yield Path(name), archive.read(name)
    else:
        yield Path(path.name), path.read_bytes()


def _decoded(content: bytes, where: Path, bits: int | None, mono: bool) -> Sound:
    """The sound of a file's content.

    Raises:
        ValueError: it is empty, damaged, cut short, of several channels, or of a width that is not whole.
    """
    soundfile = needs("soundfile")
    if not content:
        raise ValueError(f"{where} is empty; expected a sound.")
    _whole(content, where)
    try:
        info = soundfile.info(io.BytesIO(content))
        x, rate = soundfile.read(io.BytesIO(content), dtype="int32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise ValueError(f"{where} is damaged or no sound ({error}).") from error
    if not len(x) or len(x) < info.frames:
        raise ValueError(f"{where} is cut short: {len(x)} of {info.frames} samples.")
    if x.shape[1] > 1 and not mono:
        raise ValueError(f"{where} has {x.shape[1]} channels; mono=True takes their mean.")
    own = bits or WIDTHS.get(info.subtype)
    if own is None:
        raise ValueError(f"{where} holds {info.subtype} samples, of which every one would be its own; say bits=16.")
    if not 2 <= own <= 24:
        raise ValueError(f"bits is {own}; expected 2 to 24.")
    mean = x[:, 0].astype(np.int64) if x.shape[1] == 1 else np.round(x.mean(1)).astype(np.int64)
    folder = "" if where.parent == Path(".") else where.parent.as_posix()
    return Sound((mean >> (32 - own)).astype(np.int32), int(rate), own, where.stem, folder)


def _whole(content: bytes, where: Path) -> None:
    """Whether a WAV file has the bytes that its header promises; libsndfile would read what is there."""
    if content[:4] != b"RIFF" or len(content) < 12:
        return
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], struct.unpack("<I", content[at + 4 : at + 8])[0]
        if name == b"data":
            if at + 8 + size > len(content) and size < 0xFFFFFF00:  # a stream does not know its length
                raise ValueError(f"{where} is cut short: {len(content) - at - 8} of {size} bytes of sound.")
            return
        at += 8 + size + size % 2
    raise ValueError(f"{where} is cut short: it has no samples.")
