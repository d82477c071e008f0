"""One-line mutants of our own mathematics, each with the tests expected to kill it: who guards the guards?

    python tests/mutants.py [part of a name ...]     prints killed or SURVIVED for each; exit status 1 if one survives

src is copied to a temporary folder and changed there; the repository itself is never touched.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 300  # seconds; a mutant that hangs its tests is killed too


@dataclass(frozen=True)
class Mutant:
    """One changed line: old becomes new in a file below src/pofx, and the tests (pytest arguments) must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("gaussian: denoise factor", "families/gaussian.py",
           "shrink = a * values / (a**2 * values + s**2)", "shrink = a * values / (a * values + s**2)",
           "test_oracle.py -k denoise_is"),
    Mutant("gaussian: conditional covariance", "families/gaussian.py",
           "covariance = s[~o][:, ~o] - gain", "covariance = s[~o][:, ~o] + gain", "test_oracle.py -k conditional"),
    Mutant("gaussian: EM forgets the variance of what it fills in", "families/gaussian.py",
           "centred.T @ centred / len(centred) + extra", "centred.T @ centred / len(centred)", "test_oracle.py -k em_"),
    Mutant("gaussian: log determinant", "families/gaussian.py",
           "- L.diagonal().log().sum()", "+ L.diagonal().log().sum()", "test_oracle.py -k scipys"),
    Mutant("relaxed: sign of the weight", "wrappers/relaxed.py",
           "value.shifted(self._chart", "value.shifted(-self._chart",
           "test_oracle.py -k unbiased"),
    Mutant("relaxed: mean of draws", "wrappers/relaxed.py",
           "value = torch.logsumexp(log_w, 0) - math.log(draws)", "value = torch.logsumexp(log_w, 0)",
           "test_oracle.py -k bound"),
    Mutant("relaxed: Jacobian of a part", "wrappers/relaxed.py",
           "self._chart.log_weight(u, x, observed))", "self._chart.log_weight(u, x))",
           "test_oracle.py -k relaxed"),
    Mutant("relaxed: one u for all draws", "wrappers/relaxed.py",
           "self._chart.encode(rows, rng), masks", "self._chart.encode(rows), masks", "test_agreement.py -k bins"),
    Mutant("chart: width of the bin", "kinds/relax.py",
           "return slope + log_step", "return slope - log_step", "test_agreement.py test_oracle.py -k relaxed"),
    Mutant("chart: noise off centre", "kinds/relax.py",
           "(rng.uniform(tuple(x.shape), torch.float64) - 0.5)", "(rng.uniform(tuple(x.shape), torch.float64) - 0.4)",
           "test_oracle.py -k unbiased"),
    Mutant("chart: density of the code's noise", "kinds/relax.py",
           "log_q = -0.5 * error.square().sum(-1)", "log_q = -1.0 * error.square().sum(-1)",
           "test_oracle.py -k category"),
    Mutant("likelihood: logistic interval", "kinds/likelihood.py",
           "torch.log(-torch.expm1(-gap))", "torch.log(-torch.expm1(-gap / 2))", "test_kinds.py"),
    Mutant("joint: prior", "wrappers/joint.py",
           "for p in parts], -1) + self.log_prior", "for p in parts], -1)", "test_wrappers.py -k joint"),
    Mutant("guided: telescoping", "wrappers/guided.py",
           "total + weight * (guided - last)", "total + weight * guided", "test_wrappers.py -k guidance"),
    Mutant("heun: average of the slopes", "engines/diffusion.py",
           "(w + 0.5 * h * slope)", "(w + 0.4 * h * slope)", "test_engines.py -k 'order or draw'"),
    Mutant("paths: rate of the linear schedule", "engines/paths.py",
           "(self.beta_max - self.beta_min) * t**2", "(self.beta_max - self.beta_min) * t**3",
           "test_oracle.py -k pinned"),
    Mutant("paths: prior as a variance", "engines/diffusion.py",
           "rng.normal(shape, dtype) * _end_std(path, data_std)", "rng.normal(shape, dtype) * _end_std(path, 1.0) ** 2",
           "test_oracle.py -k samplers"),
    Mutant("ancestral: noise", "engines/diffusion.py",
           "return u + tau * rng.normal", "return u + 3 * tau * rng.normal", "test_oracle.py -k samplers"),
    Mutant("multistep: extrapolation", "engines/diffusion.py",
           "(h / (2 * before[1]))", "(h / before[1])", "test_engines.py -k 'order and 2m'"),
    Mutant("churn: noise that is added", "engines/diffusion.py",
           "raised**2 - (s / a) ** 2", "raised**2", "test_engines.py -k 'draw and churn'"),
    Mutant("columns: width of the evidence", "engines/columns.py",
           "away.square() / spread + spread.log()", "away.square() / spread", "test_engines_columns.py"),
    Mutant("columns: mean of a piece", "engines/columns.py",
           "self.middle + away * self.width", "self.middle - away * self.width", "test_engines_columns.py"),
    Mutant("schedule: weight of a level", "engines/bound.py",
           "weight = 1 / (cells * p[k])", "weight = cells * p[k]", "test_family_diffusion_variants.py -k monotone"),
    Mutant("diffusion: what eps says", "families/diffusion.py",
           "return 1 / alpha, sigma / alpha", "return 1 / alpha, sigma", "test_family_diffusion_variants.py -k right"),
    Mutant("distilled: where one step must point", "wrappers/distilled.py",
           "(v - s1 / s * u)", "(v + s1 / s * u)", "test_wrapper_distilled.py -k target"),
    Mutant("ode: sign of the divergence", "engines/ode.py",
           "log_prior(z) + integrals.mean(1)", "log_prior(z) - integrals.mean(1)", "test_oracle.py -k ode"),
    Mutant("guidance: sign of the residual", "engines/inverse.py",
           "moved = still + solve(", "moved = still - solve(",
           "test_oracle.py -k guidance"),
    Mutant("bound: weight of the integral", "engines/bound.py",
           "half = 0.5 * span.width", "half = 0.25 * span.width", "test_family_diffusion.py"),
    Mutant("hmc: kinetic energy", "engines/mcmc.py",
           "0.5 * (v**2 - u**2)", "0.5 * (u**2 - v**2)", "test_engines_chains.py"),
    Mutant("ais: sign of the reverse", "engines/ais.py",
           'LogZ(-value, stderr, "upper"', 'LogZ(value, stderr, "upper"', "test_engines_chains.py -k anneal"),
    Mutant("impute: weight of a particle", "tasks/impute.py",
           "log_w = log_w + torch.where(mask", "log_w = log_w - torch.where(mask", "test_tasks.py -k particles"),
    Mutant("impute: Metropolis ratio", "tasks/impute.py",
           "log_weight(fresh) - log_weight(z)", "log_weight(z) - log_weight(fresh)", "test_tasks.py -k gibbs"),
    Mutant("impute: Langevin noise", "tasks/impute.py",
           "(2 * step) ** 0.5", "(0.5 * step) ** 0.5", "test_oracle.py -k rough"),
    Mutant("restore: pairs of equal noise", "randomness.py",
           "-e[: self.pairs]", "e[: self.pairs]", "test_restore.py -k pairs"),
    Mutant("restore: spread of pairs as of single draws", "tasks/restore.py",
           "return (((first + last) / 2).var(0)", "return (2 * ((first + last) / 2).var(0)",
           "test_restore.py -k pairs"),
    Mutant("likelihood: masses of far logistics as differences of ones", "kinds/likelihood.py",
           "if bool((inside < FAR).any()):", "if False:", "test_kinds.py -k masses_of_levels"),
    Mutant("likelihood: masses of a share of e^-20 as differences of ones", "kinds/likelihood.py",
           "FAR = -3.0", "FAR = -30.0", "test_kinds.py -k masses_of_levels"),
    Mutant("anomaly: surprise expects nothing", "tasks/anomaly.py",
           "score[rows] += paid - _expected_nats(", "score[rows] += paid - 0 * _expected_nats(",
           "test_anomaly.py -k surprise"),
    Mutant("anomaly: surprise of numbers", "tasks/anomaly.py",
           "return torch.stack(each).mean(0)", "return torch.stack(each).sum(0)", "test_anomaly.py -k surprise"),
    Mutant("p-values: the judged row is not among the others", "metrics/scores.py",
           "theirs = (above + (asked[:, j : j + 1] >= known)).min(0)", "theirs = above.min(0)",
           "test_metrics.py -k strangest"),
    Mutant("anomaly: sign", "tasks/anomaly.py",
           "torch.nan_to_num(-found.value,", "torch.nan_to_num(found.value,", "test_agreement.py -k anomaly"),
    Mutant("conformal: one more", "metrics/scores.py",
           'return (1 + len(cal) - np', 'return (len(cal) - np', "test_agreement.py -k p_values"),
    Mutant("quality: lower and upper", "records.py",
           "return self if self is other else Quality.ESTIMATE", "return self", "test_agreement.py -k quality"),
    Mutant("rng: slice of a batch", "randomness.py",
           "full[:, rows.start : rows.start + rows.count]", "full[:, : rows.count]", "test_randomness.py"),
    Mutant("rng: Gumbel", "randomness.py",
           "logits.double() - torch.log(", "logits.double() + torch.log(", "test_randomness.py -k laws"),
    Mutant("flow: slope of the inverse spline", "nn/splines.py",
           "return f, -log_slope if inverse else log_slope, Curve", "return f, log_slope, Curve",
           "test_nn_bijections.py -k maps_of"),
    Mutant("flow: log determinant of a layer", "nn/couplings.py",
           "return z, log_slope.sum(0)", "return z, -log_slope.sum(0)", "test_nn_bijections.py -k layer_is"),
    Mutant("flow: written gradient of a spline", "nn/splines.py",
           "torch.addcmul(b * rr, n, q, value=-1)", "torch.addcmul(b * rr, n, q, value=1)",
           "test_nn_bijections.py -k written"),
    Mutant("flow: a mask that sees its own entry", "nn/triangular.py",
           "(entry[:, None] > degree).repeat", "(entry[:, None] >= degree).repeat",
           "test_nn_bijections.py -k layer_is"),
    Mutant("flow: entry by entry forgets units", "nn/triangular.py",
           "weight[new, : len(source)], source)", "weight[new, : len(source)], 0 * source)",
           "test_nn_bijections.py -k entry_by"),
    Mutant("flow: tail of a marginal", "nn/marginals.py",
           "slope.log() - far", "slope.log() + far", "test_nn_bijections.py -k layer_is"),
    Mutant("experts: praise for blame", "families/experts.py",
           "(-z).clamp_min(0) ** POWER", "z.clamp_min(0) ** POWER", "test_anomaly.py -k experts"),
    Mutant("experts: gaps beside whole rows", "families/experts.py",
           "if not bool(pattern.all()):", "if False:", "test_anomaly.py -k row_with_a_gap"),
    Mutant("temper: an entry to the power T", "tasks/temper.py",
           "return log_p / temperature", "return log_p * temperature", "test_temper.py -k steps"),
    Mutant("temper: codes as wide as T", "tasks/temper.py",
           "math.sqrt(temperature) *", "temperature *", "test_temper.py -k latents"),
    Mutant("temper: weights of draws that are from p already", "tasks/temper.py",
           "(1 / temperature - 1) * log_p", "log_p / temperature", "test_temper.py -k weights"),
    Mutant("relaxed: a bound that nothing respects", "kinds/relax.py",
           "(number < self.low) | (number > self.high)", "(number < self.low) & (number > self.high)",
           "test_wrappers.py -k cannot_be"),
    Mutant("compress: a gap that later entries know", "tasks/programs.py",
           "(self.observed[rows] & (place < entry))", "(place < entry)", "test_compress_routes.py -k bits_of_gaps"),
    Mutant("donors: off from the wrong place", "engines/donors.py",
           "y = said + c * (e[0].unsqueeze(1) - r)", "y = said + c * e[0].unsqueeze(1) + r",
           "test_impute_engines.py -k mean_of_draws"),
    Mutant("donors: too narrow", "engines/donors.py",
           "y = said + c *", "y = said + 0.7 * c *", "test_impute_engines.py -k law_of_the_errors"),
    Mutant("donors: errors of rows that were seen", "engines/regressors.py",
           "return np.where(out.any(0), (said * out).sum(0) / out.sum(0).clip(1), said.mean(0))", "return said.mean(0)",
           "test_impute_engines.py -k scikit_learn"),
    Mutant("donors: a branch that ends early", "engines/regressors.py",
           "last = last[last]", "last = last[nodes]", "test_impute_engines.py -k rows_of_a_branch"),
    Mutant("conditionals: a start that forgets what is known", "families/conditionals.py",
           "z - torch.einsum(\"npq,knq->knp\", law.gain, z))", "z)",
           "test_impute.py -k start_of_the_chain"),
    Mutant("conditionals: rows that lack others tell how wide", "families/conditionals.py",
           "SURE = 6.0", "SURE = 0.0", "test_impute.py -k one_gap -m slow"),
    Mutant("forest: a category never seen goes left", "engines/boosting.py",
           "goes = np.full(CODES, bool(node[\"missing_go_to_left\"]))", "goes = np.full(CODES, True)",
           "test_family_trees.py -k forest"),
    Mutant("forest: sides swapped", "engines/boosting.py",
           "torch.where(goes, ~self.on_right", "torch.where(~goes, ~self.on_right", "test_family_trees.py -k forest"),
    Mutant("cells: rate of a tail", "engines/cells.py",
           "return rate.log() - rate * distance", "return -rate * distance", "test_family_trees.py -k cells"),
    Mutant("cells: the unit of a mass", "engines/cells.py",
           "math.log(self.step) if self.step else 0.0", "0.0", "test_family_trees.py -k cells"),
    Mutant("forks: left is right", "engines/forks.py",
           "@ right.double() + F.logsigmoid(-logits)", "@ right.double() + F.logsigmoid(logits)",
           "test_family_trees.py -k sums_to_one"),
    Mutant("forks: a booster of another fork's rows", "engines/forks.py",
           "y, held_y = self.leaf[rows] >= middle", "y, held_y = self.leaf[rows] > middle",
           "test_family_trees.py -k law_that"),
    Mutant("trees: a bound without its mean", "families/trees.py",
           "value = torch.logsumexp(log_w, 0) - math.log(draws)", "value = torch.logsumexp(log_w, 0)",
           "test_family_trees.py -k prefix_is_a_bound"),
    Mutant("copula: the density of z", "families/copula.py",
           "+ 0.5 * (low.square() + LOG_2PI)", "- 0.5 * (low.square() + LOG_2PI)",
           "test_family_copula.py -k densities"),
    Mutant("copula: scale of a conditional", "families/copula.py",
           "(low[rows, j] - mean) / scale, (high", "(low[rows, j] - mean), (high", "test_family_copula.py -k boxes"),
    Mutant("copula: sweeps forget the others", "families/copula.py",
           "mean = z[free, j] - (z[free] @ P[j]) / P[j, j]", "mean = z[free, j] - z[free, j]",
           "test_family_copula.py -k correlation"),
    Mutant("factors: Woodbury", "engines/factors.py",
           "square = gap.square() @ (1 / s) - turned", "square = gap.square() @ (1 / s) + turned",
           "test_family_mixture.py -k factor"),
    Mutant("factors: what the factors leave", "engines/factors.py",
           "C.diagonal() - (loading * C_beta).sum(1)", "C.diagonal() - loading.square().sum(1)",
           "test_family_mixture.py -k factor"),
    Mutant("tied: every component its own", "engines/normals.py",
           "centred, n = centred.mean(0).expand_as(centred), n.mean(0).expand_as(n)", "pass",
           "test_family_mixture.py -k own"),
    Mutant("discriminative: noise without the bin", "families/discriminative.py",
           "- log_s + columns.log_slope(u)", "+ log_s + columns.log_slope(u)",
           "test_family_discriminative.py -k ridge"),
    Mutant("discriminative: bias of two labels", "families/discriminative.py",
           "weight[:, codes], bias[codes] = coefficient.T, intercept", "weight[:, codes] = coefficient.T",
           "test_family_discriminative.py -k logistic"),
    Mutant("utility: trained on the test rows", "metrics/utility.py",
           "trees.fit(z, y)\n    p[:", "trees.fit(held, y[: len(held)])\n    p[:", "test_metrics_utility.py -k copy"),
    Mutant("kde: a row explains itself", "families/kde.py",
           "log_k[torch.arange(len(log_k)), index[part]] = -torch.inf", "pass", "test_family_kde.py"),
    Mutant("vae: sign in the KL", "nn/posteriors.py",
           "- 1) - self.diagonal.log()", "- 1) + self.diagonal.log()", "test_family_vae.py -k loss_is"),
    Mutant("vae: sign of log q", "families/vae.py",
           "beta * (self._log_prior(z) - log_q)", "beta * (self._log_prior(z) + log_q)", "test_family_vae.py -k truth"),
    Mutant("vae: the encoder's weights not squared", "families/vae.py",
           "lambda g: g * share.unsqueeze(-1)", "lambda g: g", "test_family_vae.py -k doubly"),
    Mutant("vae: chances of coins", "families/vae.py",
           "-self.L * math.log(2))", "-math.log(2))", "test_family_vae.py -k reaches_the_truth"),
    Mutant("posteriors: log det of a flow", "nn/posteriors.py",
           "log_q = log_q - log_det", "log_q = log_q + log_det", "test_posteriors.py -k log_q"),
    Mutant("posteriors: planar slope", "nn/posteriors.py",
           "1 + along * (1 - h.square())", "1 + along * (1 - h)", "test_posteriors.py -k log_q"),
    Mutant("estimators: half of DisARM", "engines/estimators.py",
           "gap = 0.5 * (f_b - f_other)", "gap = (f_b - f_other)", "test_posteriors.py -k disarm"),
    Mutant("estimators: VIMCO without its baseline", "engines/estimators.py",
           "(bound - without) * (log_q", "(0.5 * bound - without) * (log_q", "test_posteriors.py -k vimco"),
    Mutant("hvae: spread in log q", "families/hierarchical.py",
           "error.square() + s.log() + 0.5", "error.square() + 0.5", "test_family_hierarchical.py -k log_q"),
    Mutant("hvae: a group forgotten in the divergence", "families/hierarchical.py",
           "mu.square() + s.square() - 1)", "s.square() - 1)", "test_family_hierarchical.py -k loss_is"),
    Mutant("vqvae: no prior in the bound", "families/vqvae.py",
           "log_p + self._log_prior(z).double()", "log_p", "test_family_vqvae.py -k one_term"),
    Mutant("quantise: codes lag behind", "nn/quantise.py",
           "self.total.mul_(start)", "self.total.mul_(0.5 * start)", "test_family_vqvae.py -k running"),
    Mutant("latent: Jacobian of the standardisation", "wrappers/latent.py",
           "shifted(-self.spread.log().sum()", "shifted(self.spread.log().sum()", "test_latent.py -k closed_form"),
    Mutant("latent: a bound inside taken as a weight", "wrappers/latent.py",
           "if quality is Quality.EXACT:", "if quality is not Quality.ESTIMATE:", "test_latent.py -k noisy"),
    Mutant("latent: q forgotten", "wrappers/latent.py",
           "- q.log_prob(z).double()", "- 0 * q.log_prob(z).double()", "test_latent.py -k evidence"),
    Mutant("impute: the chain's prior", "tasks/impute.py",
           "log_x + model.log_code(value, given)", "log_x", "test_latent.py -k gibbs"),
    Mutant("loop: average of the weights", "training/loop.py",
           "self.parameters, 1 - decay)", "self.parameters, decay)", "test_training.py"),
    Mutant("coding: bins are centred", "tasks/coding.py",
           "(edges - 0.5) * self.step",
           "edges * self.step", "test_compress.py"),
    Mutant("classify: which side of the law is strange", "tasks/classify.py",
           "-_finite(torch.logsumexp(theirs, 1)), -_finite(log_p)",
           "_finite(torch.logsumexp(theirs, 1)), _finite(log_p)", "test_classify.py"),
    Mutant("restore: noise is a deviation", "engines/inverse.py",
           "noise**2 * w + along",
           "noise * w + along", "test_restore.py"),
    Mutant("information: a draw is near itself", "engines/information.py",
           "- digamma(_nearer(y, y, far))",
           "- digamma(_nearer(y, y, far) + 1)", "test_structure.py"),
    Mutant("information: draws of one label", "engines/information.py",
           "digamma(len(x)) - digamma(len(own))",
           "digamma(len(own)) - digamma(len(x))", "test_structure.py"),
    Mutant("depend: noise of one step", "tasks/depend.py",
           "step * (rng.uniform(tuple(x.shape)) - 0.5)",
           "4 * step * (rng.uniform(tuple(x.shape)) - 0.5)", "test_structure.py"),
    Mutant("depend: information of a normal", "tasks/depend.py",
           "(1 - torch.exp(-2 * info",
           "(1 - torch.exp(-1 * info", "test_structure.py"),
    Mutant("interpolate: radii in order", "tasks/interpolate.py",
           "((1 - s) * r_a + s * r_b)",
           "(s * r_a + (1 - s) * r_b)", "test_interpolate.py"),
    Mutant("space: means are rounded", "kinds/base.py",
           "torch.minimum(x.double().round().clamp_min(0), top)",
           "torch.minimum(x.double().floor().clamp_min(0), top)", "test_kinds.py -k nearest"),
    Mutant("likelihood: the likeliest name", "kinds/likelihood.py",
           "return params.argmax(-1)",
           "return params.argmin(-1)", "test_kinds.py -k likeliest"),
    Mutant("likelihood: codes are centred", "kinds/likelihood.py",
           "dtype=torch.float64, device=params.device) - 0.5", "dtype=torch.float64, device=params.device)",
           "test_kinds.py -k masses"),
    Mutant("plan: actions come before states", "tasks/plan.py",
           "drawn, states = drawn.tensor_split",
           "states, drawn = drawn.tensor_split", "test_plan.py -k trajectories"),
    Mutant("judge: the polynomial kernel", "metrics/samples.py",
           "(a @ b.T / x.shape[1] + 1) ** 3",
           "(a @ b.T / x.shape[1] - 1) ** 3", "test_judge.py"),
    Mutant("contribute: what the rest leaves", "tasks/contribute.py",
           "whole.value - rest.value",
           "rest.value - whole.value", "test_contribute.py"),
    Mutant("budget: validations are a share", "training/budget.py",
           "VALIDATING * left / max",
           "left / max", "test_training.py -k dear"),
    Mutant("mixture: conditional mean", "engines/normals.py",
           "shift = self.mean[:, hole] - (gain @",
           "shift = self.mean[:, hole] + (gain @", "test_family_mixture.py -k conditional_mean"),
    Mutant("entries: the farther knot weighs more", "nn/entries.py",
           "left * (1 - share) + right * share", "left * share + right * (1 - share)", "test_nn_causal.py -k knots"),
    Mutant("conditioner: a dropped picture is blank", "nn/conditioner.py",
           "torch.cat([x * known, known",
           "torch.cat([x, known", "test_conditioner.py -k map"),
    Mutant("gan: the critic sees the given picture", "families/gan.py",
           "parts += [m for m in",
           "parts += [0 * m for m in", "test_family_gan.py -k translator"),
)  # fmt: skip


def run(mutant: Mutant) -> bool:
    """Whether its tests fail on the mutant.

    Raises:
        ValueError: the line to change is not there exactly once, so the list is out of date.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "pofx" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.name}: {mutant.old!r} is {text.count(mutant.old)} times in {mutant.file}.")
        if not sound(mutant.tests):
            raise ValueError(f"{mutant.name}: its tests fail without the mutant too, so they kill nothing.")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        return not passes(copy, mutant.tests)


@functools.cache
def sound(tests: str) -> bool:
    """Whether the tests pass on the library as it is."""
    return passes(ROOT / "src", tests)


def passes(src: Path, tests: str) -> bool:
    """Whether the tests pass on a source folder."""
    import shlex

    words = [str(ROOT / "tests" / w) if w.endswith(".py") else w for w in shlex.split(tests)]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *words]
    environment = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT if src == ROOT / "src" else src.parent,
            env=environment,
            capture_output=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):  # 2-5: not a test that failed but tests that could not run
        raise ValueError(f"pytest {tests} could not run:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main(parts: list[str]) -> int:
    """Run the mutants whose names hold one of the parts; the number of those that are not known to be killed."""
    survivors = 0
    for mutant in MUTANTS:
        if parts and not any(part in mutant.name for part in parts):
            continue
        try:
            word = "killed" if run(mutant) else "SURVIVED"
        except ValueError as error:
            word = f"VOID ({str(error).splitlines()[0]})"
        survivors += word != "killed"
        print(f"{word:9} {mutant.name}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
