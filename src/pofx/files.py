"""Files: atomic writes, tensors with words in one safetensors file, lines of history. Never pickle.

A file is written to a temporary name in the same folder and renamed: a kill leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
TEMPORARY = ".pofx-"  # what a file is called until it is whole
CHECKPOINT, HISTORY, MODEL, WEIGHTS = "checkpoint.safetensors", "history.jsonl", "model.json", "weights.safetensors"


def why(error: OSError) -> str:
    """What the system said, in its words: "No space left on device"."""
    return error.strerror or str(error)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: no space, or no permission; one line says where.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {path}: {why(error)}; make room, or give another folder") from error


def sweep(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
    """Tensors and JSON words as one safetensors file, atomically."""
    from safetensors.torch import save

    separate = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomic(path, save(separate, {"pofx": json.dumps(words)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged, truncated or foreign.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            words = json.loads((file.metadata() or {})["pofx"])
            return {k: file.get_tensor(k) for k in file.keys()}, words  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; use an intact copy of its folder.") from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is damaged, truncated or not written by pofx ({error}); use an intact copy."
        ) from error


def append_history(folder: Path, line: Mapping[str, Any]) -> None:
    """Add one line to history.jsonl.

    Raises:
        OSError: no space, or no permission; one line says where.
    """
    path = folder / HISTORY
    try:
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {why(error)}; make room, or give another folder") from error


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of history.jsonl; a line cut off by a kill, and what follows, is dropped."""
    path = folder / HISTORY
    lines: list[dict[str, Any]] = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def rewrite_history(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Replace history.jsonl atomically."""
    write_atomic(folder / HISTORY, "".join(json.dumps(line) + "\n" for line in lines).encode())


def save_model(model: Any, folder: str | Path) -> None:
    """Write a fitted model as a folder; the weights first and model.json last, each atomically.

    Raises:
        ValueError: a hyper-parameter is not JSON. OSError: no space or no permission; the message says where.
    """
    folder = Path(folder)
    try:
        words = json.loads(json.dumps(describe(model)))
    except TypeError as error:
        raise ValueError(f"{model.name}: a hyper-parameter is not a number, word, list or None ({error}).") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the folder {folder}: {why(error)}; give another one") from error
    save_tensors(folder / WEIGHTS, model.state_dict(), {"family": model.name})
    words["weights"] = _digest((folder / WEIGHTS).read_bytes())
    words["checksum"] = _digest(_canonical(words))
    rewrite_history(folder, model.history)
    write_atomic(folder / MODEL, json.dumps(words, indent=1).encode())


def load_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The words of model.json and the weights that belong to them.

    Raises:
        FileNotFoundError: a file is missing. ValueError: one is damaged, of another model, or not written by pofx.
    """
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MODEL}; expected a folder written by fit or save.")
    try:
        words = json.loads(path.read_bytes())
        checksum, newer = words.pop("checksum"), words["format"] > FORMAT
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or not written by pofx ({error!r}); use an intact copy.") from error
    if newer:
        raise ValueError(f"{path} has format {words['format']}; this pofx reads up to {FORMAT}: use a newer one.")
    if checksum != _digest(_canonical(words)):
        raise ValueError(f"{path} was changed after it was written (its checksum differs); use an intact copy.")
    tensors, _ = load_tensors(folder / WEIGHTS)
    if words["weights"] != _digest((folder / WEIGHTS).read_bytes()):
        raise ValueError(f"{folder / WEIGHTS} is damaged or of another model than {path}; use an intact copy of both.")
    return words, tensors


def _canonical(words: Mapping[str, Any]) -> bytes:
    return json.dumps(words, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def describe(model: Any) -> dict[str, Any]:
    """What model.json holds."""
    core = model.core
    return {
        "format": FORMAT,
        "family": _home(core),
        "hyper_parameters": hyper_parameters(core),
        "space": model.space.to_json(),
        "given": {k: s.to_json() for k, s in model.given.items()},
        "card": asdict(core.card),
        "fit": model.record,
        "versions": {"pofx": _version(), "torch": torch.__version__, "python": platform.python_version()},
    }


def _version() -> str:
    try:
        return metadata.version("pofx")
    except metadata.PackageNotFoundError:
        return "not installed"


def hyper_parameters(model: Any) -> dict[str, Any]:
    """The constructor's arguments of a family, read back from its attributes; a model among them as a description."""
    names = [p for p in inspect.signature(type(model).__init__).parameters if p not in ("self", "args", "kwargs")]
    return {name: _described(getattr(model, name)) for name in names}


def _described(value: Any) -> Any:
    if not isinstance(value, torch.nn.Module):
        return value
    core: Any = value.core
    return {"family": _home(core), "hyper_parameters": hyper_parameters(core)}


def _home(core: Any) -> str:
    return f"{type(core).__module__}:{type(core).__qualname__}"
