"""How answers and samples are judged, with confidence intervals.

Reading order: base, scores, samples, modes, copying, features, inception, table, utility, retrieval; of one kind each:
series, text, audio, video, shapes.
"""

from pofx.metrics.audio import log_spectral_distance, loudness_features, mel_cepstral_distance, signal_to_noise
from pofx.metrics.base import Metric, bootstrap, mean_metric, paired_difference, proportion
from pofx.metrics.copying import Copying, copying
from pofx.metrics.features import Features
from pofx.metrics.inception import Inception
from pofx.metrics.modes import Modes, modes
from pofx.metrics.privacy import closest_record, membership
from pofx.metrics.retrieval import Retrieval, right_first
from pofx.metrics.samples import C2ST, PRDC, c2st, frechet, frechet_gaussians, kid, mmd, prdc, sliced_wasserstein
from pofx.metrics.scores import (
    auroc,
    benjamini_hochberg,
    conformal_pvalues,
    crps_sample,
    crps_values,
    interval_coverage,
    rmse,
    strangest_pvalues,
)
from pofx.metrics.table import TableScore, column_shapes, pair_trends, valid_values
from pofx.metrics.utility import utility

__all__ = [
    "C2ST",
    "PRDC",
    "Copying",
    "Features",
    "Inception",
    "Metric",
    "Modes",
    "Retrieval",
    "TableScore",
    "auroc",
    "benjamini_hochberg",
    "bootstrap",
    "c2st",
    "closest_record",
    "column_shapes",
    "conformal_pvalues",
    "copying",
    "crps_sample",
    "crps_values",
    "frechet",
    "frechet_gaussians",
    "interval_coverage",
    "kid",
    "log_spectral_distance",
    "loudness_features",
    "mel_cepstral_distance",
    "membership",
    "mean_metric",
    "mmd",
    "modes",
    "paired_difference",
    "pair_trends",
    "prdc",
    "proportion",
    "right_first",
    "rmse",
    "signal_to_noise",
    "sliced_wasserstein",
    "strangest_pvalues",
    "utility",
    "valid_values",
]
