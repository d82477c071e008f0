"""Inception features with a stand-in for torch-fidelity: what is asked of it, and every refusal."""

from __future__ import annotations

import hashlib
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

import pofx
from pofx.metrics import Inception

MODULE = sys.modules["pofx.metrics.inception"]


class Extractor(torch.nn.Module):
    """Features that name their picture: its channels' means, and how it was asked for."""

    asked: list = []

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"] and feature_extractor_weights_path is not None, "None would download"
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and not torch.is_grad_enabled() and not self.training
        self.asked.append(tuple(x.shape))
        grid = x.float().flatten(2)
        means, spread = grid.mean(2), grid.std(2)
        return (torch.cat([means, spread], 1) * self.weight,)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file that passes for the weights, and a torch-fidelity that takes it."""
    file = tmp_path / "hub" / "checkpoints" / MODULE.WEIGHTS
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    package, module = (
        types.ModuleType("torch_fidelity"),
        types.ModuleType("torch_fidelity.feature_extractor_inceptionv3"),
    )
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(MODULE, "SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(Extractor, "asked", [])
    return file


def pictures(seed, n, channels=()):
    return np.random.default_rng(seed).integers(0, 256, (n, 9, 8, *channels), dtype=np.uint8)


def test_features_of_a_picture_are_its_own(weights):
    looks, x = Inception.load(), pictures(0, 70, (3,))
    many = looks(x)
    assert many.shape == (70, 6) and many.dtype == np.float64
    assert set(Extractor.asked) == {(32, 3, 9, 8)}, "always as many at once, so that no number hangs on its neighbours"
    assert np.array_equal(looks(x[33:36]), many[33:36])
    np.testing.assert_allclose(many[:, :3], x.mean((1, 2)), rtol=1e-5)
    grey = pictures(1, 5)
    assert np.array_equal(looks(grey), looks(grey[..., None]))
    assert np.array_equal(looks(grey), looks(np.repeat(grey[..., None], 3, -1)))


def test_judge_looks_at_pictures_with_it(weights):
    real, fake, train = (pictures(k, 60) for k in range(3))
    found = pofx.judge(real, fake, train, features="inception")
    assert found.features.startswith("Inception") and found["Frechet"].value > 0
    assert pofx.judge(real, fake, train, features=f"inception:{weights}").metrics == found.metrics
    assert pofx.judge(real, real, features="inception")["Frechet"].value == pytest.approx(0, abs=1e-3)
    assert pofx.judge(real, 255 - real // 4, features="inception")["c2st"].low > 0.9
    assert pofx.judge(real[..., None], fake[..., None], train[..., None], features="inception").metrics == found.metrics
    two = real > 127  # pictures of two levels are shown black and white
    assert pofx.judge(two.astype(np.uint8), two.astype(np.uint8), features="inception")["KID"].low < 0
    assert (MODULE.Inception.load()(255 * two.astype(np.uint8))[:, 0] > 50).all()


def test_levels_are_spread_over_a_byte(weights, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Inception, "__call__", lambda self, x: seen.append(x) or np.random.default_rng(0).normal(size=(len(x), 4))
    )
    two = (pictures(0, 30) > 127).astype(np.uint8)
    pofx.judge(two, two[::-1], features="inception")
    assert set(np.unique(seen[0])) == {0, 255} and np.array_equal(seen[0][..., 0], 255 * two)
    assert len(seen) == 2, "without training rows the real ones are the reference"


def test_what_is_lacking_is_said(weights, monkeypatch):
    x = pictures(0, 20)
    weights.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="SHA-256 .*expected .*not opened"):
        pofx.judge(x, x, features="inception")
    monkeypatch.setattr(MODULE, "SHA256", hashlib.sha256(b"other weights").hexdigest())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"torch-fidelity and torchvision .*pip install 'pofx\[inception\]'"):
        pofx.judge(x, x, features="inception")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=f"{MODULE.WEIGHTS} .*Nothing is downloaded"):
        pofx.judge(x, x, features="inception")
    with pytest.raises(FileNotFoundError, match="no file elsewhere.pth. Nothing"):
        pofx.judge(x, x, features="inception:elsewhere.pth")


def test_the_real_weights_are_the_published_ones():
    """Torch hub names a file by the first digits of its SHA-256."""
    assert MODULE.WEIGHTS.endswith(f"-{MODULE.SHA256[:8]}.pth") and len(MODULE.SHA256) == 64


def test_only_pictures_are_looked_at(weights):
    frame = pd.DataFrame({"a": np.arange(20.0)})
    weights.unlink()  # what rows there are is said first
    with pytest.raises(ValueError, match="takes pictures, and these rows are of the kind 'table'"):
        pofx.judge(frame, frame, features="inception")
    with pytest.raises(ValueError, match="got features='inceptionv4'; expected 'inception'"):
        pofx.judge(pictures(0, 20), pictures(1, 20), features="inceptionv4")
    weights.write_bytes(b"weights")
    looks = Inception.load(weights)
    for wrong in (pictures(0, 4).astype(np.float32), pictures(0, 4, (2,)), pictures(0, 4)[0], pictures(0, 0)):
        with pytest.raises(ValueError, match="expected pictures"):
            looks(wrong)
