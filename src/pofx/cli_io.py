"""What the commands read and write: rows from names and files, answers into files, text or one JSON object."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

TABLE = (".csv",)  # of one answer a row
FIGURES = (".png", ".svg", ".pdf", ".jpg")  # that are drawn
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # that are made


def opened(
    data: str,
    given: list[str] | None,
    seed: int,
    test: int | None = None,
    kind: str | None = None,
    reading: list[str] | None = None,
) -> Any:
    """Data from a bundled name, a file or a folder."""
    from pofx.data import open_data

    options = pairs(reading)
    try:
        return open_data(data, given=given or None, seed=seed, test=test, kind=kind, options=options)
    except TypeError as error:  # of an option that is a word and should be a number, or that bundled data lacks
        if not options:
            raise
        raise ValueError(f"--option {' '.join(reading or ())}: {data} cannot be read so ({error}).") from error


def notes(source: Any) -> None:
    """Say what reading the data decided."""
    print(f"{source.name}: {len(source)} rows of shape {source.space.shape}", file=sys.stderr)
    for note in source.notes[:40]:
        print(f"  {note}", file=sys.stderr)


def free(folder: Path) -> Path:
    """The folder, or the same with a number where it exists."""
    free, k = folder, 2
    while free.exists():
        free, k = folder.with_name(f"{folder.name}-{k}"), k + 1
    return free


def load(run: Path, add: list[str] | None) -> Any:
    """A fitted model, with the user's own families at hand."""
    from pofx.families import family
    from pofx.training.folder import load

    return load(run, [family(a) for a in add or ()])


def rows(model: Any, data: str) -> Any:
    """Rows to ask about, as a user would hold them, from a bundled name, a file or a folder."""
    from pofx.data import find
    from pofx.kinds import KINDS
    from pofx.kinds.bundled import BUNDLED

    if data in BUNDLED:  # through the user's own type, so that rows of another shape or other columns are refused
        raw = BUNDLED[data]()
        return KINDS[raw.space.kind].restore(raw.x, raw.space)
    if model.space.kind == "table":
        return frame(data)
    return KINDS[model.space.kind].rows(find(data), model.space)


def other_side(model: Any, source: Any, strength: float | None, data: str, given: list[str] | None) -> Any:
    """Rows to translate: of the source's kind, of the model's own, or of the kind that it was given."""
    from pofx.data import find
    from pofx.kinds import KINDS
    from pofx.kinds._arrays import is_arrays, load_arrays, main_array

    if source is not None or strength is not None:
        return rows(source or model, data)
    names = [name for name in model.given if name not in pairs(given)]
    if len(names) != 1:
        raise ValueError(
            f"translate: the model is given {sorted(model.given) or 'nothing'}; expected --source, --strength, or a "
            "model that is given the rows alone (--given name=value says the others)."
        )
    path, space = find(data), model.given[names[0]]
    plain = space.kind == "array" and is_arrays(path)  # of any shape
    return main_array(load_arrays(path)) if plain else KINDS[space.kind].rows(path, space)


def held(source: str) -> Any:
    """Rows of a file, a folder or a bundled name as the user's own type, without a model."""
    from pofx.data import open_data

    data = open_data(source, test=0, valid=0)
    return frame(source) if data.space.kind == "table" and Path(source).exists() else data.restore(data.x)


def gaps(model: Any, data: str) -> Any:
    """Rows with gaps: the cells of a table can be blank, the pixels of a picture in a file cannot (--mask says)."""
    if model.space.kind not in ("table", "series", "text"):
        raise ValueError(
            f"this model knows the kind {model.space.kind!r}, whose files cannot say what is missing; expected --mask "
            "FILE, of what is known."
        )
    return rows(model, data)


def frame(data: str) -> Any:
    """A table as a DataFrame; a column of whole numbers stays one where it has gaps."""
    from pofx.data import find
    from pofx.kinds.table import read_frame, whole_numbers

    return whole_numbers(read_frame(find(data))[0])


def values(given: list[str] | None, data: str | None = None) -> dict[str, Any] | None:
    """Givens at asking time: name=value, or the name of a column of the rows that are asked about."""
    plain = [g for g in given or () if "=" in g or data is None]
    found = pairs(plain)
    for name in (g for g in given or () if g not in plain):
        table = frame(str(data))
        if name not in table:
            raise ValueError(
                f"--given {name}: {data} has the columns {list(table)}; expected one of them, or {name}=value."
            )
        found[name] = table[name].to_numpy()
    return found or None


def pairs(options: list[str] | None) -> dict[str, Any]:
    """name=value options; values are JSON where they can be."""
    found: dict[str, Any] = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"got {option!r}; expected name=value.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def words(answer: Any, values: Any) -> dict[str, Any]:
    """An answer's numbers as JSON types."""
    mean = float(values.mean())
    words = {"rows": len(values), "mean": mean, "unit": answer.unit, "quality": answer.quality.value}
    return words | {"route": answer.route, "values": [float(v) for v in values]}


def plain(value: Any) -> Any:
    """An answer's value as JSON types."""
    import numpy as np

    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "to_dict"):
        return value.to_dict(orient="list")
    return [plain(v) for v in value] if isinstance(value, list) else np.asarray(value).tolist()


def columns(out: Path | None, named: dict[str, Any]) -> None:
    """Write what was answered of each row as CSV; what is None was not."""
    if out is not None:
        import pandas as pd

        pd.DataFrame({name: v for name, v in named.items() if v is not None}).to_csv(place(out), index=False)


def labelled(model: Any, source: str, name: str | None) -> Any:
    """Rows with their class, all of them to calibrate with: a table's column, or the label that the data brings."""
    from dataclasses import replace

    import torch

    from pofx.data import open_data

    data = open_data(source, given=[name] if name else list(model.given)[:1], test=0, valid=0)
    none = torch.arange(0)
    return replace(data, split={"train": none, "valid": torch.arange(len(data)), "test": none})


def classed(model: Any, source: str, by: str | None) -> Any:
    """Rows with their class: a table as a frame; of other kinds Data given the class, all of it in both parts."""
    from dataclasses import replace

    import torch

    if model.space.kind == "table":
        return frame(source)
    if by is None:
        return rows(model, source)
    from pofx.data import open_data

    data = open_data(source, given=[by], test=0, valid=0)
    every = torch.arange(len(data))
    return replace(data, split={"train": every, "valid": every[:0], "test": every})


def enlarged(answer: Any, out: Path, model: Any) -> None:
    """Write what augment gives: a table with its mark, else an .npz of x, y and drawn (y where there is a class)."""
    import numpy as np

    if not hasattr(answer.value, "given"):
        write(answer.value, out, model.space)
        return
    x, facts = answer.value.x.numpy(), answer.diagnostics
    np.savez(place(out), x=x, y=np.asarray(facts["labels"]), drawn=facts["drawn"])


def deliver(model: Any, answer: Any, out: Path | None, json_: bool) -> None:
    """Write drawn rows, or show them."""
    files = [] if out is None else [str(p) for p in write(answer.value, out, model.space)]
    shape = list(answer.raw.shape)
    words = {"shape": shape, "quality": answer.quality.value, "route": answer.route, "file": str(out) if out else None}
    if len(files) > 1:
        words["files"] = files
    if out is None and answer.raw.numel() <= 100_000:
        words["x"] = plain(answer.value)
    text = f"wrote {shape[0]} draws to {', '.join(files[:2])}{' ...' if len(files) > 2 else ''}"
    tell(json_, words, text if out else str(answer.value))


def ready(out: Path | None, endings: tuple[str, ...] = (), option: str = "--out", *, folder: bool = False) -> None:
    """Raise ValueError where no file of this name can be written: before what it shall hold is made."""
    if out is None:
        return
    if endings and out.suffix.lower() not in endings:
        raise ValueError(f"{option} {out}: expected a name that ends in {', '.join(endings)}.")
    if out.is_dir() and (out.suffix or not folder):
        raise ValueError(f"{option} {out}: this is a folder; expected the name of a file.")
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{option} {out}: {above} is no folder that can be written to; give another place.")


def place(out: Path) -> Path:
    """Where to write: the same path, in a folder that exists."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def fits(out: Path | None, space: Any, option: str = "--out") -> None:
    """Raise ValueError where rows of a Space are not written as such a file: before they are made."""
    from pofx.kinds import KINDS

    ready(out, option=option, folder=True)
    kind = KINDS[space.kind]
    numbers = (".csv",) if kind.layout == "grid" else ()  # without names, a row in each line
    endings = dict.fromkeys((*kind.endings, *numbers, ".npy", ".png"))
    if out is None or out.suffix.lower() in endings or not (out.suffix or kind.together):
        return
    folder = "" if kind.together else ", or a name without an ending: a folder"
    raise ValueError(f"{option} {out}: rows of the kind {kind.name!r} are written as {', '.join(endings)}{folder}.")


def write(value: Any, out: Path, space: Any) -> list[Path]:
    """Write rows as what the file's name asks for: the kind's own files, an array, or a drawing; gives their paths."""
    import numpy as np

    from pofx.kinds import KINDS

    suffix, kind = out.suffix.lower(), KINDS[space.kind]
    if suffix in (".csv", ".parquet") and hasattr(value, "to_csv"):
        place(out)
        value.to_csv(out, index=False) if suffix == ".csv" else value.to_parquet(out)
        return [out]
    fits(out, space)
    place(out)
    if suffix == ".npy":
        np.save(out, _array(value, out))
    elif suffix == ".png" and not (kind.name == "image" and len(value) == 1):
        picture(value, out, space)
    elif suffix in kind.endings or not suffix:
        return kind.write(value, out, space)
    else:
        np.savetxt(out, np.asarray(value).reshape(len(value), -1), delimiter=",")
    return [out]


def _array(value: Any, out: Path) -> Any:
    """Rows as one array; rows of several lengths are none."""
    import numpy as np

    shapes = {np.shape(v) for v in value} if isinstance(value, list) else set()
    if len(shapes) > 1:
        raise ValueError(f"--out {out}: the rows have {len(shapes)} lengths, which one array cannot hold.")
    return np.asarray(value)


def past(model: Any, data: str) -> Any:
    """What a forecast goes on from: the series of a file; for text a file's text, or the words themselves."""
    from pofx.data import find
    from pofx.kinds import KINDS
    from pofx.kinds._texts import content

    if model.space.kind != "text":
        return KINDS[model.space.kind].rows(find(data), model.space)
    try:
        path = find(data)
    except (FileNotFoundError, OSError):  # a long prompt is no file's name
        return data
    return content(path, None if model.space.meta["type"] == "bytes" else "utf-8")


def windows(model: Any, source: str) -> Any:
    """The windows of a file as a model of series was fitted to them, all of them to calibrate with."""
    from dataclasses import replace

    import torch

    from pofx.data import Data, find
    from pofx.kinds import KINDS

    kind, space = KINDS[model.space.kind], model.space
    if space.kind != "series" or "before" in space.meta:
        raise ValueError("--calibration: takes a model of whole windows of series.")
    raw = kind.read(find(source), channels=space.meta["channels"], length=space.shape[0])  # type: ignore[call-arg]
    none = torch.arange(0)
    data = Data(raw.x, space, observed=raw.observed)
    return replace(data, split={"train": none, "valid": torch.arange(len(data)), "test": none})


def forecasts(model: Any, answer: Any) -> tuple[Any, Any]:
    """What is written of a forecast, and its Space: quantiles side by side of series, texts, else what was drawn."""
    from pofx.kinds import KINDS

    kind, space = KINDS[model.space.kind], model.space
    if kind.name == "series":
        return quantiles(answer), space
    if kind.name == "video":  # as many frames as were foretold, one clip a draw
        space = space.replace(shape=(answer.raw.shape[2], *space.shape[1:]))
        return kind.restore(answer.raw.flatten(0, 1), space), space
    if kind.name == "text":
        return answer.value, space
    return [row for draw in answer.value for row in draw], space


def continues(out: Path | None, space: Any) -> None:
    """Raise ValueError where a forecast is not written as such a file: one of series is a table of quantiles."""
    if space.kind == "series":
        ready(out, (".csv", ".parquet", ".npy"))
    fits(out, space)


def quantiles(answer: Any) -> Any:
    """The quantiles of a forecast side by side, one table for each series."""
    import pandas as pd

    levels, parts = answer.diagnostics["quantiles"], []
    for q, value in zip(levels, answer.value, strict=True):
        single = value if hasattr(value, "columns") else pd.DataFrame(value.reshape(-1, value.shape[-1]))
        parts.append(single.add_suffix(f" q{q:g}"))
    table = pd.concat(parts, axis=1)
    return table.rename_axis("time").reset_index()


def picture(value: Any, out: Path, space: Any) -> None:
    """Draw rows into a PNG file."""
    from pofx.drawing.rows import rows_figure
    from pofx.kinds import KINDS

    x, _ = KINDS[space.kind].encode(value, space)
    rows_figure(x, space).savefig(out, dpi=150)


def drawn(answer: Any, out: Path | None) -> None:
    """Draw an answer into a file, where one is named."""
    if out is not None:
        answer.figure().savefig(place(out), dpi=150)


def tell(json_: bool, words: dict[str, Any], text: str) -> None:
    """Print text, or one JSON object, in which a number that is none is null."""
    print(json.dumps(_finite(words), default=str, allow_nan=False) if json_ else text)


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    value = value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
