"""pofx: learn p(x), then ask it. The public names, on one screen; each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pofx.check import check_family as check_family
    from pofx.check import check_model as check_model
    from pofx.data import Batch as Batch
    from pofx.data import Data as Data
    from pofx.data import open_data as open_data
    from pofx.imputer import Imputer as Imputer
    from pofx.kinds.base import Space as Space
    from pofx.kinds.base import Variable as Variable
    from pofx.model import Card as Card
    from pofx.model import Conditional as Conditional
    from pofx.model import Cursor as Cursor
    from pofx.model import Model as Model
    from pofx.model import Player as Player
    from pofx.model import Predictive as Predictive
    from pofx.model import Quality as Quality
    from pofx.model import Unsupported as Unsupported
    from pofx.model import Value as Value
    from pofx.randomness import Rng as Rng
    from pofx.tasks.anomaly import anomaly as anomaly
    from pofx.tasks.anomaly import watch as watch
    from pofx.tasks.augment import augment as augment
    from pofx.tasks.base import Answer as Answer
    from pofx.tasks.classify import classify as classify
    from pofx.tasks.cluster import cluster as cluster
    from pofx.tasks.compare import compare as compare
    from pofx.tasks.compress import compress as compress
    from pofx.tasks.compress import decompress as decompress
    from pofx.tasks.contribute import contribute as contribute
    from pofx.tasks.density import bits_per_dim as bits_per_dim
    from pofx.tasks.density import density as density
    from pofx.tasks.depend import depend as depend
    from pofx.tasks.dimension import dimension as dimension
    from pofx.tasks.embed import embed as embed
    from pofx.tasks.forecast import forecast as forecast
    from pofx.tasks.forecast import log_score as log_score
    from pofx.tasks.impute import impute as impute
    from pofx.tasks.interpolate import interpolate as interpolate
    from pofx.tasks.judge import Judgement as Judgement
    from pofx.tasks.judge import judge as judge
    from pofx.tasks.plan import plan as plan
    from pofx.tasks.restore import restore as restore
    from pofx.tasks.sample import sample as sample
    from pofx.tasks.stream import sample_to as sample_to
    from pofx.tasks.stylise import stylise as stylise
    from pofx.tasks.translate import translate as translate
    from pofx.tasks.traverse import traverse as traverse
    from pofx.training.fit import fit as fit
    from pofx.training.folder import load as load
    from pofx.training.loop import Diverged as Diverged
    from pofx.training.partly import fit_partly as fit_partly

__version__ = "0.1.0"

_HOMES = {
    "Card": "pofx.model", "Conditional": "pofx.model", "Cursor": "pofx.model", "Model": "pofx.model",
    "Player": "pofx.model", "Predictive": "pofx.model", "Quality": "pofx.model", "Unsupported": "pofx.model",
    "Value": "pofx.model", "Rng": "pofx.randomness",
    "Imputer": "pofx.imputer",
    "Batch": "pofx.data", "Data": "pofx.data", "open_data": "pofx.data",
    "Space": "pofx.kinds.base", "Variable": "pofx.kinds.base",
    "fit": "pofx.training.fit", "load": "pofx.training.folder", "Diverged": "pofx.training.loop",
    "sample": "pofx.tasks.sample", "sample_to": "pofx.tasks.stream",
    "density": "pofx.tasks.density", "impute": "pofx.tasks.impute",
    "anomaly": "pofx.tasks.anomaly", "watch": "pofx.tasks.anomaly", "classify": "pofx.tasks.classify",
    "augment": "pofx.tasks.augment", "dimension": "pofx.tasks.dimension", "traverse": "pofx.tasks.traverse",
    "fit_partly": "pofx.training.partly",
    "compress": "pofx.tasks.compress", "decompress": "pofx.tasks.compress",
    "compare": "pofx.tasks.compare", "bits_per_dim": "pofx.tasks.density",
    "contribute": "pofx.tasks.contribute", "forecast": "pofx.tasks.forecast", "log_score": "pofx.tasks.forecast",
    "cluster": "pofx.tasks.cluster", "depend": "pofx.tasks.depend", "embed": "pofx.tasks.embed",
    "interpolate": "pofx.tasks.interpolate", "restore": "pofx.tasks.restore",
    "translate": "pofx.tasks.translate",
    "plan": "pofx.tasks.plan", "stylise": "pofx.tasks.stylise",
    "judge": "pofx.tasks.judge", "Judgement": "pofx.tasks.judge",
    "Answer": "pofx.tasks.base", "check_model": "pofx.check", "check_family": "pofx.check",
}  # fmt: skip

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pofx' has no attribute {name!r}")
