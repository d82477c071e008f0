"""State: a saved fit put back into a model and its optimisers.

weights, averaged weights, best weights, both moments of every optimiser, the step and the plan stand in one atomic file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved tensors into a built model; buffers may change their shape (stored rows, chosen components).

    Raises:
        ValueError: a tensor is missing, unknown, or a parameter has another shape.
    """
    expected = set(model.state_dict())
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))[:3]
        raise ValueError(
            f"the weights do not fit this model: {len(expected ^ set(tensors))} names differ, such as {odd}."
        )
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name in parameters:
            if parameters[name].shape != tensor.shape:
                raise ValueError(
                    f"weight {name}: got shape {tuple(tensor.shape)}, expected {tuple(parameters[name].shape)}."
                )
            parameters[name].data.copy_(tensor)
        else:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = tensor.to(next(iter(model.state_dict().values())).device)


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{name}.{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()}


def load_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    prefix = f"optimiser.{name}."
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            index, word = key[len(prefix) :].split(".", 1)
            state.setdefault(int(index), {})[word] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
