"""Table: rows of mixed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.kinds.base import Kind, Raw, Space, Variable


class Table(Kind):
    """Rows of a table: one row is one x."""

    name = "table"

    def reads(self, source: object) -> bool:
        return type(source).__name__ == "DataFrame" or (isinstance(source, Path) and ".csv" in source.name)

    def read(self, source: Any, given: tuple[str, ...] = ()) -> Raw:
        import pandas as pd

        frame = pd.read_csv(source) if isinstance(source, Path) else source
        variables, columns = [], []
        for name in frame.columns:
            column = frame[name]
            if column.dtype.kind == "f":
                values = column.to_numpy(np.float64)
                spread = float(np.nanstd(values)) or 1.0
                variables.append(Variable(str(name), resolution=0.1, mean=float(np.nanmean(values)), scale=spread))
            else:
                words, values = np.unique(column.astype(str), return_inverse=True)
                kept = tuple(str(w) for w in words)
                spread = max(float(values.std()), 0.25)
                support = "binary" if len(words) == 2 else "category"
                variables.append(Variable(str(name), support, len(words), kept, mean=float(values.mean()), scale=spread))
            columns.append(values.astype(np.float64))
        x = torch.from_numpy(np.stack(columns, 1))
        observed = ~torch.isnan(x)
        space = Space((len(variables),), tuple(variables), kind="table")
        return Raw(x.nan_to_num(0.0), space, observed=None if observed.all() else observed)

    def encode(self, rows: Any, space: Space) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def restore(self, x: Tensor, space: Space) -> Any:
        import pandas as pd

        out = {}
        for j, v in enumerate(space.variables):
            column = x[:, j].numpy()
            out[v.name] = column if v.values is None else np.array(v.values, dtype=object)[column.astype(int)]
        return pd.DataFrame(out)

    def draw(self, axes: Any, x: Tensor, space: Space) -> None:
        axes.hist(x[:, 0].numpy(), bins=30)
