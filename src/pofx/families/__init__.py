"""The families. A new family of ours is one file and one line here.

A user's own needs neither: it is named as `path.py:Class`, passed as a class, or made known by an entry point.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from pofx.model import Model

FAMILIES: dict[str, str] = {
    "gaussian": "pofx.families.gaussian:Gaussian",
    "mixture": "pofx.families.mixture:Mixture",
    "process": "pofx.families.process:Process",
    "kde": "pofx.families.kde:KDE",
    "experts": "pofx.families.experts:Experts",
    "trees": "pofx.families.trees:Trees",
    "conditionals": "pofx.families.conditionals:Conditionals",
    "copula": "pofx.families.copula:Copula",
    "discriminative": "pofx.families.discriminative:Discriminative",
    "autoregressive": "pofx.families.autoregressive:Autoregressive",
    "ngram": "pofx.families.ngram:NGram",
    "vae": "pofx.families.vae:VAE",
    "hvae": "pofx.families.hierarchical:HVAE",
    "vqvae": "pofx.families.vqvae:VQVAE",
    "autoencoder": "pofx.families.autoencoder:Autoencoder",
    "latent": "pofx.families.latent:Latent",
    "flow": "pofx.families.flow:Flow",
    "diffusion": "pofx.families.diffusion:Diffusion",
    "gan": "pofx.families.gan:GAN",
    "cycle": "pofx.families.cycle:Cycle",
    "energy": "pofx.families.energy:Energy",
    "rbm": "pofx.families.rbm:RBM",
    "continuous_flow": "pofx.families.continuous_flow:ContinuousFlow",
    "gsn": "pofx.families.gsn:GSN",
    "integer_flow": "pofx.families.integer_flow:IntegerFlow",
    "masked_diffusion": "pofx.families.masked_diffusion:MaskedDiffusion",
}

# one of each branch of the taxonomy: what `compare` tries when it is not told which
USUAL = ("gaussian", "mixture", "kde", "autoregressive", "vae", "flow", "diffusion", "gan", "energy")


def family(which: str | type[Model]) -> type[Model]:
    """The class of a family: by name, as `path.py:Class`, by entry point in the group `pofx.families`, or as itself.

    Raises:
        TypeError: the class that was passed is no Model.
        ValueError: nothing has that name, or it names no Model; the message lists what there is.
    """
    if isinstance(which, type):
        if not issubclass(which, Model):
            raise TypeError(f"family: got the class {which.__name__}, which is not a pofx.Model.")
        return which
    if which in FAMILIES:
        module, name = FAMILIES[which].split(":")
        return getattr(importlib.import_module(module), name)
    if ".py:" in which:
        return _from_file(which)
    found = [e for e in entry_points(group="pofx.families") if e.name == which]
    if found:
        return found[0].load()
    raise ValueError(f"family {which!r} is unknown; expected one of {', '.join(FAMILIES)}, or path.py:Class.")


def _from_file(which: str) -> type[Model]:
    path, name = which.rsplit(":", 1)
    if not Path(path).is_file():
        raise ValueError(f"family {which!r}: there is no file {path}.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"family {which!r}: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, name, None), type) or not issubclass(getattr(module, name), Model):
        raise ValueError(f"family {which!r}: {path} holds no pofx.Model named {name}.")  # noqa: TRY004 (a name)
    return getattr(module, name)
