"""State: a saved fit put back into a model and its optimisers.

weights, averaged weights, best weights, both moments of every optimiser, the step, the plan and the history stand in
one atomic file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers of a model."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved tensors into a built model; buffers may change their shape (stored rows, chosen components).

    Raises:
        ValueError: a tensor is missing, unknown, or a parameter has another shape.
    """
    expected = model.state_dict()
    odd = sorted(set(expected) ^ set(tensors))
    if odd:
        raise ValueError(f"the weights do not fit this model: {len(odd)} names differ, such as {odd[:3]}.")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        if name not in parameters:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = tensor.to(expected[name].device, copy=True)
            continue
        if parameters[name].shape != tensor.shape:
            raise ValueError(
                f"weight {name}: got shape {tuple(tensor.shape)}, expected {tuple(parameters[name].shape)}."
            )
        parameters[name].data.copy_(tensor)


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{name}.{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()}


def load_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in under(f"optimiser.{name}.", tensors).items():
        index, word = key.split(".", 1)
        state.setdefault(int(index), {})[word] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
