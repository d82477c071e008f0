"""Draws of u given some of its entries, from a denoiser of the whole.

    E[u | u_t, y] = D + V A' (n^2 I + A V A')^-1 (y - A D),    V = Cov[u | u_t] = (sigma^2 / alpha) dD/du_t

A picks the observed entries, y are their values, known with noise n (inverse.py has it for any A).

Offers `posterior_denoiser` (a denoiser again, for any sampler) and `guided`; `repaint` needs no derivative: it keeps
the observed entries at their noise level and goes back and forth so that the rest can agree with them. Observed
entries are put back exactly.

References: PiGDM (Song 2023, ICLR); MMPS (Rozet 2024, arXiv:2405.13712); RePaint (Lugmayr 2022, arXiv:2201.09865).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..randomness import Rng
from . import inverse
from .diffusion import Denoiser, Path, ddim, heun, nodes, prior, reverse_step


def posterior_denoiser(
    denoise: Denoiser, mask: Tensor, values: Tensor, *, noise: float = 1e-3, iterations: int = 8, data_std: float = 1.0
) -> Denoiser:
    """The denoiser E[u | u_t, y].

    Args:
        denoise: E[u | u_t]; differentiable in u_t.
        mask: bool, (B, *event), True where an entry is observed.
        values: (B, *event), read where mask is True.
        noise: standard deviation of the observation.
        iterations: of the conjugate gradients; as many as observed entries make the solve exact.
        data_std: standard deviation of the data; no mean goes further out than `inverse.REACH` of it, or 1.5 times
            what is seen.
    """

    def seen(u: Tensor) -> Tensor:
        return torch.where(mask, u, 0.0)

    far = (1.5 * seen(values).abs().max()).clamp_min(inverse.REACH * data_std)
    within = -far, far
    return inverse.posterior_denoiser(denoise, seen, seen(values), noise=noise, iterations=iterations, within=within)


def guided(
    denoise: Denoiser,
    mask: Tensor,
    values: Tensor,
    path: Path,
    rng: Rng | torch.Generator | int | None = None,
    *,
    method: str = "heun",
    steps: int = 64,
    noise: float = 1e-3,
    iterations: int = 8,
    data_std: float = 1.0,
) -> Tensor:
    """Completed draws (B, *event) of u given its entries where mask is True.

    Args:
        denoise: E[u | u_t].
        mask, values: (B, *event); the observed entries and where they are.
        path: the noise path.
        rng: randomness.
        method: "heun" or "ancestral", both with the posterior denoiser; or "repaint".
        steps: steps of the sampler.
        noise, iterations: of `posterior_denoiser`.
        data_std: standard deviation of the data at the prior.

    Raises:
        ValueError: unknown method, or shapes of mask and values that differ.
    """
    if mask.shape != values.shape:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, expected that of values, {tuple(values.shape)}.")
    if method not in ("heun", "ancestral", "repaint"):
        raise ValueError(f"method: got {method!r}, expected 'heun', 'ancestral' or 'repaint'.")
    rng = rng if isinstance(rng, Rng) else Rng(rng, values.device)
    values = torch.where(mask, values, 0.0)  # what is not observed may be NaN
    if method == "repaint":
        return repaint(denoise, mask, values, path, rng, steps=steps, data_std=data_std)
    posterior = posterior_denoiser(denoise, mask, values, noise=noise, iterations=iterations, data_std=data_std)
    u = prior(path, tuple(values.shape), rng, data_std, values.dtype)
    u = heun(posterior, u, path, steps) if method == "heun" else ddim(posterior, u, path, steps, rng, 1.0)
    return torch.where(mask, values, u)


def repaint(
    denoise: Denoiser,
    mask: Tensor,
    values: Tensor,
    path: Path,
    rng: Rng,
    *,
    steps: int = 64,
    repeats: int = 5,
    data_std: float = 1.0,
) -> Tensor:
    """Completed draws: DDPM steps with the observed entries put in at their noise level, each step `repeats` times.

    Between the repeats the noise of the step is added again. Many steps and repeats bring the draws near p(u_m | u_o).
    """
    grid = nodes(path, steps)
    u = prior(path, tuple(values.shape), rng, data_std, values.dtype)
    shape = tuple(u.shape)
    for here, there in zip(grid[:-1], grid[1:]):
        for i in range(repeats):
            ones = torch.ones(len(u), dtype=u.dtype, device=u.device)
            known = there[0] * values + there[1] * rng.normal(shape, u.dtype)
            v = reverse_step(denoise(u, here[0] * ones, here[1] * ones), u, here, there, rng)
            v = torch.where(mask, known, v)
            ratio = here[0] / there[0]
            if i < repeats - 1 and there[1] > 0:
                u = ratio * v + math.sqrt(max(0.0, here[1] ** 2 - (ratio * there[1]) ** 2)) * rng.normal(shape, u.dtype)
        u = v
    return torch.where(mask, values, u)
