"""Data that needs no file: what scikit-learn bundles, and a few toys of known density.

Each takes the names of what x is given: a column of a table then leaves x, a label of pictures never was in it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pofx.kinds.base import Raw, Space, Variable, category


def digits(given: tuple[str, ...] = ()) -> Raw:
    """1797 real handwritten digits, 8 x 8, 17 grey levels, given their label (Alpaydin & Kaynak 1998; scikit-learn)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(-1)
    level = x.double()
    variable = Variable("pixel", "ordinal", 17, mean=float(level.mean()), scale=float(level.std()))
    space = Space((8, 8, 1), (variable,), "grid", "image", "uint8", {"white": 16})
    label = torch.from_numpy(bunch.target.astype(np.int64))
    return Raw(x, space, {"label": label}, {"label": category(10, values=tuple(range(10)))})


def iris(given: tuple[str, ...] = ()) -> Raw:
    """150 real iris flowers, four lengths in cm and the species (Fisher 1936; scikit-learn)."""
    from sklearn.datasets import load_iris

    from pofx.kinds.table import Table

    frame = load_iris(as_frame=True)
    table = frame.frame.rename(columns={"target": "species"})
    table["species"] = frame.target_names[frame.target]
    return Table().read(table, given)


def moons(given: tuple[str, ...] = (), rows: int = 4000, seed: int = 0) -> Raw:
    """Two moons in the plane with noise 0.1: a density with a curved, divided support."""
    generator = np.random.default_rng(seed)
    angle, side = generator.uniform(0, np.pi, rows), generator.integers(0, 2, rows)
    x = np.stack(
        [np.where(side, 1 - np.cos(angle), np.cos(angle)), np.where(side, 0.5 - np.sin(angle), np.sin(angle))], 1
    )
    x += 0.1 * generator.standard_normal(x.shape)
    tensor = torch.from_numpy(x)
    variables = tuple(
        Variable(f"x{j}", mean=float(tensor[:, j].mean()), scale=float(tensor[:, j].std())) for j in range(2)
    )
    labels = torch.from_numpy(side.astype(np.int64))
    return Raw(tensor, Space((2,), variables), {"label": labels}, {"label": category(2, values=(0, 1))})


BUNDLED: dict[str, Callable[..., Raw]] = {"digits": digits, "iris": iris, "moons": moons}
