"""Posteriors: q(z | x) as a map of standard normal e, with its exact log density both ways.

    z_0 = mu + S e                 S diagonal, or lower triangular with a positive diagonal ("full")
    planar   z <- z + u h(w.z + b),  h = tanh,  u moved so that w.u > -1          log_det = log |1 + u.w h'|
    iaf      z_j <- z_j s_j + m_j (1 - s_j),  (m, s)_j = f(z_<j, features of x)     log_det = sum_j log s_j
    log q(z | x) = log N(e; 0, I) - log |det S| - sum of log_det

Every layer turns the order of the entries round. `push` maps e and knows log q for free; `log_prob` inverts: a planar
layer by bisection along w, an autoregressive one entry by entry. Heads say how many numbers of the encoder they want.

References: planar flows (Rezende and Mohamed 2015, arXiv:1505.05770); inverse autoregressive flows (Kingma 2016,
arXiv:1606.04934).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .masked import MaskedMLP

LOG_2PI = math.log(2 * math.pi)
KINDS = ("diagonal", "full", "planar", "iaf")
FEATURES = 32  # of x that an autoregressive layer sees
POINTS = 64  # fixed e by which the moments of a flow are computed

Layer = Callable[[Tensor, bool], tuple[Tensor, Tensor]]  # (z, inverse) -> (z', log_det of the forward map)


class Posterior(torch.distributions.Distribution):
    """q(z | x) of B rows: event shape (L,), batch shape (B,).

    Args:
        mu: `(B, L)`.
        scale: `(B, L)` for a diagonal S, `(B, L, L)` for a triangular one.
        layers: the flow's, from e to z.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    support = torch.distributions.constraints.real_vector
    has_rsample = True

    def __init__(self, mu: Tensor, scale: Tensor, layers: tuple[Layer, ...] = ()) -> None:
        self.mu, self.scale, self.layers = mu, scale, layers
        super().__init__(mu.shape[:1], mu.shape[1:], validate_args=False)

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of S, `(B, L)`."""
        return self.scale if self.scale.ndim == 2 else self.scale.diagonal(dim1=-2, dim2=-1)

    def push(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """z `(..., B, L)` and log q(z | x) `(..., B)` of standard normal e `(..., B, L)`."""
        e = e.to(self.mu.dtype)
        log_q = -0.5 * (e.square().sum(-1) + e.shape[-1] * LOG_2PI) - self.diagonal.log().sum(-1)
        z = self.mu + (self.scale * e if self.scale.ndim == 2 else torch.einsum("bij,...bj->...bi", self.scale, e))
        for layer in self.layers:
            z, log_det = layer(z, False)
            log_q = log_q - log_det
        return z, log_q

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) `(..., B)` of any z `(..., B, L)`."""
        total: Tensor | float = 0.0
        for layer in reversed(self.layers):
            z, log_det = layer(z, True)
            total = total + log_det
        e = z - self.mu
        if self.scale.ndim == 2:
            e = e / self.scale
        else:
            e = torch.linalg.solve_triangular(self.scale, e.unsqueeze(-1), upper=False).squeeze(-1)
        log_e = -0.5 * (e.square().sum(-1) + e.shape[-1] * LOG_2PI)
        return log_e - self.diagonal.log().sum(-1) - total

    def divergence(self) -> Tensor:
        """KL(q | N(0, I)) of each latent `(B, L)`; of all together `(B, 1)` where S is triangular.

        Raises:
            ValueError: there are layers, with which it has no closed form.
        """
        if self.layers:
            raise ValueError("the divergence of a flow has no closed form; average log q - log p over draws.")
        kl = 0.5 * (self.mu.square() + self.variance - 1) - self.diagonal.log()
        return kl if self.scale.ndim == 2 else kl.sum(-1, keepdim=True)

    def frozen(self) -> Posterior:
        """The same law, through which no gradient reaches the encoder (without layers)."""
        return Posterior(self.mu.detach(), self.scale.detach(), self.layers)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `(*sample_shape, B, L)`, from torch's own stream as with any torch distribution."""
        noise = torch.empty(*sample_shape, *self.mu.shape, dtype=self.mu.dtype, device=self.mu.device).normal_()
        return self.push(noise)[0]

    @property
    def mean(self) -> Tensor:
        """`(B, L)`: exact, or of a flow the mean over POINTS fixed e."""
        return self._points().mean(0) if self.layers else self.mu

    @property
    def variance(self) -> Tensor:
        """`(B, L)`: exact, or of a flow the variance over POINTS fixed e."""
        if self.layers:
            return self._points().var(0)
        return self.scale.square() if self.scale.ndim == 2 else self.scale.square().sum(-1)

    def _points(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)  # the same points for every row, in pairs e and -e
        e = torch.empty(POINTS // 2, 1, self.mu.shape[-1]).normal_(generator=generator).to(self.mu)
        return self.push(torch.cat([e, -e]).expand(-1, *self.mu.shape))[0]


class Head(nn.Module):
    """The encoder's numbers `(B, self.numbers)` as a Posterior.

    Args:
        kind: "diagonal", "full", "planar" or "iaf".
        L: latent numbers.
        layers: of a flow.
        width: of the nets of an autoregressive flow.
    """

    def __init__(self, kind: str, L: int, layers: int = 4, width: int = 64) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"posterior is {kind!r}; expected one of {KINDS}.")
        self.kind, self.L = kind, L
        self.layers = layers if kind in ("planar", "iaf") else 0
        own = {"diagonal": L, "full": L * (L + 1) // 2, "planar": L + layers * (2 * L + 1), "iaf": L + FEATURES}[kind]
        self.numbers = L + own
        nets = [_net(L, width) for _ in range(layers if kind == "iaf" else 0)]
        self.nets = nn.ModuleList(nets)

    def forward(self, raw: Tensor) -> Posterior:
        """The posterior of each row."""
        L = self.L
        mu, width, rest = raw[:, :L], _positive(raw[:, L : 2 * L]), raw[:, 2 * L :]
        if self.kind == "full":
            below = torch.tril_indices(L, L, -1, device=raw.device)
            scale = torch.diag_embed(width)
            scale = scale.index_put((torch.arange(len(raw), device=raw.device)[:, None], *below[:, None]), 0.1 * rest)
            return Posterior(mu, scale)
        if self.kind == "planar":
            return Posterior(mu, width, tuple(_planar(p) for p in rest.unflatten(1, (self.layers, -1)).unbind(1)))
        return Posterior(mu, width, tuple(_inverse_autoregressive(net, rest) for net in self.nets))


def _positive(raw: Tensor) -> Tensor:
    return (raw - 2.0).clamp(-12.0, 6.0).exp()


def _net(L: int, width: int) -> MaskedMLP:
    net = MaskedMLP([1] * L, [2] * L, width, 1, c_dim=FEATURES)
    with torch.no_grad():
        net.outlet.weight.mul_(0.1)
    return net


def _planar(raw: Tensor) -> Layer:
    """One layer; raw `(B, 2 L + 1)`."""
    L = (raw.shape[-1] - 1) // 2
    w, u, b = 0.3 * raw[:, :L], 0.3 * raw[:, L : 2 * L], raw[:, -1]
    dot = (w * u).sum(-1)
    # invertible where w.u > -1: u is moved along w until softplus says so (Rezende and Mohamed 2015, appendix A.1)
    short = F.softplus(dot) - 1 - dot
    u = u + (short / w.square().sum(-1).clamp_min(1e-8)).unsqueeze(-1) * w
    along = (w * u).sum(-1)

    def layer(z: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if inverse:
            a = _root((w * z).sum(-1), along, b)
            z = z - u * torch.tanh(a + b).unsqueeze(-1)
        else:
            a = (w * z).sum(-1)
        h = torch.tanh(a + b)
        log_det = torch.log((1 + along * (1 - h.square())).clamp_min(1e-12))
        return (z if inverse else z + u * h.unsqueeze(-1)), log_det

    return layer


def _root(y: Tensor, along: Tensor, b: Tensor) -> Tensor:
    """The a with a + along tanh(a + b) = y, which rises in a: bisection between y - |along| and y + |along|."""
    with torch.no_grad():
        low, high = y - along.abs() - 1e-6, y + along.abs() + 1e-6
        for _ in range(60):
            middle = (low + high) / 2
            above = middle + along * torch.tanh(middle + b) > y
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _inverse_autoregressive(net: Any, features: Tensor) -> Layer:
    """One layer, which turns the entries round first, so that two of them see both orders."""

    def gates(z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.reshape(-1, z.shape[-1])
        c = features.expand(*z.shape[:-1], -1).reshape(len(flat), -1)
        raw = net(flat, c).unflatten(-1, (-1, 2)).reshape(*z.shape, 2)
        return raw[..., 0], F.logsigmoid(raw[..., 1] + 2.0)  # near the identity at first

    def layer(z: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if not inverse:
            z = z.flip(-1)
            m, log_s = gates(z)
            return z * log_s.exp() + m * -torch.expm1(log_s), log_s.sum(-1)
        x = torch.zeros_like(z)
        for j in range(z.shape[-1]):
            m, log_s = gates(x)
            x_j = (z[..., j] + m[..., j] * torch.expm1(log_s[..., j])) * (-log_s[..., j]).exp()
            x = torch.cat([x[..., :j], x_j.unsqueeze(-1), x[..., j + 1 :]], -1)
        return x.flip(-1), gates(x)[1].sum(-1)

    return layer
