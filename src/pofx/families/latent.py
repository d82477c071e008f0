"""Latent: a model of the codes of an autoencoder, both named. Latent diffusion is its default.

    p(x | c) = E_{z ~ p(z | c)} p(x | z)

Everything is done by the wrapper `InLatent`, where the equations are; this entry makes it of two families by their
names, so that `fit(data, "latent")`, `compare` and saved folders know it like any other family.

Offers sample, encode and decode, and log_prob (a lower bound) where both parts have a density.
References: latent diffusion (Rombach 2022, arXiv:2112.10752); two-stage VAE (Dai and Wipf 2019, arXiv:1903.05789).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pofx.families import family
from pofx.model import Card
from pofx.wrappers import InLatent


class Latent(InLatent):
    """Autoencoder and prior, by name.

    Args:
        autoencoder: "vae", "hvae", "vqvae" or "autoencoder".
        prior: any family that can learn its codes: "diffusion", "flow", "mixture", "autoregressive" (of vqvae), ...
        autoencoder_options, prior_options: hyper-parameters of the two.
        share: of the budget that the autoencoder is fitted in.
    """

    card = Card(
        density="lower bound",
        sampling="as the prior",
        training="two stages: autoencoder, then prior",
        latents="as the autoencoder",
        architecture="a generative model inside an autoencoder",
        branch=("explicit", "approximate", "variational"),
        incomplete=InLatent.incomplete,
        summary="an autoencoder says how x looks, a model of its codes what there is",
        reference="Rombach et al. 2022, arXiv:2112.10752",
    )
    autoencoder: str = "vae"  # type: ignore[assignment]
    prior: str = "diffusion"  # type: ignore[assignment]

    def __init__(
        self,
        *,
        autoencoder: str = "vae",
        prior: str = "diffusion",
        autoencoder_options: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
        share: float = 0.5,
    ) -> None:
        parts = family(autoencoder)(**(autoencoder_options or {})), family(prior)(**(prior_options or {}))
        super().__init__(*parts, share=share)
        self.autoencoder, self.prior = autoencoder, prior  # type: ignore[assignment]
        self.autoencoder_options, self.prior_options = autoencoder_options, prior_options

    @property
    def name(self) -> str:
        return "latent"
