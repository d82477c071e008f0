"""Games of a critic D and a generator: what each of them lowers, and the penalties that keep the critic smooth.

    r = D(real), f = D(fake)                critic lowers                              generator lowers
    relativistic     softplus(f - r)                            softplus(r - f)
    non-saturating   softplus(-r) + softplus(f)                 softplus(-f)
    hinge            max(0, 1 - r) + max(0, 1 + f)              -f
    wasserstein      f - r                                      -f
    least-squares    (r - 1)^2 + f^2                            (f - 1)^2

    r1, r1+r2        gamma / 2 (E |grad D(real)|^2 + E |grad D(fake)|^2)     the second term for r1+r2 alone
    gradient         gamma E (|grad D(v)| - 1)^2,  v between a real and a fake row

    map distance     mean over the layers f of D of  E|f(x) - f(y)| / E|f(x)|

References: Goodfellow 2014 (arXiv:1406.2661); relativistic pairing (Jolicoeur-Martineau 2018, arXiv:1807.00734) with R1
and R2 (Huang 2024, arXiv:2501.05441); hinge (Lim 2017, arXiv:1705.02894); Wasserstein (Gulrajani 2017,
arXiv:1704.00028); least squares (Mao 2016, arXiv:1611.04076); R1 (Mescheder 2018, arXiv:1801.04406).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = ("relativistic", "non-saturating", "hinge", "wasserstein", "least-squares")
PENALTIES = ("none", "r1", "r1+r2", "gradient")


def critic_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic lowers, of its scores (B,) of real rows and of fakes; a mean over rows."""
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    if kind == "non-saturating":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "least-squares":
        return (real - 1).square().mean() + fake.square().mean()
    assert kind == "wasserstein", kind
    return (fake - real).mean()


def generator_loss(kind: str, real: Tensor | None, fake: Tensor) -> Tensor:
    """What the generator lowers; only the relativistic game looks at the real rows' scores."""
    if kind == "relativistic":
        assert real is not None
        return F.softplus(real - fake).mean()
    if kind == "least-squares":
        return (fake - 1).square().mean()
    return F.softplus(-fake).mean() if kind == "non-saturating" else -fake.mean()


def map_distance(maps: Sequence[Tensor]) -> Tensor:
    """Mean over layers of E|f(x) - f(y)| / E|f(x)|, of maps (2 B, ...) that x and y make in this order; f(x) stays."""
    parts = []
    for both in maps:
        real, fake = both.chunk(2)
        real = real.detach()
        parts.append((fake - real).abs().mean() / real.abs().mean().clamp_min(1e-6))
    return torch.stack(parts).mean()


def penalty(kind: str, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The penalty of weight 1 of a critic (B, *event) -> (B,); it can be differentiated again.

    Args:
        kind: one of `PENALTIES`.
        critic: of rows that it judges each by itself; for "r1+r2" of both halves at once, real rows first.
        real, fake: rows (B, *event).
        share: numbers in [0, 1), (B, 1, ...): where between the two the slope of "gradient" is taken.
    """
    if kind == "none":
        return real.new_zeros(())
    at = torch.lerp(real, fake, share) if kind == "gradient" else real if kind == "r1" else torch.cat([real, fake])
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        if kind == "gradient":
            return (slopes(critic(at), at).add(1e-12).sqrt() - 1).square().mean()
        return 0.5 * (1 + (kind == "r1+r2")) * slopes(critic(at), at).mean()


def slopes(f: Tensor, u: Tensor) -> Tensor:
    """|grad_u f|^2 of each row (B,), for f (B,) of u (B, *event); it can be differentiated again."""
    (slope,) = torch.autograd.grad(f.sum(), u, create_graph=True)
    return slope.flatten(1).square().sum(1)
