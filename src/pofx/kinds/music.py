"""Music: steps of chords, (T, V): V notes from the highest down, as keys of the piano.

    x_{t,v} in {0 .. 87} a key of the 88 (0 is A0),  88: no note,  89: END, then 90: PAD (pieces of unequal lengths)
    log p(roll) = sum_t sum_v log P(x_{t,v} | all notes before)         nats; divide by T for nats per time step

Notes of a chord depend on one another by the chain rule. A roll (T, 88) and its notes from the highest down say the
same, so log p is of the roll: an exact log mass of x, and at least that of the roll where a model also gives mass to
notes out of their order. Reads MIDI, ABC, .mat files of rolls, JSON lists of chords, folders and archives of scores,
and lists of rolls; a file with parts (train, valid, test) gives "part". `voice` leaves one line and hides the others
(harmonise), `past` hides what comes after a beginning (continue). Rolls come back as bytes; `write` makes MIDI or WAV.

References: Boulanger-Lewandowski 2012 (arXiv:1206.6392) for the unit; DeepBach (Hadjeres 2017, arXiv:1612.01010).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._scores import KEYS, Score, as_roll, is_score, notes_of, read_scores, write_midi
from pofx.kinds._synth import RATE, rendered, write_wav
from pofx.kinds.base import Kind, Raw, Space, Variable, category, numbered

NONE, END, PAD = KEYS, KEYS + 1, KEYS + 2
LONGEST = 4096  # steps of a piece that is one x
STEP = 1.0  # quarters
Rows = list[np.ndarray]


class Music(Kind):
    """Music: one piece, or one window of a piece, is one x."""

    name = "music"
    layout = "sequence"
    endings = (".mid", ".midi", ".wav")
    trivial = "unigram"
    together = False

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return is_score(source)
        return isinstance(source, (list, tuple)) and bool(source) and all(_is_roll(r) for r in source)

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        step: float = STEP,
        voices: int | None = None,
        length: int | None = None,
        stride: int | None = None,
        channels: tuple[int, ...] | None = None,
    ) -> Raw:
        """Pieces `(N, T, V)` of codes, int64.

        Args:
            source: MIDI, ABC, a .mat file of rolls, JSON lists of chords (.gz too), a folder or archive, or rolls.
            given: "part", where a file has parts.
            step: quarters of one step, for MIDI and ABC; a note has at least one step.
            voices: V, notes of a chord at most; None: as many as there are.
            length: steps of a window; None: whole pieces, which end.
            stride: from one window to the next; None: the length, so that none overlap.
            channels: of MIDI, 0 .. 15; None: all but 9, which is drums.

        Raises:
            ValueError: nothing there, damaged, no notes, too many voices, too long; the message says which.
        """
        for name, value in (("step", step), ("voices", voices), ("length", length), ("stride", stride)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected more than 0.")
        scores, notes = _scores_of(source, step, channels)
        most = max(int(s.roll.sum(1).max()) for s in scores)
        if not most:
            raise ValueError(f"{len(scores)} piece(s), and no note in any of them: there is nothing to learn.")
        wide = voices or most
        if most > wide:
            raise ValueError(f"a step has {most} notes; voices={wide} cannot hold them: say voices={most}.")
        codes = [chords_of(s.roll, wide) for s in scores]
        longest = max(len(c) for c in codes)
        seen = f"{len(scores)} pieces of {np.mean([len(c) for c in codes]):.0f} steps on average, {longest} at most; "
        seen += f"{wide} notes at once"
        meta: dict[str, Any] = {"pitches": KEYS, "body": "intervals", "step": step, "end": END, "pad": PAD}
        if length is None:
            if longest > LONGEST:
                raise ValueError(f"a piece has {longest} steps; say length= to cut it into windows.")
            x, owner, start = _ended(codes, longest + 1), range(len(codes)), None
        else:
            x, owner, start = _windows(codes, length, stride or length)
            del meta["end"], meta["pad"]
            start = start if len(codes) == 1 else None
            notes.append(f"{len(x)} windows of {length} steps; the first note of a window has no context")
        values, spaces = _parts(scores, list(owner), given)
        space = _space(x.shape[1:], meta)
        return Raw(torch.from_numpy(x), space, values, spaces, notes=(seen, *notes), start=start)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        codes = self._codes(rows, space)
        x = torch.from_numpy(_ended(codes, space.shape[0]) if "end" in space.meta else np.stack(codes))
        return x, torch.ones(x.shape, dtype=torch.bool)

    def voice(self, rows: Any, space: Space, which: int = 0) -> tuple[Tensor, Tensor]:
        """`(x, observed)` of rolls of which one line is known, 0 the highest; the length is known, too."""
        if not 0 <= which < space.shape[1]:
            raise ValueError(f"which is {which}; expected a line, 0 (the highest) to {space.shape[1] - 1}.")
        x, observed = self.encode(rows, space)
        observed = observed & (x > NONE)
        observed[:, :, which] = True
        return x, observed

    def past(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        """Rolls as beginnings: whatever comes after them is missing."""
        codes = [c[: space.shape[0]] for c in self._codes(rows, space, whole=False)]
        x = np.full((len(codes), *space.shape), NONE)
        observed = np.zeros(x.shape, bool)
        for own, seen, code in zip(x, observed, codes, strict=True):
            own[: len(code)], seen[: len(code)] = code, True
        return torch.from_numpy(x), torch.from_numpy(observed)

    def rows(self, source: Any, space: Space) -> Rows:
        """The rolls of a file, cut as the model takes them."""
        rolls = [s.roll for s in read_scores(Path(source), float(space.meta["step"]))[0]]
        if "end" in space.meta:
            return rolls
        n = space.shape[0]
        return [r[at : at + n] for r in rolls for at in range(0, len(r) - n + 1, n)]

    def restore(self, x: Tensor, space: Space) -> Rows:
        return [roll_of(codes) for codes in x.detach().cpu().numpy()]

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Rows:
        return self.restore(x, space)

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """The first pieces as rolls, one below the other: time to the right, keys from low to high."""
        axes.set_axis_off()
        rolls = self.restore(x[:6], space)
        for k, roll in enumerate(rolls):
            height = 1 / len(rolls)
            small = axes.inset_axes((0, 1 - (k + 1) * height, 1, 0.92 * height))
            low, high = 30, 72  # F#2 .. A5 where most music is, wider where it is not
            keys = np.flatnonzero(roll.any(0))
            low, high = (min(low, keys.min() - 1), max(high, keys.max() + 2)) if len(keys) else (low, high)
            small.hlines(*_lines(roll), lw=2.4)
            small.set(xlim=(0, max(1, len(roll))), xticks=[], yticks=[15, 27, 39, 51, 63])
            small.set_yticklabels([f"C{o}" for o in range(2, 7)], fontsize=6)
            small.set_ylim(low, high)  # the ticks have widened it

    def write(self, rows: Any, path: str | Path, space: Space, tempo: float = 90.0) -> list[Path]:
        """Rolls as MIDI or WAV: one to `path`, several to path-0, path-1, ..., or into a folder. Gives their paths.

        Raises:
            ValueError: another ending.
        """
        many, step = _rolls(rows), float(space.meta["step"])
        found = numbered(path, len(many), self.endings)
        for roll, where in zip(many, found, strict=True):
            if where.suffix.lower() == ".wav":
                write_wav(where, rendered(roll, step * 60 / tempo), RATE)
            else:
                write_midi(where, roll, step, tempo)
        return found

    def _codes(self, rows: Any, space: Space, whole: bool = True) -> list[np.ndarray]:
        steps, voices = space.shape
        rolls = _rolls(rows)
        for k, roll in enumerate(rolls):
            most, ends = int(roll.sum(1).max()), "end" in space.meta
            if most > voices:
                raise ValueError(f"piece {k} has {most} notes at once; the model knows {voices} at most.")
            if whole and (len(roll) > steps if ends else len(roll) != steps):
                raise ValueError(
                    f"piece {k} has {len(roll)} steps; the model knows {steps}{' at most' if ends else ''}: cut it."
                )
        return [chords_of(r, voices) for r in rolls]


def chords_of(roll: np.ndarray, voices: int) -> np.ndarray:
    """A roll (T, 88) as the notes (T, V) of each step from the highest down, then "no note"."""
    x = np.full((len(roll), voices), NONE, dtype=np.int64)
    step, key = np.nonzero(roll[:, ::-1])
    first = np.searchsorted(step, np.arange(len(roll)))
    x[step, np.arange(len(step)) - first[step]] = KEYS - 1 - key
    return x


def roll_of(codes: np.ndarray) -> np.ndarray:
    """Notes (T, V) as a roll (T', 88) that ends where they end."""
    over = np.flatnonzero((codes > NONE).any(1))
    codes = codes[: int(over[0])] if len(over) else codes
    roll = np.zeros((len(codes), KEYS), np.uint8)
    step, voice = np.nonzero(codes < NONE)
    roll[step, codes[step, voice]] = 1
    return roll


def _is_roll(source: object) -> bool:
    if not isinstance(source, np.ndarray) or source.ndim != 2 or source.shape[1] != KEYS:
        return False
    return source.dtype in (np.uint8, np.bool_)


def _rolls(rows: Any) -> Rows:
    single = isinstance(rows, np.ndarray) and rows.ndim == 2
    many = [as_roll(r, f"piece {k}") for k, r in enumerate([rows] if single else list(rows))]
    if not many:
        raise ValueError("got no piece; expected rolls (T, 88).")
    return many


def _scores_of(source: Any, step: float, channels: tuple[int, ...] | None) -> tuple[list[Score], list[str]]:
    if isinstance(source, (str, Path)):
        return read_scores(Path(source), step, channels)
    return [Score(roll) for roll in _rolls(source)], []


def _ended(codes: list[np.ndarray], length: int) -> np.ndarray:
    """Pieces with END and PAD after them, (N, length, V)."""
    x = np.full((len(codes), length, codes[0].shape[1]), PAD, dtype=np.int64)
    for row, own in zip(x, codes, strict=True):
        row[: len(own)] = own
        if len(own) < length:
            row[len(own), 0] = END
    return x


def _windows(codes: list[np.ndarray], length: int, stride: int) -> tuple[np.ndarray, list[int], Tensor]:
    x, owner, start, before = [], [], [], 0
    for k, own in enumerate(codes):
        for at in range(0, len(own) - length + 1, stride):
            x.append(own[at : at + length])
            owner.append(k)
            start.append(before + at)
        before += len(own)
    if not x:
        raise ValueError(f"the longest piece has {max(map(len, codes))} steps; a window of {length} needs as many.")
    return np.stack(x), owner, torch.tensor(start)


def _space(shape: tuple[int, ...], meta: dict[str, Any]) -> Space:
    tones = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")
    keys = tuple(f"{tones[k % 12]}{(k + 9) // 12}" for k in range(KEYS))
    names = (*keys, "none", *(("<end>", "<pad>") if "end" in meta else ()))
    v = Variable("note", "category", len(names), names)
    return Space(tuple(shape), (v,), "sequence", "music", "int64", meta)


def _parts(scores: list[Score], owner: list[int], given: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Space]]:
    words, codes = np.unique([scores[k].part for k in owner], return_inverse=True)
    lacking = [g for g in given if g != "part" or len(words) < 2]
    if lacking:
        raise ValueError(f"given {lacking}: these pieces have {['part'] if len(words) > 1 else 'none'}.")
    if len(words) < 2:
        return {}, {}
    space = category(len(words), "part", tuple(str(w) for w in words))
    return {"part": torch.from_numpy(codes.astype(np.int64))}, {"part": space}


def _lines(roll: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    notes = notes_of(roll)
    return [n[0] for n in notes], [n[1] for n in notes], [n[2] for n in notes]
