"""The questions. A new task is one file and one line here."""

from __future__ import annotations

TASKS: dict[str, str] = {
    "sample": "pofx.tasks.sample",
    "density": "pofx.tasks.density",
    "contribute": "pofx.tasks.contribute",
    "impute": "pofx.tasks.impute",
    "anomaly": "pofx.tasks.anomaly",
    "classify": "pofx.tasks.classify",
    "augment": "pofx.tasks.augment",
    "compress": "pofx.tasks.compress",
    "embed": "pofx.tasks.embed",
    "cluster": "pofx.tasks.cluster",
    "depend": "pofx.tasks.depend",
    "dimension": "pofx.tasks.dimension",
    "traverse": "pofx.tasks.traverse",
    "interpolate": "pofx.tasks.interpolate",
    "restore": "pofx.tasks.restore",
    "translate": "pofx.tasks.translate",
    "forecast": "pofx.tasks.forecast",
    "plan": "pofx.tasks.plan",
}
"""Name -> module; each holds QUESTION (the question in words), UNIT and ROUTES, best first."""
