"""Regressors: E[y | x] by a line, by a kernel, by a forest, and by the mixture of the three that predicts best.

    line     f(x) = m + (x - c) W                       ridge, the penalty by leave-one-out
    kernel   f(x) = m + sum_i k(x, x_i) a_i             k = exp(-|x - x_i|^2 / (2 F w^2)), a = (K + l W^-1)^-1 (y - m)
    forest   f(x) = mean over trees of the leaf of x    extremely randomised trees on bootstrap rows
    stack    f(x) = m + sum_k s_k (f_k(x) - m)          s >= 0, least squares on predictions of rows not seen

Each is fitted on rows with weights and says, for every row, what it would have predicted without that row (in closed
form, or from the trees that did not see it): the stack's weights and its errors come from these. A forest also knows
the rows in its leaves. Where gaps of x were filled in several ways, every tree sees one of these versions of the rows.
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
        rate, centres = 1 / (2 * x.shape[1] * float(self.width) ** 2), self.rows.float()
        far = -rate * centres.square().sum(1)
        for rows in torch.arange(len(x)).split(max(1, BLOCK // max(len(self.rows), 1))):
            z = ((x[rows] - self.centre) / self.scale).float()
            k = torch.addmm(far, z, centres.T, alpha=2 * rate).sub_(rate * z.square().sum(1, keepdim=True)).exp_()
            out[rows] += (k @ self.slope.float()).double()
        return out


class Forest(Regressor):
    """Randomised trees on bootstrap rows, which know the rows in their leaves.

    Args:
        trees: how many.
        least: different rows of a leaf.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor
    root: Tensor
    depth: Tensor
    member: Tensor
    first: Tensor
    stop: Tensor

    def __init__(self, trees: int = 64, least: int = 1) -> None:
        super().__init__()
        self.trees, self.least = trees, least
        self._keep(feature=torch.zeros(0, dtype=torch.int32), threshold=torch.zeros(0, dtype=torch.float64))
        self._keep(child=torch.zeros(0, 2, dtype=torch.int32), value=torch.zeros(0, 0, dtype=torch.float32))
        self._keep(root=torch.zeros(0, dtype=torch.int32), depth=torch.zeros((), dtype=torch.int32))
        self._keep(member=torch.zeros(0, dtype=torch.int32), first=torch.zeros(0, dtype=torch.int64))
        self._keep(stop=torch.zeros(0, dtype=torch.int64))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng) -> Array:
        """As the others; x may be `(K, N, F)`, rows in K versions: tree t sees version t mod K."""
        from sklearn.tree import ExtraTreeRegressor

        x, share = (x if x.ndim == 3 else x[None]).astype(np.float32), weight / weight.sum()
        random, grown, leaf, times = np.random.default_rng(rng.seed()), [], [], []
        for t in range(self.trees):
            seen = x[t % len(x)]
            count = np.bincount(random.choice(len(y), len(y), p=share), minlength=len(y))
            bag = count.nonzero()[0]
            tree = ExtraTreeRegressor(
                min_samples_leaf=self.least, max_features=1.0, random_state=int(random.integers(2**31))
            )
            grown.append(tree.fit(seen[bag], y[bag], count[bag].astype(float)).tree_)
            leaf.append(grown[-1].apply(seen))
            times.append(count)
        starts = self._copy(grown)
        at, many = np.stack(leaf) + starts[:-1, None], np.stack(times)
        self.held, self.times = (at, many == 0), many
        self.lend(1)
        said, out = self.value.numpy()[at].astype(float), (many == 0)[:, :, None]
        return np.where(out.any(0), (said * out).sum(0) / out.sum(0).clip(1), said.mean(0))

    def _copy(self, trees: list[Any]) -> Array:
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
        return starts

    def lend(self, least: int) -> None:
        """After a fit: let leaves lend the rows of the smallest branch around them that has at least so many.

        The rows of leaf n are member[first[n] : stop[n]], each as often as it was in the bag.
        """
        leaf, times = self.held[0], self.times
        node, row = (t.ravel().repeat(times.ravel()) for t in np.broadcast_arrays(leaf, np.arange(leaf.shape[1])))
        self.member = torch.from_numpy(row[node.argsort(kind="stable")].astype(np.int32))
        nodes, child = np.arange(len(self.child)), self.child.numpy()
        begin = np.concatenate([[0], np.bincount(node, minlength=len(nodes)).cumsum()])
        parent, last = nodes.copy(), child[:, 1].astype(np.int64)
        inner = child[:, 0] != nodes
        parent[child[inner, 0]] = parent[child[inner, 1]] = nodes[inner]
        for _ in range(int(self.depth)):  # nodes are numbered depth first: a branch ends at its rightmost leaf
            last = last[last]
        home = nodes
        for _ in range(int(self.depth)):
            home = np.where(begin[last[home] + 1] - begin[home] < least, parent[home], home)
        self.first, self.stop = torch.from_numpy(begin[home]), torch.from_numpy(begin[last[home] + 1])

    def forget(self) -> None:
        """Give back what only learning wants."""
        del self.held, self.times

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(len(x), self.value.shape[1])
        for rows in self.blocks(x):
            out[rows] = self.value[self.leaves(x[rows])].double().mean(1)
        return out

    def blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Row numbers, as many at a time as their leaves have room for."""
        return torch.arange(len(x)).split(max(1, BLOCK // max(len(self.root), 1)))

    def leaves(self, x: Tensor) -> Tensor:
        """The leaf of every tree, `(N, T)`."""
        return self._leaf(x, self.root.long().expand(len(x), -1))

    def inside(self, known: Tensor) -> Tensor:
        """The mean of something known of the rows that were learnt, `(N,)`, over those that each leaf lends."""
        total = torch.cat([known.new_zeros(1), known[self.member.long()].cumsum(0)])
        return (total[self.stop] - total[self.first]) / (self.stop - self.first).clamp_min(1)

    def lender(self, leaf: Tensor, rng: Rng) -> Tensor:
        """For leaves `(n, T)` the number of a row that was learnt, drawn from one of them drawn at random; `(n,)`."""
        one = leaf.gather(1, rng.integers(leaf.shape[1], (len(leaf), 1)))[:, 0]
        first, count = self.first[one], self.stop[one] - self.first[one]
        return self.member[first + (rng.uniform((len(one),), torch.float64) * count).long()].long()

    def _leaf(self, x: Tensor, node: Tensor) -> Tensor:
        """The leaves of rows `(N, F)` below nodes `(N, T)`; what has arrived is left alone from time to time."""
        feature, child, flat = self.feature.long(), self.child.reshape(-1).long(), x.float().reshape(-1)
        row = (torch.arange(len(x)) * x.shape[1]).unsqueeze(1).expand_as(node).reshape(-1)
        now = node.reshape(-1)
        leaf, going = now.clone(), torch.arange(len(now))
        for step in range(int(self.depth)):
            value = flat.index_select(0, row + feature.index_select(0, now))  # scikit-learn splits float32
            now = child.index_select(0, 2 * now + (value > self.threshold.index_select(0, now)))
            if step % 3 == 2:
                leaf[going] = now
                on = (child.index_select(0, 2 * now) != now).nonzero()[:, 0]
                going, row, now = going[on], row[on], now[on]
        leaf[going] = now
        return leaf.reshape(node.shape)


class Stack(Regressor):
    """A weighted sum of a line, a kernel and a forest, whose shares come from predictions of rows not seen.

    Args:
        trees: of the forest.
    """

    share: Tensor
    offset: Tensor

    def __init__(self, trees: int = 64) -> None:
        super().__init__()
        self.line, self.kernel, self.forest = Line(), Kernel(), Forest(trees)
        self._keep(share=torch.zeros(3, dtype=torch.float64), offset=_none(0))

    def fit(self, x: Array, y: Array, weight: Array, rng: Rng, kernel: bool = True) -> Array:
        """As the others; x may be `(K, N, F)`, rows in K versions, of which line and kernel see one of each row.

        With `kernel=False` the kernel is left out, and its share is 0.
        """
        from scipy.optimize import nnls

        one = x[rng.integers(len(x), (x.shape[1],)).numpy(), np.arange(x.shape[1])] if x.ndim == 3 else x
        offset, root = weight @ y / weight.sum(), np.sqrt(weight)[:, None]
        said = [self.line.fit(one, y, weight, rng) - offset]
        said += [self.kernel.fit(one, y, weight, rng) - offset] if kernel else []
        said += [self.forest.fit(x, y, weight, rng) - offset]
        share, _ = nnls(np.stack([(part * root).ravel() for part in said], 1), ((y - offset) * root).ravel())
        self.share, self.offset = torch.zeros(3, dtype=torch.float64), torch.from_numpy(offset)
        self.share[[0, 1, 2] if kernel else [0, 2]] = torch.from_numpy(share)
        out: Array = offset + sum(s * part for s, part in zip(share, said, strict=True))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(x) + self.share[2] * (self.forest(x) - self.offset)

    def smooth(self, x: Tensor) -> Tensor:
        """The mean of y and what line and kernel add to it."""
        out = self.offset.expand(len(x), -1).clone()
        for share, member in zip(self.share[:2], (self.line, self.kernel), strict=True):
            if float(share) > 0:
                out += share * (member(x) - self.offset)
        return out


def _none(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _moments(x: Array) -> tuple[Array, Array]:
    return x.mean(0), x.std(0) + 1e-9
