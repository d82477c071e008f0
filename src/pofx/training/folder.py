"""load: a fitted model from its folder (model.json, weights.safetensors, history.jsonl), which never imports code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pofx.families import FAMILIES, family
from pofx.files import MODEL, load_model, read_history
from pofx.kinds.base import Space
from pofx.model import Model
from pofx.training.state import load_weights
from pofx.wrappers import InLatent, adapted


def load(folder: str | Path, families: Sequence[type[Model]] = ()) -> Model:
    """A fitted model from its folder.

    Args:
        folder: what `fit(folder=...)` or `model.save` wrote.
        families: classes of your own that the folder may name; a folder never imports code.

    Raises:
        FileNotFoundError: no model there. ValueError: the folder is damaged, foreign, or needs a class in `families`.
    """
    folder = Path(folder)
    words, tensors = load_model(folder)
    cls = _class(words["family"], families, folder)
    try:
        space = Space.from_json(words["space"])
        given = {k: Space.from_json(s) for k, s in words["given"].items()}
        model = adapted(_made(words, families, folder), space).build(space, given)
        load_weights(model, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / MODEL} does not fit this {cls.__name__} ({error}); was it written by another version of it?"
        ) from error
    model.history, model.record = read_history(folder), words.get("fit", {})
    return model.eval()


def _made(words: Any, families: Sequence[type[Model]], folder: Path) -> Any:
    """The model that was described, and with it those that it is made of; anything else as it is."""
    if not isinstance(words, dict) or not {"family", "hyper_parameters"} <= set(words):
        return words
    arguments = {name: _made(value, families, folder) for name, value in words["hyper_parameters"].items()}
    return _class(words["family"], families, folder)(**arguments)


def _class(home: str, families: Sequence[type[Model]], folder: Path) -> type[Model]:
    for name, ours in FAMILIES.items():
        if home == ours:
            return family(name)
    if home == f"{InLatent.__module__}:{InLatent.__qualname__}":
        return InLatent
    name = home.split(":")[-1]
    for own in families:
        if own.__qualname__ == name:
            return own
    raise ValueError(
        f"{folder} holds a {name!r}, which is no family of pofx; pass its class: load(path, families=[{name}])."
    )
