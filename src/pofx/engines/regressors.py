"""Regressors: E[y | x] by a line, by a kernel, by a forest, and by the mixture of the three that predicts best.

    line     f(x) = m + (x - c) W                   ridge, the penalty by leave-one-out
    kernel   f(x) = m + sum_i k(x, x_i) a_i         k = exp(-|x - x_i|^2 / (2 F w^2)), a = (K + l W^-1)^-1 (y - m)
    forest   f(x) = mean over trees of the leaf of x extremely randomised trees on bootstrap rows
    stack    f(x) = m + sum_k s_k (f_k(x) - m)      s >= 0, least squares on predictions of rows not seen

Each is fitted on rows with weights and says, for every row, what it would have predicted without that row (in closed
form, or from the trees that did not see it): the stack's weights and the spread of its errors come from these.
Knows no models and no data types; y has as many columns as wanted. Trees are copied into tensors: no pickle.
References: Hastie, Tibshirani and Friedman 2009, sections 3.4, 5.8 and 7.10; Geurts, Ernst and Wehenkel 2006;
Breiman 1996 (stacked regressions); Rasmussen and Williams 2006, section 5.4.2 (leave-one-out).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pofx.randomness import Rng

Array = np.ndarray[Any, Any]
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
WIDTHS = (0.35, 0.7, 1.4, 2.8)
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FEW, MANY = 400, 1000  # rows that choose the width of a kernel, and rows that it is made of
BLOCK = 2**22  # numbers in a block of rows x centres or rows x trees


class Regressor(nn.Module):
    """A function of rows `(N, F)` float64; buffers may take their shape from a file."""

    def _keep(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in list(self._buffers):  # how many rows or nodes there are is only known from the file
            if prefix + name in state:
                self._buffers[name] = torch.empty_like(state[prefix + name])
        super()._load_from_state_dict(state, prefix, *rest)

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        """Fit y `(N, M)` on x `(N, F)`; returns what each row gets from a fit without it, `(N, M)`."""
        raise NotImplementedError


class Line(Regressor):
    """Ridge regression."""

    centre: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._keep(centre=_none(0), slope=_none(0, 0), offset=_none(0))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        share = weight / weight.sum()
        c, m = share @ x, share @ y
        root = np.sqrt(weight)[:, None]
        u, s, v = np.linalg.svd((x - c) * root, full_matrices=False)
        target = u.T @ ((y - m) * root)
        best: tuple[float, Array, Array] | None = None
        for penalty in PENALTIES:
            shrink = s**2 / (s**2 + penalty)
            leverage = (u**2 * shrink).sum(1) + share
            fitted = m + (u * shrink) @ target / root
            without = y - (y - fitted) / (1 - leverage.clip(max=1 - 1e-6))[:, None]
            loss = float((share[:, None] * (y - without) ** 2).sum())
            if best is None or loss < best[0]:
                slope = v.T @ ((s / (s**2 + penalty))[:, None] * target)
                best = loss, without, slope
        assert best is not None
        self.centre, self.slope, self.offset = (torch.from_numpy(np.ascontiguousarray(t)) for t in (c, best[2], m))
        return best[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.offset + (x - self.centre) @ self.slope


class Kernel(Regressor):
    """Kernel ridge regression (the mean of a Gaussian process) on at most MANY rows."""

    centre: Tensor
    scale: Tensor
    rows: Tensor
    slope: Tensor
    offset: Tensor
    width: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._keep(centre=_none(0), scale=_none(0), rows=_none(0, 0), slope=_none(0, 0), offset=_none(0))
        self._keep(width=torch.ones((), dtype=torch.float64))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        order = rng.permutation(len(x)).numpy()
        few, many = order[:FEW], order[:MANY]
        width = min(((self._solve(x[few], y[few], weight[few], w)[0], w) for w in WIDTHS), key=lambda found: found[0])[
            1
        ]
        _, without, slope = self._solve(x[many], y[many], weight[many], width)
        centre, scale = _moments(x[many])
        rows, offset = (x[many] - centre) / scale, y[many].mean(0)
        self.centre, self.scale, self.rows = (torch.from_numpy(t) for t in (centre, scale, rows))
        self.slope, self.offset = torch.from_numpy(slope), torch.from_numpy(offset)
        self.width = torch.tensor(width, dtype=torch.float64)
        out = self(torch.from_numpy(x)).numpy()
        out[many] = without
        return out

    def _solve(self, x: Array, y: Array, weight: Array, width: float) -> tuple[float, Array, Array]:
        """The least leave-one-out error over the noises, those predictions, and the coefficients."""
        centre, scale = _moments(x)
        z, m, root = (x - centre) / scale, y.mean(0), np.sqrt(weight)[:, None]
        square = (z**2).sum(1)
        apart = (square[:, None] + square - 2 * z @ z.T).clip(min=0)
        k = np.exp(-apart / (2 * x.shape[1] * width**2)) * root * root.T  # (K + l W^-1)^-1 = R (R K R + l)^-1 R
        values, vectors = np.linalg.eigh(k)
        target = vectors.T @ ((y - m) * root)
        best: tuple[float, Array, Array] | None = None
        for noise in NOISES:
            inverse = 1 / (values.clip(min=0) + noise)
            slope = vectors @ (inverse[:, None] * target)
            error = slope / (vectors**2 @ inverse)[:, None] / root
            loss = float((weight[:, None] * error**2).sum())
            if best is None or loss < best[0]:
                best = loss, y - error, slope * root
        assert best is not None
        return best

    def forward(self, x: Tensor) -> Tensor:
        out = self.offset.expand(len(x), -1).clone()
        for rows in torch.arange(len(x)).split(max(1, BLOCK // max(len(self.rows), 1))):
            z = (x[rows] - self.centre) / self.scale
            apart = torch.cdist(z, self.rows, compute_mode="use_mm_for_euclid_dist").square()
            out[rows] += torch.exp(-apart / (2 * z.shape[1] * self.width**2)) @ self.slope
        return out


class Forest(Regressor):
    """Extremely randomised trees on bootstrap rows, as scikit-learn grows them.

    Args:
        trees: how many.
        least: rows of a leaf.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor
    root: Tensor
    depth: Tensor

    def __init__(self, trees: int = 100, least: int = 2) -> None:
        super().__init__()
        self.trees, self.least = trees, least
        self._keep(feature=torch.zeros(0, dtype=torch.int32), threshold=torch.zeros(0, dtype=torch.float64))
        self._keep(child=torch.zeros(0, 2, dtype=torch.int32), value=torch.zeros(0, 0, dtype=torch.float32))
        self._keep(root=torch.zeros(0, dtype=torch.int32), depth=torch.zeros((), dtype=torch.int32))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        import warnings

        from sklearn.ensemble import ExtraTreesRegressor

        grown = ExtraTreesRegressor(
            self.trees, min_samples_leaf=self.least, max_features=1.0, bootstrap=True, oob_score=True,
            random_state=rng.seed() % 2**31,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a row that every tree saw: it is set to the mean below
            grown.fit(x, y if y.shape[1] > 1 else y[:, 0], sample_weight=weight)
        self._copy([tree.tree_ for tree in grown.estimators_])
        without = np.asarray(grown.oob_prediction_).reshape(y.shape)
        return np.where(np.isfinite(without), without, y.mean(0))

    def _copy(self, trees: list[Any]) -> None:
        starts = np.cumsum([0, *(t.node_count for t in trees)])
        left, right, child = [], [], np.arange(starts[-1], dtype=np.int32).repeat(2).reshape(-1, 2)
        for tree, start in zip(trees, starts[:-1], strict=True):
            inner = np.flatnonzero(tree.children_left >= 0)
            child[start + inner, 0] = start + tree.children_left[inner]
            child[start + inner, 1] = start + tree.children_right[inner]
            left.append(tree.feature.clip(min=0))
            right.append(tree.threshold)
        self.feature = torch.from_numpy(np.concatenate(left).astype(np.int32))
        self.threshold = torch.from_numpy(np.concatenate(right))
        self.child, self.root = torch.from_numpy(child), torch.from_numpy(starts[:-1].astype(np.int32))
        self.value = torch.from_numpy(np.concatenate([t.value[:, :, 0] for t in trees]).astype(np.float32))
        self.depth = torch.tensor(max(t.max_depth for t in trees), dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        out, x32 = [], x.float().double()  # scikit-learn splits float32
        for rows in torch.arange(len(x)).split(max(1, BLOCK // max(len(self.root), 1))):
            node = self.root.long().expand(len(rows), -1)
            for _ in range(int(self.depth)):
                right = x32[rows].gather(1, self.feature[node].long()) > self.threshold[node]
                node = self.child[node, right.long()].long()
            out.append(self.value[node].double().mean(1))
        return torch.cat(out) if out else x.new_zeros(0, self.value.shape[1])


class Stack(Regressor):
    """A weighted sum of a line, a kernel and a forest, whose weights come from held-out predictions.

    Args:
        trees: of the forest.
        least: rows of a leaf.
    """

    share: Tensor
    offset: Tensor

    def __init__(self, trees: int = 100, least: int = 2) -> None:
        super().__init__()
        self.members = nn.ModuleList([Line(), Kernel(), Forest(trees, least)])
        self._keep(share=torch.zeros(len(self.members), dtype=torch.float64), offset=_none(0))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        from scipy.optimize import nnls

        offset = weight @ y / weight.sum()
        said = np.stack([member.fit(x, y, weight, rng) for member in self.members])  # type: ignore[operator]
        root = np.sqrt(weight)[:, None]
        share, _ = nnls(((said - offset) * root).reshape(len(said), -1).T, ((y - offset) * root).ravel())
        self.share, self.offset = torch.from_numpy(share), torch.from_numpy(offset)
        return offset + np.tensordot(share, said - offset, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.offset.expand(len(x), -1).clone()
        for share, member in zip(self.share, self.members, strict=True):
            if float(share) > 0:
                out += share * (member(x) - self.offset)
        return out


def _none(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _moments(x: Array) -> tuple[Array, Array]:
    return x.mean(0), x.std(0) + 1e-9
