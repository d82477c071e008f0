"""Inversion: which z does a generator need for y?  Gauss-Newton steps, and a normal law around what they find.

    y_o = G(z)_o + s e,   z ~ N(0, I),   e ~ N(0, I)          o: the observed entries
    z*  = argmin |y_o - G(z)_o|^2 / 2 s^2 + |z|^2 / 2
    H   = J_o^T J_o / s^2 + I,   J = dG / dz at z*            z | y_o  ~  N(z*, H^-1), about (Laplace)

s is found beside z, row by row, as what is left over, `BELIEF` entries of the size `least` added: a y that G can make
is met closely, one that it cannot make is not met by a z that no draw would have. What y_o says nothing about keeps its
spread under the prior. Several starts, the nearest of a pool of draws, find several modes.

References: Levenberg 1944 and Marquardt 1963; inverting generators (Zhu 2016, arXiv:1609.03552; Creswell 2016,
arXiv:1611.05644); in-painting by them (Yeh 2016, arXiv:1607.07539).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.randomness import Rng

BELIEF = 10
MOST = 2**24  # numbers of one Jacobian
Generate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Inverted:
    """Laws of z: mean `(R, B, L)`, root `(R, B, L, L)` with root root^T = H^-1, log evidence `(R, B)`, s `(R, B)`."""

    mean: Tensor
    root: Tensor
    evidence: Tensor
    noise: Tensor

    @property
    def best(self) -> Tensor:
        """Which start has the largest evidence, `(B,)`."""
        return self.evidence.argmax(0)

    def draw(self, which: Tensor, rng: Rng) -> Tensor:
        """One z for each number of a start `which` `(n, B)`: `(n, B, L)`."""
        rows = torch.arange(which.shape[1], device=which.device)
        e = rng.normal((*which.shape, self.mean.shape[-1])).to(self.mean.dtype)
        return self.mean[which, rows] + (self.root[which, rows] @ e[..., None])[..., 0]


def invert(
    generate: Generate,
    y: Tensor,
    observed: Tensor,
    z: Tensor,
    steps: int = 10,
    least: float = 0.05,
) -> Inverted:
    """The laws of z for rows y, from several starts.

    Args:
        generate: z `(N, L)` and the rows of y that they are for `(N,)` -> `(N, D)`; each row by itself.
        y: `(B, D)`. observed: `(B, D)` bool.
        z: starts `(R, B, L)`.
        steps: Gauss-Newton steps. least: what s is of a y that G can make, in the units of y.
    """
    R, B, L = z.shape
    y = torch.where(observed, y, torch.zeros_like(y))
    rows = torch.arange(B, device=y.device).repeat(R)
    flat, size = z.reshape(R * B, L), max(1, MOST // max(1, y.shape[1] * L))
    parts = []
    for part in torch.arange(R * B, device=y.device).split(size):
        here = rows[part]

        def of(code: Tensor, here: Tensor = here) -> Tensor:
            return generate(code, here)

        parts.append(_descend(of, y[here], observed[here].to(y.dtype), flat[part], steps, least))
    mean, root, evidence, noise = (torch.cat(column) for column in zip(*parts, strict=True))
    return Inverted(mean.reshape(R, B, L), root.reshape(R, B, L, L), evidence.reshape(R, B), noise.reshape(R, B))


def starts(generate: Generate, y: Tensor, observed: Tensor, pool: Tensor, count: int, rng: Rng | None) -> Tensor:
    """The starts `(count, B, L)`, the nearest of a pool, or at random where rng, the nearer the likelier.

    Args:
        pool: z `(M, L)` where G is the same for all rows, or `(B, M, L)`.
    """
    B, (M, L) = len(y), pool.shape[-2:]
    y, o = torch.where(observed, y, torch.zeros_like(y)), observed.to(y.dtype)
    if pool.ndim == 2:
        made = generate(pool, torch.zeros(M, dtype=torch.long, device=y.device))
        gap = o @ made.square().mT - 2 * y @ made.mT + y.square().sum(1, keepdim=True)
    else:
        rows = torch.arange(B, device=y.device).split(max(1, MOST // (M * y.shape[1])))
        parts = [generate(pool[r].flatten(0, 1), r.repeat_interleave(M)).unflatten(0, (len(r), M)) for r in rows]
        gap = torch.cat([((v - y[r, None]) * o[r, None]).square().sum(2) for v, r in zip(parts, rows, strict=True)])
    if rng is None:
        which = gap.topk(count, 1, largest=False).indices
    else:
        scale = gap.topk(min(8, M), 1, largest=False).values[:, -1:].clamp_min(1e-9)
        which = rng.categorical((-2 * gap / scale)[:, None].expand(B, count, M))
    return pool.expand(B, M, L).gather(1, which[..., None].expand(B, count, L)).transpose(0, 1)


def _descend(
    g: Callable[[Tensor], Tensor], y: Tensor, o: Tensor, z: Tensor, steps: int, least: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z*, a root of H^-1, the evidence and s, of N rows."""
    n, one = o.sum(1).double(), torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
    damping = torch.full((len(z),), 1e-2, dtype=torch.float64, device=z.device)
    z = z.double()
    miss, curve, pull = _linear(g, y, o, z)
    s2 = (miss.square().sum(1) + BELIEF * least**2) / (n + BELIEF)
    for _ in range(steps):
        H = curve / s2[:, None, None] + one
        damped = H + damping[:, None, None] * torch.diag_embed(H.diagonal(dim1=1, dim2=2))
        ahead = z + torch.linalg.solve(damped, (pull / s2[:, None] - z)[..., None])[..., 0]
        better = _cost(_miss(g, y, o, ahead), ahead, s2) < _cost(miss, z, s2)
        z = torch.where(better[:, None], ahead, z)
        damping = torch.where(better, damping / 5, damping * 4).clamp(1e-6, 1e6)
        miss, curve, pull = _linear(g, y, o, z)
        # what z may still be adds to the misses that s must explain
        spread = torch.linalg.solve(curve / s2[:, None, None] + one, curve).diagonal(dim1=1, dim2=2).sum(1)
        s2 = (miss.square().sum(1) + spread + BELIEF * least**2) / (n + BELIEF)
    half = torch.linalg.cholesky(curve / s2[:, None, None] + one)
    evidence = -_cost(miss, z, s2) - half.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * n * s2.log()
    root = torch.linalg.solve_triangular(half.mT, one.expand_as(half), upper=True)
    return z, root, evidence, s2.sqrt()


def _linear(g: Callable[[Tensor], Tensor], y: Tensor, o: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_o - G(z)_o `(N, D)`, J_o^T J_o `(N, L, L)` and J_o^T (y_o - G(z)_o) `(N, L)`, in float64."""
    at = z.to(y.dtype)

    def along(direction: Tensor) -> Tensor:
        return torch.func.jvp(g, (at,), (direction.expand_as(at),))[1]

    with torch.no_grad():
        jacobian = torch.func.vmap(along)(torch.eye(z.shape[1], dtype=y.dtype, device=z.device))  # (L, N, D)
        jacobian = (jacobian * o).permute(1, 2, 0).double()
    miss = _miss(g, y, o, z)
    return miss, jacobian.mT @ jacobian, (jacobian.mT @ miss[..., None])[..., 0]


def _miss(g: Callable[[Tensor], Tensor], y: Tensor, o: Tensor, z: Tensor) -> Tensor:
    """y_o - G(z)_o, 0 where nothing is observed."""
    with torch.no_grad():
        return (o * (y - g(z.to(y.dtype)))).double()


def _cost(miss: Tensor, z: Tensor, s2: Tensor) -> Tensor:
    return 0.5 * (miss.square().sum(1) / s2 + z.square().sum(1))
