"""Streams: the one global stream that torch's own layers draw from, made a function of (seed, k) and given back.

    nn.Dropout in step k draws from the stream (seed, 4, k); the caller's global stream is as it was before the step.

In a data-parallel fit each process draws the mask of the global batch and keeps its rows, so that one process and two
drop the same entries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pofx.randomness import Rows

DROPS_ENTRIES = (nn.Dropout,)
DROPS_FEATURES = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextlib.contextmanager
def forked(device: torch.device, *key: int) -> Iterator[None]:
    """Within, torch's global streams (of the CPU and the device) are those named by the key; afterwards as before."""
    streams = [torch.default_generator]
    if device.type == "cuda":
        streams.append(torch.cuda.default_generators[device.index or 0])
    before = [stream.get_state() for stream in streams]
    seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
    try:
        for stream in streams:
            stream.manual_seed(seed)
        yield
    finally:
        for stream, state in zip(streams, before, strict=True):
            stream.set_state(state)


def share_dropout(model: nn.Module, rows: Callable[[], Rows]) -> None:
    """Make every dropout layer of a model draw for the global batch and keep the rows of this process."""
    for layer in model.modules():
        if isinstance(layer, (*DROPS_ENTRIES, *DROPS_FEATURES)):
            layer.forward = _sliced(layer, isinstance(layer, DROPS_FEATURES), rows)  # type: ignore[assignment]


def _sliced(layer: Any, features: bool, rows: Callable[[], Rows]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        p, part = layer.p, rows()
        if not layer.training or p == 0:
            return x
        event = (x.shape[1], *[1] * (x.ndim - 2)) if features else tuple(x.shape[1:])
        times = x.shape[0] // part.count
        full = x.new_empty(times, part.total, *event).bernoulli_(1 - p)
        keep = full[:, part.start : part.start + part.count].reshape(x.shape[0], *event)
        return x * (keep / (1 - p))

    return forward
