"""The causal bodies by the names of the literature. A new one is one file and one line here."""

from __future__ import annotations

import importlib

from .entries import Causal

BODIES = {
    "gated": "causal:Gated",
    "pixelcnn": "pixelcnn:PixelCNN",
    "pixelcnn++": "causal:Gated",
    "row-lstm": "rows:RowLSTM",
    "diagonal-bilstm": "diagonal:DiagonalBiLSTM",
    "made": "made:MADE",
    "nade": "nade:NADE",
    "transformer": "tokens:CausalTransformer",
    "any-order": "anyorder:AnyOrder",
    "adaptive": "adaptive:Adaptive",
    "intervals": "intervals:Intervals",
}


def body_class(name: str) -> type[Causal]:
    """The class of a body.

    Raises:
        ValueError: nothing has that name; the message lists what there is.
    """
    if name not in BODIES:
        raise ValueError(f"body: got {name!r}; expected one of {', '.join(BODIES)}, or None.")
    module, cls = BODIES[name].split(":")
    return getattr(importlib.import_module(f"pofx.nn.{module}"), cls)
