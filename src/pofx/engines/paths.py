"""Noise paths: how much of the data and how much noise there is at time t in [0, 1], 0 = data.

    u_t = alpha_t u + sigma_t eps

Offers `VP` (cosine, linear), `VE` and `Linear`, and `path_of`, which finds them by name.

References: DDPM (Ho 2020, arXiv:2006.11239); cosine (Nichol 2021, arXiv:2102.09672); score SDE (Song 2021,
arXiv:2011.13456); EDM (Karras 2022, arXiv:2206.00364); flow matching (Lipman 2023, arXiv:2210.02747).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PATHS = ("edm", "vp", "vp-linear", "linear")


class Path(Protocol):
    """alpha and sigma as functions of t in [0, 1], smooth inside; sigma grows like t^(1/power) from t = 0."""

    @property
    def power(self) -> float:
        """Samplers and solvers take equal steps of t^(1/power), in which sigma is smooth."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        ...


@dataclass(frozen=True)
class VP:
    """alpha^2 + sigma^2 = 1: "cosine", alpha = cos(pi t / 2), or "linear", alpha^2 = exp(-integral of beta).

    Args:
        schedule: "cosine" or "linear".
        beta_min, beta_max: rates of the linear schedule at t = 0 and t = 1.
    """

    schedule: str = "cosine"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear"):
            raise ValueError(f"schedule: got {self.schedule!r}, expected 'cosine' or 'linear'.")

    @property
    def power(self) -> float:
        """2 for the linear schedule, whose sigma is near sqrt(beta_min t) at first."""
        return 2.0 if self.schedule == "linear" else 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data."""
        if self.schedule == "cosine":
            return torch.cos(0.5 * math.pi * t).clamp_min(0)
        return torch.exp(-0.5 * self._rate(t))

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        return torch.sin(0.5 * math.pi * t) if self.schedule == "cosine" else torch.sqrt(-torch.expm1(-self._rate(t)))

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2


@dataclass(frozen=True)
class VE:
    """alpha = 1, sigma^(1/rho) linear in t from sigma_min to sigma_max (data of standard deviation near 1)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def power(self) -> float:
        """1: sigma is smooth in t."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data: 1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + t * (high - low)) ** self.rho


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, sigma = t: the straight path of flow matching and rectified flow."""

    @property
    def power(self) -> float:
        """1: sigma is smooth in t."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        return t.clone()


def path_of(name: str, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Path:
    """The path of a name: "edm" (alpha = 1, levels by rho), "vp" (cosine), "vp-linear", or "linear" (flow matching).

    Raises ValueError for another name.
    """
    if name not in PATHS:
        raise ValueError(f"path: got {name!r}, expected one of {PATHS}.")
    if name == "edm":
        return VE(sigma_min, sigma_max, rho)
    return Linear() if name == "linear" else VP("linear" if name == "vp-linear" else "cosine")
