"""Scores in files: MIDI, ABC, piano rolls and lists of chords, as piano rolls (T, 88) of bytes 0 and 1.

Column 0 is A0 (MIDI 21), column 87 is C8 (MIDI 108). A roll knows which keys sound in each step, not who plays them nor
whether a note that goes on was struck again. Offers `Score`, `read_scores`, `write_midi`. MIDI needs the library mido
(pip install 'pofx[music]').
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pofx.kinds._abc import tunes

KEYS, LOWEST = 88, 21
MIDI, CELLS = (".mid", ".midi"), ("traindata", "validdata", "testdata")
TICKS = 480  # of a quarter, in files that are written


@dataclass(frozen=True)
class Score:
    """One piece: its roll (T, 88) uint8, its name, and the part of the data that its file puts it in."""

    roll: np.ndarray
    name: str = ""
    part: str = ""


def suffix_of(path: Path) -> str:
    """The suffix, without .gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def is_score(path: Path) -> bool:
    """Whether a path is a score, or a folder or archive that holds one."""
    if path.is_dir():
        return any(suffix_of(p) in (*MIDI, ".abc") for p in path.rglob("*"))
    if suffix_of(path) == ".zip":
        return any(Path(n).suffix.lower() in (*MIDI, ".abc") for n in _names(path))
    if suffix_of(path) == ".mat":
        return any(c.encode() in path.read_bytes()[:4096] for c in CELLS) or _is_cells(path)
    return suffix_of(path) in (*MIDI, ".abc") or (suffix_of(path) == ".json" and _is_chords(path))


def read_scores(path: Path, step: float, channels: tuple[int, ...] | None = None) -> tuple[list[Score], list[str]]:
    """The pieces of a file, a folder or a zip archive, and notes.

    Args:
        path: MIDI, ABC, a .mat file of rolls, a .json (.gz) file of chords, or a folder or archive of MIDI and ABC.
        step: quarters of one step.
        channels: of MIDI, 0 .. 15; None: all but 9, which is drums.

    Raises:
        ValueError: there is nothing, or none can be read; the message says which.
    """
    if suffix_of(path) == ".mat":
        return _of_cells(path), []
    if suffix_of(path) == ".json":
        return _of_chords(path), []
    scores, notes, count, alone = [], [], 0, path.is_file() and path.suffix.lower() != ".zip"
    for where, content in _files(path):
        count += 1
        try:
            found, wrong = _of_file(where, content, step, channels)
        except ValueError as error:
            found, wrong = [], [str(error)]
        if wrong and alone:
            raise ValueError(wrong[0])
        scores += [s for s in found if s.roll.any()]
        notes += [f"left out: {w}" for w in wrong]
        notes += [f"left out: {s.name or where} has no note" for s in found if not s.roll.any()]
    if not count:
        raise ValueError(f"{path} holds no score; expected files that end in {', '.join((*MIDI, '.abc'))}.")
    if not scores:
        raise ValueError(f"{path}: nothing to learn from {count} file(s); the first: {notes[0]}.")
    return scores, notes


def as_roll(source: Any, where: str) -> np.ndarray:
    """A user's roll (T, 88) of 0 and 1, or chords as lists of MIDI numbers, as bytes.

    Raises:
        ValueError: of another shape, or with something else than 0 and 1, or keys beyond the piano.
    """
    if isinstance(source, (list, tuple)):
        return _roll_of(source, where)
    roll = np.asarray(source)
    if roll.ndim != 2 or roll.shape[1] != KEYS or not len(roll) or roll.dtype.kind not in "biuf":
        raise ValueError(f"{where} has shape {roll.shape} and dtype {roll.dtype}; expected a roll (T, {KEYS}).")
    if not np.isin(roll, (0, 1)).all():
        raise ValueError(f"{where} holds {roll[~np.isin(roll, (0, 1))][0]:g}; expected 1 where a key sounds, else 0.")
    return roll.astype(np.uint8)


def write_midi(path: str | Path, roll: np.ndarray, step: float = 1.0, tempo: float = 90.0, hold: bool = True) -> None:
    """Write a roll (T, 88) as a MIDI file of one track.

    Args:
        path: of the file.
        roll: keys that sound in each step.
        step: quarters of one step.
        tempo: quarters a minute.
        hold: a key that sounds in the next step, too, goes on; else it is struck again.
    """
    mido = _mido()
    roll, ticks = as_roll(roll, str(path)), round(step * TICKS)
    events = []
    for key, first, end in notes_of(roll, hold):
        events += [(first * ticks, 1, key + LOWEST), (end * ticks, 0, key + LOWEST)]
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
    now = 0
    for at, on, key in sorted(events):
        track.append(mido.Message("note_on" if on else "note_off", note=key, velocity=72 if on else 0, time=at - now))
        now = at
    track.append(mido.MetaMessage("end_of_track", time=len(roll) * ticks - now))
    file = mido.MidiFile(ticks_per_beat=TICKS)
    file.tracks.append(track)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file.save(str(path))


def notes_of(roll: np.ndarray, hold: bool = True) -> list[tuple[int, int, int]]:
    """The notes (key, first step, step after the last) of a roll."""
    found = []
    for key in np.flatnonzero(roll.any(0)):
        on = np.concatenate([[0], roll[:, key], [0]]).astype(np.int8)
        if hold:
            starts, ends = np.flatnonzero(np.diff(on) > 0), np.flatnonzero(np.diff(on) < 0)
        else:
            starts = np.flatnonzero(roll[:, key])
            ends = starts + 1
        found += [(int(key), int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
    return sorted(found, key=lambda n: (n[1], n[0]))


def _mido() -> Any:
    try:
        import mido
    except ImportError as error:
        raise ValueError("MIDI needs the library mido: pip install 'pofx[music]'.") from error
    return mido


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return []


def _files(path: Path) -> Iterator[tuple[Path, bytes]]:
    wanted = (*MIDI, ".abc")
    if path.is_dir():
        for own in sorted(p for p in path.rglob("*") if p.suffix.lower() in wanted and p.is_file()):
            yield own.relative_to(path), own.read_bytes()
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in _names(path):
                if Path(name).suffix.lower() in wanted:
                    yield Path(name), archive.read(name)
    else:
        yield Path(path.name), path.read_bytes()


def _of_file(
    where: Path, content: bytes, step: float, channels: tuple[int, ...] | None
) -> tuple[list[Score], list[str]]:
    """The pieces of a file's content, and what is wrong with others of them."""
    if not content:
        raise ValueError(f"{where} is empty; expected a score.")
    if where.suffix.lower() in MIDI:
        return [Score(_of_midi(where, content, step, channels), where.stem)], []
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as older collections are
    found, wrong = tunes(text, str(where))
    return [Score(_placed(notes, length, step, str(where)), title) for title, notes, length in found], wrong


def _of_midi(where: Path, content: bytes, step: float, channels: tuple[int, ...] | None) -> np.ndarray:
    mido = _mido()
    if content[:4] != b"MThd":
        raise ValueError(f"{where} starts with {content[:4]!r}; expected MThd, as a MIDI file does.")
    try:
        file = mido.MidiFile(file=io.BytesIO(content))
    except (OSError, EOFError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{where} is damaged or cut short ({error or type(error).__name__}).") from error
    if file.ticks_per_beat <= 0:
        raise ValueError(f"{where} counts time in seconds of film, not in beats, so its steps are unknown.")
    notes, end = [], 0
    for track in file.tracks:
        now, sounding = 0, dict[tuple[int, int], int]()
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off") or message.channel not in (channels or _ALL_BUT_DRUMS):
                continue
            first = sounding.pop((message.channel, message.note), None)
            if first is not None:
                notes.append((message.note, first / file.ticks_per_beat, now / file.ticks_per_beat))
            if message.type == "note_on" and message.velocity:
                sounding[message.channel, message.note] = now
        notes += [(n, first / file.ticks_per_beat, now / file.ticks_per_beat) for (_, n), first in sounding.items()]
        end = max(end, now)
    return _placed(notes, end / file.ticks_per_beat, step, str(where))


_ALL_BUT_DRUMS = tuple(c for c in range(16) if c != 9)


def _placed(notes: list[tuple[int, float, float]], length: float, step: float, where: str) -> np.ndarray:
    """Notes (MIDI number, first quarter, last quarter) on the grid of steps; each has at least one step."""
    steps = max(1, round(length / step), *(round(b / step) for _, _, b in notes), 1)
    if steps > 10**6:
        raise ValueError(f"{where} has {steps} steps; it is damaged, or step= is too small.")
    roll = np.zeros((steps + 1, KEYS), np.uint8)
    for note, first, last in notes:
        if not 0 <= note - LOWEST < KEYS:
            raise ValueError(f"{where}: the note {note} is beyond the piano, {LOWEST} to {LOWEST + KEYS - 1}.")
        a = round(first / step)
        roll[a : max(a + 1, round(last / step)), note - LOWEST] = 1
    return roll if roll[-1].any() else roll[:-1]


def _roll_of(chords: Any, where: str) -> np.ndarray:
    roll = np.zeros((len(chords), KEYS), np.uint8)
    for t, chord in enumerate(chords):
        for note in [chord] if isinstance(chord, (int, np.integer)) else chord:
            if not isinstance(note, (int, np.integer)) or isinstance(note, bool):
                raise ValueError(f"{where}, step {t}: got {note!r}; expected MIDI numbers.")  # noqa: TRY004 (a file)
            if note >= 0 and not 0 <= note - LOWEST < KEYS:
                raise ValueError(f"{where}, step {t}: the note {note} is beyond the piano, {LOWEST} to 108.")
            if note >= 0:
                roll[t, note - LOWEST] = 1
    if not len(roll):
        raise ValueError(f"{where} has no steps.")
    return roll


def _json_of(path: Path) -> Any:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        return json.loads(raw)
    except (EOFError, zlib.error, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}).") from error


def _is_chords(path: Path) -> bool:
    try:
        found = _json_of(path)
    except ValueError:
        return False
    pieces = next(iter(found.values()), None) if isinstance(found, dict) else found
    return isinstance(pieces, list) and bool(pieces) and isinstance(pieces[0], list)


def _of_chords(path: Path) -> list[Score]:
    found = _json_of(path)
    parts = found if isinstance(found, dict) else {"": found}
    if not all(isinstance(p, list) for p in parts.values()) or not any(parts.values()):
        raise ValueError(f"{path} holds no pieces; expected lists of chords of MIDI numbers, by part or not.")
    return [
        Score(_roll_of(piece, f"{path.name}, piece {k}"), f"{part} {k}".strip(), part)
        for part, pieces in parts.items()
        for k, piece in enumerate(pieces)
    ]


def _is_cells(path: Path) -> bool:
    from scipy.io import whosmat

    try:
        return any(name in CELLS for name, _, _ in whosmat(path))
    except (ValueError, OSError, NotImplementedError, TypeError):
        return False


def _of_cells(path: Path) -> list[Score]:
    from scipy.io import loadmat

    try:
        found = loadmat(path)
    except (ValueError, OSError, NotImplementedError, TypeError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged, or no .mat file ({error}).") from error
    scores = []
    for cell in CELLS:
        rolls = found.get(cell, np.zeros((1, 0)))[0]
        part = cell.removesuffix("data")
        scores += [Score(as_roll(r, f"{path.name}, {cell} {k}"), f"{part} {k}", part) for k, r in enumerate(rolls)]
    if not scores:
        raise ValueError(f"{path} holds {sorted(k for k in found if k[0] != '_')}; expected {', '.join(CELLS)}.")
    return scores
