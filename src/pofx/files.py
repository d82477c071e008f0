"""Files: atomic writes, tensors with words in one safetensors file, lines of history. Never pickle.

A file is written to a temporary name in the same folder and renamed: a kill leaves the old file or the new one.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
CHECKPOINT, HISTORY, MODEL, WEIGHTS = "checkpoint.safetensors", "history.jsonl", "model.json", "weights.safetensors"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
    """Tensors and JSON words as one safetensors file, atomically."""
    from safetensors.torch import save

    separate = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomic(path, save(separate, {"pofx": json.dumps(words)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        ValueError: the file is damaged, truncated or foreign.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            words = json.loads((file.metadata() or {})["pofx"])
            return {k: file.get_tensor(k) for k in file.keys()}, words  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is damaged, truncated or not written by pofx ({error}); use an intact copy."
        ) from error


def append_history(folder: Path, line: Mapping[str, Any]) -> None:
    """Add one line to history.jsonl."""
    with open(folder / HISTORY, "a") as file:
        file.write(json.dumps(line) + "\n")


def read_history(folder: Path, until: int | None = None) -> list[dict[str, Any]]:
    """The whole lines of history.jsonl up to a step; a line cut off by a kill is dropped."""
    path, lines = folder / HISTORY, []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if until is not None and line["step"] > until:
            break
        lines.append(line)
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
        text = json.dumps(describe(model), indent=1)
    except TypeError as error:
        raise ValueError(f"{model.name}: a hyper-parameter is not a number, word, list or None ({error}).") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, model.state_dict(), {"family": model.name})
        rewrite_history(folder, model.history)
        write_atomic(folder / MODEL, text.encode())
    except OSError as error:
        raise OSError(f"cannot write the model to {folder}: {error.strerror or error}; give another folder.") from error


def describe(model: Any) -> dict[str, Any]:
    """What model.json holds."""
    core = model.core
    return {
        "format": FORMAT,
        "family": f"{type(core).__module__}:{type(core).__qualname__}",
        "hyper_parameters": hyper_parameters(core),
        "space": model.space.to_json(),
        "given": {k: s.to_json() for k, s in model.given.items()},
        "card": asdict(core.card),
        "fit": model.record,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def hyper_parameters(model: Any) -> dict[str, Any]:
    """The constructor's arguments of a family, read back from its attributes."""
    names = [p for p in inspect.signature(type(model).__init__).parameters if p not in ("self", "args", "kwargs")]
    return {name: getattr(model, name) for name in names}
