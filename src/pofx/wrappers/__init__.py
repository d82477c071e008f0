"""Models made of models: wrap, do not subclass, to change behaviour. A wrapper offers what it can forward.

Relaxed(m)      any data for a Euclidean family                     relaxed.py
Fixed(m, c)     p(x | c) with c held fast                           guided.py
Guided(m, w)    classifier-free guidance                            guided.py
Distilled(m)    a diffusion that draws in a few network calls       distilled.py
Joint(prior, m) p(c) p(x | c)                                       joint.py
Ensemble(m_k)   p(x) = mean_k p_k(x)                                joint.py
InLatent(a, m)  p(z) of the codes of an autoencoder, and p(x | z)   latent.py
"""

from __future__ import annotations

from pofx.wrappers.base import Staged, Wrapped
from pofx.wrappers.decoded import Charted, Point
from pofx.wrappers.distilled import Distilled, distil
from pofx.wrappers.guided import Fixed, Guided
from pofx.wrappers.joint import Ensemble, Joint, joint
from pofx.wrappers.latent import InLatent
from pofx.wrappers.relaxed import Relaxed, adapted

__all__ = [
    "Charted", "Distilled", "Ensemble", "Fixed", "Guided", "InLatent", "Joint", "Point", "Relaxed", "Staged", "Wrapped",
    "adapted", "distil", "joint",
]  # fmt: skip
