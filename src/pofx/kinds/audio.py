"""Audio: sounds of one rate, as samples or as a picture of loudness.

    wave     x (L,)        whole samples of the file's width, 2^bits levels: bits a sample compare with FLAC
    mu-law   x (L,)        256 codes of the same samples, fine where they are small (a view: it loses)
    mel      x (F, M, 1)   levels of loudness in F spectra of M bands, a picture (a view: the phase is lost)

Reads WAV and FLAC files, folders and zip archives of them (names such as digit_speaker_take.wav give labels, folders
give the label), and lists of arrays (T,). Samples after the end of a sound are absent: masked in the sample views,
silence in the mel view. Sounds come back as arrays of whole samples; `write_sound` makes files of them. The mel view
comes back through Griffin and Lim; in a gap it goes on from the samples around it, which stay as they are.

References: mu-law (ITU-T G.711); Griffin and Lim 1984.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds._sounds import LONGEST, Sound, alike, is_sound, read_sounds, write_sound
from pofx.kinds._spectra import Mel, companded, expanded
from pofx.kinds.base import Kind, Raw, Space, Variable, category, numbered

VIEWS = ("wave", "mu-law", "mel")
Rows = list[np.ndarray]


class Audio(Kind):
    """Audio: one sound, or one window of a sound, is one x."""

    name = "audio"
    layout = "sequence"
    endings = (".wav", ".flac")
    trivial = "last"
    together = False

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return is_sound(source)
        if isinstance(source, Sound):
            return True
        if not isinstance(source, (list, tuple)) or not source:
            return False
        return all(isinstance(s, Sound) or _is_samples(s) for s in source)

    def read(
        self,
        source: Any,
        given: tuple[str, ...] = (),
        view: str = "wave",
        length: int | None = None,
        rate: int | None = None,
        bits: int | None = None,
        mono: bool = False,
        names: str | None = None,
        mels: int = 32,
        window: int = 256,
        hop: int = 128,
        levels: int = 64,
    ) -> Raw:
        """Sounds `(N, L)` (wave: int32; mu-law: uint8), or `(N, F, M, 1)` uint8 (mel).

        Args:
            source: a WAV or FLAC file, a folder or zip archive of them, or a list of arrays (T,) of whole samples.
            given: labels: those of `names`, or "label" for folders.
            view: "wave", "mu-law" or "mel".
            length: samples of a window; windows stand side by side, and the last of a sound is padded. None: the
                longest sound is one window. A mel view takes one window of each sound, its beginning.
            rate: samples a second; resamples files of another rate, and states that of arrays.
            bits: width of a sample; takes the upper bits of a wider file. Arrays: their dtype's.
            mono: whether several channels become their mean.
            names: what the parts of a file's name are, such as "digit_speaker_take".
            mels, window, hop, levels: of the mel view: bands, samples of a spectrum and between two, levels.

        Raises:
            ValueError: nothing there, damaged, cut short, silent, mixed, or too long; the message says which.
        """
        if view not in VIEWS:
            raise ValueError(f"view is {view!r}; expected one of {', '.join(VIEWS)}.")
        if length is not None and length < 2:
            raise ValueError(f"length is {length}; expected 2 samples or more.")
        sounds, notes = _sounds_of(source, rate, bits, mono)
        width, own = sounds[0].bits, sounds[0].rate
        longest = max(len(s.x) for s in sounds)
        if length is None and longest > LONGEST:
            raise ValueError(f"a sound has {longest} samples; say length= to cut it into windows.")
        seen = f"{len(sounds)} sounds of {own} Hz, {width} bits, {longest / own:.2f} s at most"
        meta: dict[str, Any] = {"view": view, "rate": own, "bits": width}
        whole = length or longest
        if view == "mel":
            x, observed, space = _pictures(sounds, whole, Mel(own, mels, window, hop, levels), meta)
            owner = list(range(len(sounds)))
            notes += [f"{sum(len(s.x) > whole for s in sounds)} are cut after {whole} samples"] if length else []
            notes += ["a shorter sound is followed by silence"]
        else:
            x, observed, owner = _windows(sounds, whole)
            space = _space(x, observed, meta)
            x = torch.from_numpy(companded(x, width)) if view == "mu-law" else torch.from_numpy(x + 2 ** (width - 1))
        values, spaces = _labels(sounds, owner, names, given)
        many = len(owner) > len(sounds)
        start = torch.arange(len(owner)) * whole if many and len(sounds) == 1 else None
        notes += [f"{len(owner)} windows of {whole} samples; the first samples of a window have no context"] * many
        mask = None if observed is None or observed.all() else torch.from_numpy(observed)
        return Raw(x, space, values, spaces, mask, (seen, *notes), start)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        many = _known(rows, space)
        if space.meta["view"] == "mel":
            mel = _mel(space)
            whole = space.meta["length"]
            x = np.stack([mel.levels_of(_shares(s.x, s.bits, whole))[..., None] for s in many])
            return torch.from_numpy(x), torch.ones(x.shape, dtype=torch.bool)
        length = space.shape[0]
        long = next((k for k, s in enumerate(many) if len(s.x) > length), None)
        if long is not None:
            raise ValueError(
                f"sound {long} has {len(many[long].x)} samples; the model knows {length} at most: cut it into windows."
            )
        samples, observed, _ = _windows(many, length)
        return torch.from_numpy(self._codes(samples, space)), torch.from_numpy(observed)

    def past(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        """Sounds as the beginnings of longer ones: what comes after them is missing."""
        if space.meta["view"] == "mel":
            raise ValueError("the mel view has no samples to go on with; take view='wave' or 'mu-law'.")
        return self.encode(rows, space)

    def rows(self, source: Any, space: Space) -> Rows:
        """The sounds of files, cut as the model takes them."""
        sounds, _ = read_sounds(Path(source), space.meta["rate"], space.meta["bits"], False)
        if space.meta["view"] == "mel":
            return [s.x for s in sounds]
        n = space.shape[0]
        return [s.x[at : at + n] for s in sounds for at in range(0, len(s.x), n)]

    def restore(self, x: Tensor, space: Space) -> Rows:
        values = x.detach().cpu().numpy()
        if space.meta["view"] == "mel":
            return [_whole(_ended(_mel(space), v[..., 0]), space.meta["bits"]) for v in values.astype(np.uint8)]
        return list(self._samples(values, space))

    def complete(self, rows: Any, x: Tensor, observed: Tensor, space: Space) -> Rows:
        many, seen = _known(rows, space), observed.cpu().numpy()
        if space.meta["view"] == "mel":
            return [
                _filled(s, v[..., 0].astype(np.uint8), o, space)
                for s, v, o in zip(many, x.detach().cpu().numpy(), seen, strict=True)
            ]
        drawn, out = self._samples(x.detach().cpu().numpy(), space), []
        for s, own, known in zip(many, drawn, seen, strict=True):
            own[: len(s.x)] = np.where(known[: len(s.x)], s.x, own[: len(s.x)])
            # a gap inside a sound leaves its end where it was; a sound without gaps goes on
            out.append(own if known[: len(s.x)].all() else own[: len(s.x)])
        return out

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        """The first sounds: waves one below the other, or spectra from low (below) to high."""
        values = x.detach().cpu().numpy()[:16]
        axes.set_axis_off()
        if space.meta["view"] == "mel":
            columns = max(1, int(np.ceil(np.sqrt(len(values)))))
            height, wide = 1 / -(-len(values) // columns), 1 / columns
            for k, picture in enumerate(values):
                place = ((k % columns) * wide, 1 - (k // columns + 1) * height, 0.96 * wide, 0.94 * height)
                small = axes.inset_axes(place)
                small.imshow(
                    picture[..., 0].T, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=_mel(space).levels - 1
                )
                small.set_axis_off()
            return
        samples = self._samples(values[:8], space) / 2.0 ** (space.meta["bits"] - 1)
        top = max(float(np.abs(samples).max()), 1e-9)
        time = np.arange(samples.shape[1]) / space.meta["rate"]
        for k, wave in enumerate(samples):
            axes.plot(time, wave / top / 2 - k, lw=0.4)

    def write(self, rows: Any, path: str | Path, space: Space) -> list[Path]:
        """Sounds as WAV or FLAC: one to `path`, several to path-0, path-1, ..., or into a folder. Gives their paths."""
        many = _known(rows, space)
        found = numbered(path, len(many), self.endings)
        for sound, where in zip(many, found, strict=True):
            write_sound(where, sound.x, space.meta["rate"], space.meta["bits"])
        return found

    def _codes(self, samples: np.ndarray, space: Space) -> np.ndarray:
        bits = space.meta["bits"]
        return companded(samples, bits) if space.meta["view"] == "mu-law" else samples + 2 ** (bits - 1)

    def _samples(self, codes: np.ndarray, space: Space) -> np.ndarray:
        bits = space.meta["bits"]
        if space.meta["view"] == "mu-law":
            return expanded(codes, bits)
        return (codes.astype(np.int64) - 2 ** (bits - 1)).astype(np.int32)


def _is_samples(source: object) -> bool:
    return isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype in (np.int16, np.int32)


def _sounds_of(source: Any, rate: int | None, bits: int | None, mono: bool) -> tuple[list[Sound], list[str]]:
    if isinstance(source, (str, Path)):
        return read_sounds(Path(source), rate, bits, mono)
    many = [source] if isinstance(source, Sound) else list(source)
    if any(not isinstance(s, Sound) for s in many) and rate is None:
        raise ValueError("arrays do not say their rate; say rate=, samples a second.")
    sounds = [s if isinstance(s, Sound) else _of_array(s, rate or 0, bits, f"sound {k}") for k, s in enumerate(many)]
    if not any(s.x.any() for s in sounds):
        raise ValueError(f"{len(sounds)} sound(s), and all of them silent: there is nothing to learn.")
    return alike(sounds, rate), []


def _of_array(x: Any, rate: int, bits: int | None, where: str) -> Sound:
    x = np.asarray(x)
    if x.ndim != 1 or x.dtype.kind not in "iu" or not len(x):
        raise ValueError(f"{where} has dtype {x.dtype} and shape {x.shape}; expected whole samples (T,), at least one.")
    own = bits or (16 if x.dtype == np.int16 else 24 if max(-int(x.min()), int(x.max())) >= 2**15 else 16)
    top = 2 ** (own - 1)
    if x.min() < -top or x.max() >= top:
        raise ValueError(f"{where} has samples {x.min()} .. {x.max()}; expected {own} bits, {-top} .. {top - 1}.")
    return Sound(x.astype(np.int32), rate, own)


def _known(rows: Any, space: Space) -> list[Sound]:
    """The user's sounds, as the model knows them.

    Raises:
        ValueError: of another rate or width, or no sounds.
    """
    rate, bits = space.meta["rate"], space.meta["bits"]
    single = isinstance(rows, Sound) or (isinstance(rows, np.ndarray) and rows.ndim == 1)
    many = [rows] if single else list(rows)
    sounds = [s if isinstance(s, Sound) else _of_array(s, rate, bits, f"sound {k}") for k, s in enumerate(many)]
    for k, s in enumerate(sounds):
        if s.bits != bits:
            raise ValueError(f"sound {k} has {s.bits} bits; the model knows {bits}.")
        if s.rate != rate:
            raise ValueError(f"sound {k} has {s.rate} Hz; the model knows {rate}: resample it.")
    return sounds


def _windows(sounds: Sequence[Sound], length: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Windows (N, length) int32, which samples are there, and the sound of each."""
    owner = [k for k, s in enumerate(sounds) for _ in range(max(1, -(-len(s.x) // length)))]
    x, observed, row = np.zeros((len(owner), length), np.int32), np.zeros((len(owner), length), bool), 0
    for s in sounds:
        for at in range(0, max(1, len(s.x)), length):
            part = s.x[at : at + length]
            x[row, : len(part)], observed[row, : len(part)] = part, True
            row += 1
    return x, observed, owner


def _space(x: np.ndarray, observed: np.ndarray, meta: dict[str, Any]) -> Space:
    bits = meta["bits"]
    if meta["view"] == "mu-law":
        codes = companded(x, bits)[observed].astype(np.float64)
        v = Variable("sample", "ordinal", 256, mean=float(codes.mean()), scale=max(float(codes.std()), 0.25))
        return Space((x.shape[1],), (v,), "sequence", "audio", "uint8", meta)
    scale = max(float(x[observed].astype(np.float64).std()), 0.25)
    v = Variable("sample", "ordinal", 2**bits, mean=float(2 ** (bits - 1)), scale=scale)
    # a body for waves: linear prediction that adapts (nn/adaptive.py)
    body = {"body": "adaptive"} if bits > 8 else {}
    return Space((x.shape[1],), (v,), "sequence", "audio", "int32", meta | body)


def _pictures(
    sounds: Sequence[Sound], length: int, mel: Mel, meta: dict[str, Any]
) -> tuple[Tensor, np.ndarray | None, Space]:
    if not (2 <= mel.levels <= 256 and mel.mels >= 2 and 1 <= mel.hop <= mel.window):
        raise ValueError(
            f"mel view: got mels={mel.mels}, window={mel.window}, hop={mel.hop}, levels={mel.levels}; expected at "
            "least 2 bands, a hop of at most a window, and 2 to 256 levels."
        )
    x = np.stack([mel.levels_of(_shares(s.x, s.bits, length))[..., None] for s in sounds])
    v = Variable("level", "ordinal", mel.levels, mean=float(x.mean()), scale=max(float(x.std()), 0.25))
    form = {"length": length, "window": mel.window, "hop": mel.hop, "white": mel.levels - 1}
    return torch.from_numpy(x), None, Space(x.shape[1:], (v,), "grid", "audio", "uint8", meta | form)


def _mel(space: Space) -> Mel:
    meta = space.meta
    return Mel(meta["rate"], space.shape[1], meta["window"], meta["hop"], space.variables[0].levels)


def _shares(x: np.ndarray, bits: int, length: int) -> np.ndarray:
    """Samples in -1 .. 1, cut or followed by silence."""
    out = np.zeros(length)
    out[: min(length, len(x))] = x[:length] / 2.0 ** (bits - 1)
    return out


def _whole(x: np.ndarray, bits: int) -> np.ndarray:
    top = 2 ** (bits - 1)
    return np.clip(np.round(x * top), -top, top - 1).astype(np.int32)


def _ended(mel: Mel, levels: np.ndarray) -> np.ndarray:
    """The sound of levels (F, M), without the silence after it."""
    sounds = np.flatnonzero(levels.max(1) > 0)
    end = (int(sounds[-1]) + 1) * mel.hop if len(sounds) else mel.hop
    return mel.sound(levels)[:end]


def _filled(sound: Sound, levels: np.ndarray, observed: np.ndarray, space: Space) -> np.ndarray:
    """The sound with the samples of the spectra that were missing made anew; all others stay as they are."""
    mel = _mel(space)
    lost = np.asarray(~observed[..., 0].all(1))
    if not lost.any():
        return sound.x
    n = min(len(sound.x), space.meta["length"])
    frame = np.clip(np.round(np.arange(n) / mel.hop).astype(int), 0, len(lost) - 1)
    known = ~lost[frame]
    made = mel.filled(_shares(sound.x, sound.bits, n), known, levels)
    out = sound.x.copy()
    out[:n][~known] = _whole(made, sound.bits)[~known]
    return out


def _labels(
    sounds: Sequence[Sound], owner: list[int], names: str | None, given: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Space]]:
    """What file names and folders say of each window."""
    words: dict[str, list[str]] = {}
    if names is not None:
        parts = names.split("_")
        wrong = next((s.name for s in sounds if len(s.name.split("_")) != len(parts)), None)
        if wrong is not None:
            raise ValueError(f"names={names!r} has {len(parts)} parts; the file {wrong!r} has {len(wrong.split('_'))}.")
        words = {p: [s.name.split("_")[k] for s in sounds] for k, p in enumerate(parts)}
    if len({s.folder for s in sounds}) > 1:
        words.setdefault("label", [s.folder for s in sounds])
    lacking = [g for g in given if g not in words]
    if lacking:
        raise ValueError(
            f"given {lacking}: these sounds have {sorted(words) or 'none'}; names= says what file names are."
        )
    values, spaces = {}, {}
    for name, own in words.items():
        kept, codes = np.unique([own[k] for k in owner], return_inverse=True)
        if len(kept) > 1 or name in given:
            spaces[name] = category(len(kept), name, tuple(str(w) for w in kept))
            values[name] = torch.from_numpy(codes.astype(np.int64))
    return values, spaces
