"""load: a fitted model from its folder (model.json, weights.safetensors, history.jsonl). A folder never imports code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pofx.families import FAMILIES, family
from pofx.files import MODEL, WEIGHTS, load_tensors, read_history
from pofx.kinds.base import Space
from pofx.model import Model
from pofx.training.state import load_weights
from pofx.wrappers import adapted


def load(folder: str | Path, families: Sequence[type[Model]] = ()) -> Model:
    """A fitted model from its folder.

    Args:
        folder: what `fit(folder=...)` or `model.save` wrote.
        families: classes of your own that the folder may name; a folder never imports code.

    Raises:
        FileNotFoundError: no model there. ValueError: the folder is damaged, foreign, or needs a class in `families`.
    """
    folder = Path(folder)
    path = folder / MODEL
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no model.json; expected a folder written by fit or save.")
    try:
        words = json.loads(path.read_text())
        space = Space.from_json(words["space"])
        given = {k: Space.from_json(s) for k, s in words["given"].items()}
        name, hyper = words["family"], words["hyper_parameters"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not written by pofx ({error!r}); use an intact copy.") from error
    model = adapted(_class(name, families, folder)(**hyper), space).build(space, given)
    tensors, _ = load_tensors(folder / WEIGHTS)
    load_weights(model, tensors)
    model.history, model.record = read_history(folder), words.get("fit", {})
    return model.eval()


def _class(home: str, families: Sequence[type[Model]], folder: Path) -> type[Model]:
    for name, ours in FAMILIES.items():
        if home == ours:
            return family(name)
    name = home.split(":")[-1]
    for own in families:
        if own.__qualname__ == name:
            return own
    raise ValueError(
        f"{folder} holds a {name!r}, which is no family of pofx; pass its class: load(path, families=[{name}])."
    )
