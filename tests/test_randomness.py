"""Rng: one seed one answer, slices of a batch see the numbers of the whole, laws are what their names say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from pofx.randomness import Opposed, Rng, Rows


def test_a_seed_decides_and_streams_move_on():
    assert torch.equal(Rng(3).normal((5,)), Rng(3).normal((5,)))
    assert not torch.equal(Rng(3).normal((5,)), Rng(4).normal((5,)))
    rng = Rng(3)
    assert not torch.equal(rng.normal((5,)), rng.normal((5,)))
    assert not torch.equal(Rng(None).normal((5,)), Rng(None).normal((5,)))


def test_a_stream_is_shared_not_copied():
    first = Rng(0)
    second = Rng(first)
    a, b = first.uniform((3,)), second.uniform((3,))
    assert torch.equal(torch.cat([a, b]), torch.cat([(r := Rng(0)).uniform((3,)), r.uniform((3,))]))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Rng(generator).uniform((3,)), a)


def test_split_streams_are_new_and_reproducible():
    a, b = Rng(0), Rng(0)
    assert torch.equal(a.split().normal((4,)), b.split().normal((4,)))
    assert not torch.equal(a.split().normal((4,)), b.normal((4,)))


@pytest.mark.parametrize("bad", [1.5, "0", True, np.random.default_rng(0)])
def test_other_sources_are_refused(bad):
    with pytest.raises(TypeError, match="expected"):
        Rng(bad)


def test_derived_streams_differ_in_every_word():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**31, 5, 0), (5, 2**31, 0), (0, 5, 2**31)]
    first = [float(Rng.derive(*key).uniform((), torch.float64)) for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [float(Rng.derive(*key).uniform((), torch.float64)) for key in keys]


@pytest.mark.parametrize("shape", [(6,), (6, 2), (12, 3), (18,)])
def test_slices_of_a_batch_see_the_numbers_of_the_whole(shape):
    times = shape[0] // 6
    whole = Rng.derive(1, 2, rows=Rows(0, 6, 6)).normal(shape)
    parts = []
    for start in (0, 2, 4):
        rng = Rng.derive(1, 2, rows=Rows(start, 2, 6))
        parts.append(rng.normal((2 * times, *shape[1:])).reshape(times, 2, *shape[1:]))
    assert torch.equal(torch.cat(parts, 1).reshape(shape), whole)


def test_slices_stay_together_over_several_draws():
    def draws(rng, rows):
        return [rng.uniform((rows,)), rng.normal((rows, 2)), rng.bernoulli(0.5, (rows,)), rng.integers(9, (rows,))]

    whole = draws(Rng(0, rows=Rows(0, 4, 4)), 4)
    halves = [draws(Rng(0, rows=Rows(k, 2, 4)), 2) for k in (0, 2)]
    for i, one in enumerate(whole):
        assert torch.equal(torch.cat([h[i] for h in halves]), one)


def test_laws():
    for seed in range(10):
        rng = Rng(seed)
        assert scipy.stats.kstest(rng.normal((2000,)).numpy(), "norm").pvalue > 1e-6
        assert scipy.stats.kstest(rng.uniform((2000,)).numpy(), "uniform").pvalue > 1e-6
        assert scipy.stats.chisquare(torch.bincount(rng.integers(7, (2000,)), minlength=7).numpy()).pvalue > 1e-6
        assert abs(float(rng.bernoulli(0.3, (2000,)).float().mean()) - 0.3) < 5 * (0.21 / 2000) ** 0.5
        p = torch.tensor([0.7, 0.2, 0.1])
        counts = torch.bincount(rng.categorical(p.log().expand(2000, -1)), minlength=3)
        assert scipy.stats.chisquare(counts.numpy(), 2000 * p.double().numpy() / p.double().sum().item()).pvalue > 1e-6


def test_impossible_codes_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 0.0]).expand(20_000, -1)
    assert 1 not in Rng(0).categorical(logits).unique()


def test_permutations_are_uniform():
    rng = Rng(0)
    seen = torch.stack([rng.permutation(3) for _ in range(3000)])
    code = (seen * torch.tensor([9, 3, 1])).sum(1)
    counts = torch.unique(code, return_counts=True)[1]
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6


def test_the_global_state_is_left_alone():
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rng = Rng(None)
    rng.normal((3,)), rng.permutation(4), rng.categorical(torch.zeros(2, 3)), rng.split(), Rng.derive(1, 2)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_opposed_rows():
    rng = Opposed(Rng(0), 10, 4)
    e = rng.normal((10, 500))
    assert torch.equal(e[6:], -e[:4]) and abs(float(e.mean())) < 0.05 and abs(float(e.std()) - 1) < 0.05
    assert float((e[4] * e[5]).mean()) < 0.2 and not torch.equal(e, rng.normal((10, 500)))
    other = rng.normal((8, 3))
    assert not torch.equal(other[4:], -other[:4])
