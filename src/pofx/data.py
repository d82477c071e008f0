"""Data: x with its Space, what it is given, which entries are observed, and the split.

    open_data("digits" | path | array | frame)  ->  Data

A dataset directory can be named by the environment variable POFX_DATA: a relative path that does not exist here is
looked up there. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds import KINDS
from pofx.kinds._manifest import is_manifest, read_manifest
from pofx.kinds.base import Kind, Raw, Space, Variable


@dataclass(frozen=True)
class Batch:
    """Some rows: x `(B, *event)`, given name -> `(B, *given_event)`, observed `(B, *event)` or None for all observed.

    `index` `(B,)` numbers the rows within the training part, for a family that keeps something for each row.
    """

    x: Tensor
    given: dict[str, Tensor] = field(default_factory=dict)
    observed: Tensor | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Batch:
        """The same rows on another device."""
        observed, index = (None if t is None else t.to(device) for t in (self.observed, self.index))
        return Batch(self.x.to(device), {k: v.to(device) for k, v in self.given.items()}, observed, index)

    def take(self, rows: Tensor) -> Batch:
        """Some of the rows."""
        observed, index = (None if t is None else t[rows] for t in (self.observed, self.index))
        return Batch(self.x[rows], {k: v[rows] for k, v in self.given.items()}, observed, index)


@dataclass(frozen=True)
class Data:
    """All rows of a data set, with their Space and their split.

    Args:
        x: `(N, *event)` in the data's own coordinates.
        space: what one x is.
        given: name -> `(N, *given_event)`.
        given_spaces: name -> Space.
        observed: `(N, *event)` bool; None where everything is observed.
        split: part -> row numbers; train, valid and test are disjoint.
        name: what the data is called in reports.
        notes: what reading it decided (types, resolutions, treatments), one line each.
        aside: name -> (values, Space): known about each row, such as a label, but not given to the model.
        paired: whether row i of a given belongs to row i of x; False: two sets of rows that only share their numbers,
            which a fit takes in two orders.
    """

    x: Tensor
    space: Space
    given: dict[str, Tensor] = field(default_factory=dict)
    given_spaces: dict[str, Space] = field(default_factory=dict)
    observed: Tensor | None = None
    split: dict[str, Tensor] = field(default_factory=dict)
    name: str = "data"
    notes: tuple[str, ...] = ()
    aside: dict[str, tuple[Tensor, Space]] = field(default_factory=dict)
    paired: bool = True

    def __len__(self) -> int:
        return len(self.x)

    @property
    def kind(self) -> Kind:
        """The kind that reads, restores and draws these rows."""
        return KINDS[self.space.kind]

    @property
    def complete(self) -> bool:
        """Whether every entry is observed."""
        return self.observed is None or bool(self.observed.all())

    def part(self, name: str) -> Batch:
        """The rows of one part: "train", "valid" or "test"."""
        if name not in self.split:
            raise ValueError(f"Data {self.name!r} has no part {name!r}; it has {sorted(self.split)}.")
        return self.rows.take(self.split[name])

    @property
    def rows(self) -> Batch:
        """All rows as one batch."""
        return Batch(self.x, self.given, self.observed)

    def splitted(self, test: int | float = 0.15, valid: int | float = 0.1, seed: int = 0) -> Data:
        """The same rows with a fresh random split.

        Args:
            test, valid: a number of rows (int) or a share of all rows (float).
            seed: of the random order.
        """
        n = len(self)
        counts = [c if isinstance(c, int) else max(round(c * n), int(c > 0)) for c in (test, valid)]
        if min(counts) < 0 or sum(counts) >= n:
            raise ValueError(f"Split of {n} rows: test {test} and valid {valid} leave no row to train on.")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
        ends = [counts[0], sum(counts)]
        split = {"test": order[: ends[0]], "valid": order[ends[0] : ends[1]], "train": order[ends[1] :]}
        return replace(self, split={k: v.sort().values for k, v in split.items()})

    def in_order(
        self, start: Tensor, length: int, test: int | float = 0.15, valid: int | float = 0.1, purge: bool = True
    ) -> Data:
        """The same rows split in the order of a stream: first those to train on, then validation, then test.

        Args:
            start: where each row's window begins, `(N,)`.
            length: of a window.
            test, valid: a number of rows (int) or a share of all rows (float).
            purge: windows that reach into the next part are in neither, so that no part has seen another's entries.
        """
        n, order = len(self), start.argsort(stable=True)
        counts = [c if isinstance(c, int) else max(round(c * n), int(c > 0)) for c in (test, valid)]
        if min(counts) < 0 or sum(counts) >= n:
            raise ValueError(f"Split of {n} rows: test {test} and valid {valid} leave no row to train on.")
        ends = {"train": n - sum(counts), "valid": n - counts[0], "test": n}
        split, first = {}, 0
        for name, end in ends.items():
            rows = order[first:end]
            if purge and end < n:
                rows = rows[start[rows] + length <= start[order[end]]]
            split[name], first = rows.sort().values, end
        if not len(split["train"]):
            raise ValueError(
                f"{n} windows of {length}: they all overlap, so none is left to train on; say a shorter one."
            )
        return replace(self, split=split)

    def with_given(self, given: Mapping[str, tuple[Tensor, Space]]) -> Data:
        """The same rows, given what the mapping holds: name -> (values `(N, ...)`, their Space)."""
        for name, (values, _) in given.items():
            if len(values) != len(self):
                raise ValueError(f"given {name!r}: got {len(values)} rows, expected {len(self)} (one for every x).")
        return replace(
            self,
            given={**self.given, **{k: v for k, (v, _) in given.items()}},
            given_spaces={**self.given_spaces, **{k: s for k, (_, s) in given.items()}},
        )

    def without_given(self) -> Data:
        """The same rows, given nothing."""
        return replace(self, given={}, given_spaces={})

    def restore(self, x: Tensor) -> Any:
        """x as the user's own type."""
        return self.kind.restore(x, self.space)

    def fingerprint(self) -> str:
        """A short hash of the rows, their Space and their split."""
        digest = hashlib.sha256(json.dumps(self.space.to_json(), sort_keys=True, default=str).encode())
        tensors = [self.x, *self.given.values(), *([] if self.observed is None else [self.observed])]
        for tensor in [*tensors, *(self.split[k] for k in sorted(self.split))]:
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update(b"" if self.paired else b"unpaired")
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file that `Data.load` reads."""
        from safetensors.torch import save_file

        tensors = {"x": self.x, **{f"given.{k}": v for k, v in self.given.items()}}
        tensors |= {f"split.{k}": v for k, v in self.split.items()}
        tensors |= {f"aside.{k}": v for k, (v, _) in self.aside.items()}
        if self.observed is not None:
            tensors["observed"] = self.observed
        spaces = {k: s.to_json() for k, s in self.given_spaces.items()}
        words: dict[str, Any] = {"space": self.space.to_json(), "given": spaces, "paired": self.paired}
        words |= {"name": self.name, "notes": list(self.notes)}
        words["aside"] = {k: s.to_json() for k, (_, s) in self.aside.items()}
        # cloned, since a given may share its memory with what is known aside
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path, {"data": json.dumps(words)})

    @classmethod
    def load(cls, path: str | Path) -> Data:
        """Read a file written by `save`."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            words = json.loads(file.metadata()["data"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
        return cls(
            tensors["x"],
            Space.from_json(words["space"]),
            {k[6:]: v for k, v in tensors.items() if k.startswith("given.")},
            {k: Space.from_json(s) for k, s in words["given"].items()},
            tensors.get("observed"),
            {k[6:]: v for k, v in tensors.items() if k.startswith("split.")},
            words["name"],
            tuple(words["notes"]),
            {k: (tensors[f"aside.{k}"], Space.from_json(s)) for k, s in words["aside"].items()},
            words.get("paired", True),
        )


def open_data(
    source: Any,
    *,
    kind: str | None = None,
    given: Any = None,
    test: int | float | None = None,
    valid: int | float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    paired: bool = True,
) -> Data:
    """Read data of any kind, whatever form it has.

    Args:
        source: a bundled name ("digits"), a path (picture folder, idx, npz, CSV, Parquet), an array, a frame, or Data;
            pairs are a CSV with a column of files, or a mapping name -> folder of files with equal names.
        kind: the kind's name, where the source could be read in several ways.
        given: what x is given: column names of a frame, "label", or a mapping name -> array, or Data of any kind, with
            one row for every x.
        test, valid: rows (int) or share (float) held out; test defaults to a sixth.
        seed: of the split.
        limit: keep at most this many rows, chosen at random by the seed.
        options: options of the kind's `read`, such as `types={"age": "real"}` for a table.
        paired: False: the rows of `given` belong to no row of x; there may be more of them, of which some are taken.

    Raises:
        ValueError: nothing there can be read; the message says what was found and what would be understood.
    """
    if not paired:
        data = open_data(source, kind=kind, test=test, valid=valid, seed=seed, limit=limit, options=options)
        return _unpaired(data, given, seed)
    if isinstance(source, Data):
        return source if given is None else _with_given(source, given)
    names = () if given is None or isinstance(given, Mapping) else (given,) if isinstance(given, str) else tuple(given)
    raw, name = _read(source, kind, names, dict(options or {}))
    if len(raw.x) < 3:
        raise ValueError(f"{name}: got {len(raw.x)} row(s); at least 3 are needed to train, validate and test.")
    aside = {k: (v, raw.given_spaces[k]) for k, v in raw.given.items()}
    data = Data(raw.x, raw.space, observed=raw.observed, name=name, notes=raw.notes, aside=aside)
    data = data if given is None else _with_given(data, given)
    keep = None if limit is None or limit >= len(data) else _chosen(len(data), limit, seed)
    data = data if keep is None else _limited(data, keep)
    test = 1 / 6 if test is None else test
    if raw.start is None:
        return data.splitted(test, valid, seed)
    return data.in_order(raw.start if keep is None else raw.start[keep], raw.space.shape[0], test, valid)


def _read(source: Any, kind: str | None, given: tuple[str, ...], options: dict[str, Any]) -> tuple[Raw, str]:
    from pofx.kinds.bundled import BUNDLED

    if isinstance(source, str) and source in BUNDLED:
        return BUNDLED[source](given=given, **options), source
    name = "data"
    if isinstance(source, (str, Path)):
        source = find(source)
        name = source.stem.split(".")[0]
    pairs = kind == "manifest" or (kind is None and isinstance(source, Path) and is_manifest(source))
    if pairs or (isinstance(source, Mapping) and all(isinstance(v, (str, Path)) for v in source.values())):
        folders = {k: find(v) for k, v in source.items()} if isinstance(source, Mapping) else source
        return read_manifest(folders, KINDS, options), name
    if kind and kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; expected one of {list(KINDS)}.")
    for candidate in [KINDS[kind]] if kind else reversed(KINDS.values()):
        if kind or candidate.reads(source):
            _check_options(candidate, options)
            return candidate.read(source, given=given, **options), name
    raise ValueError(
        f"open_data: nothing understands {source if isinstance(source, Path) else type(source).__name__}; expected "
        f"a bundled name ({', '.join(BUNDLED)}), an array, a DataFrame, texts, or a path to a CSV, Parquet, npy, npz, "
        "idx, text, .ts, sound (WAV, FLAC), score (MIDI, ABC), film (GIF, MP4) or mesh (OFF, OBJ, PLY) file, or a "
        "folder of pictures or of any of these."
    )


def _check_options(kind: Kind, options: dict[str, Any]) -> None:
    known = [k for k in inspect.signature(kind.read).parameters if k not in ("source", "given")]
    unknown = [k for k in options if k not in known]
    if unknown:
        raise ValueError(f"options {unknown}: the kind {kind.name!r} takes {known or 'no options'}.")


def find(path: str | Path) -> Path:
    """The path itself, or the same path below the directory named by POFX_DATA.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    path = Path(path).expanduser()
    home = os.environ.get("POFX_DATA")
    for candidate in [path, *([Path(home) / path] if home else [])]:
        if candidate.exists():
            return candidate
    where = f" nor in {home}" if home else "; set POFX_DATA to look in a directory of data sets"
    raise FileNotFoundError(f"{path} is neither a bundled data set nor a file or folder here{where}.")


def given_of(name: str, values: Any) -> tuple[Tensor, Space]:
    """A user's array of givens as a tensor with a Space.

    One whole number or word a row is a category; bytes (N, H, W) or (N, ..., H, W, C) are pictures; the rest is real.
    Data of any kind is itself: texts, for one, are `open_data(captions, kind="text")`.

    Raises:
        ValueError: NaN or infinite numbers; texts of which most stand in one row only, for they tell no class.
    """
    if isinstance(values, Data):
        return values.x, values.space
    array = np.asarray(values)
    if array.dtype == np.uint8 and array.ndim == 3:
        array = array[..., None]
    if array.dtype.kind in "iubOSU" and array.ndim == 1:
        words, codes = np.unique(array.astype(str) if array.dtype.kind in "OSU" else array, return_inverse=True)
        if array.dtype.kind in "OSU" and len(words) > max(20, len(array) / 2):
            raise ValueError(
                f"given {name!r}: {len(words)} different texts in {len(array)} rows, each a category of its own; for "
                f'texts that are read letter by letter pass pofx.open_data(texts, kind="text").'
            )
        kept = tuple(w.item() for w in words)
        support = "binary" if len(words) == 2 else "category"
        variable = Variable(name, support, len(words), kept)
        return torch.from_numpy(codes.astype(np.int64)), Space((), (variable,), dtype="int64")
    x = torch.from_numpy(array.astype(np.float64))
    if not torch.isfinite(x).all():
        raise ValueError(f"given {name!r} holds NaN or inf; expected finite numbers (drop or fill those rows).")
    mean, scale = float(x.mean()), float(x.std()) or 1.0
    variable = Variable(name, mean=mean, scale=scale)
    return x, Space(tuple(x.shape[1:]), (variable,), "grid" if x.ndim >= 4 else "vector")


def _with_given(data: Data, given: Any) -> Data:
    if isinstance(given, Mapping):
        return data.with_given({k: given_of(k, v) for k, v in given.items()})
    names = [given] if isinstance(given, str) else list(given)
    missing = [n for n in names if n not in data.aside]
    if missing:
        raise ValueError(f"given {missing}: {data.name!r} has no such given; it has {sorted(data.aside) or 'none'}.")
    return data.with_given({k: data.aside[k] for k in names})


def _unpaired(data: Data, given: Any, seed: int) -> Data:
    if not isinstance(given, Mapping):
        raise ValueError(f"unpaired data is given rows of its own, name -> rows; got {given!r}.")  # noqa: TRY004 (words)
    values = {name: given_of(name, rows) for name, rows in given.items()}
    short = [f"{name} ({len(v)})" for name, (v, _) in values.items() if len(v) < len(data)]
    if short:
        raise ValueError(f"unpaired: {', '.join(short)} has fewer rows than x ({len(data)}); take fewer x by limit=.")
    kept = {name: (v[_chosen(len(v), len(data), seed)], space) for name, (v, space) in values.items()}
    return replace(data.with_given(kept), paired=False)


def _chosen(rows: int, limit: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(rows)[:limit]).sort().values


def _limited(data: Data, keep: Tensor) -> Data:
    rows = data.rows.take(keep)
    aside = {k: (v[keep], space) for k, (v, space) in data.aside.items()}
    return replace(data, x=rows.x, given=rows.given, observed=rows.observed, aside=aside)
