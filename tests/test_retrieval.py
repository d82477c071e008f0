"""Retrieval: what a caption's words say of x, and the share of captions that are found."""

import numpy as np
import pytest
import torch

from pofx.metrics.retrieval import Retrieval, candidates, right_first

COLOURS, PLACES = ("red", "green", "blue"), ("left", "right")
CAPTIONS = [f"a {c} block on {g}, {p}" for c in COLOURS for g in COLOURS if c != g for p in PLACES]


def pictures(captions: list[str], seed: int) -> np.ndarray:
    """8 x 8 pixels: a block of one colour on a ground of another."""
    rng, found = np.random.default_rng(seed), []
    for text in captions:
        words = text.replace(",", "").split()
        x = np.zeros((8, 8, 3))
        x[..., COLOURS.index(words[4])] = 200
        side = slice(0, 4) if words[5] == "left" else slice(4, 8)
        x[2:6, side] = 0
        x[2:6, side, COLOURS.index(words[1])] = 200
        found.append(np.clip(x + rng.normal(0, 20, x.shape), 0, 255))
    return np.stack(found).astype(np.uint8)


@pytest.fixture(scope="module")
def judge() -> Retrieval:
    said = [CAPTIONS[k] for k in np.random.default_rng(0).integers(12, size=600)]
    return Retrieval.fit(pictures(said, 1), said, steps=60, batch=64, width=8)


class TestRetrieval:
    def test_fresh_pairs_are_found_and_shuffled_ones_are_not(self, judge):
        """Also those that differ in the order of their words alone."""
        said = CAPTIONS * 20
        x, others = pictures(said, 2), candidates(said, CAPTIONS, 0, count=12)
        assert right_first(judge.scores(x, others)).value > 0.95
        order = np.random.default_rng(3).permutation(len(said))
        wrong = right_first(judge.scores(x[order], others))
        assert wrong.low < 1 / 12 < wrong.high

    def test_rows_are_alone(self, judge):
        x = pictures(CAPTIONS, 4)
        np.testing.assert_allclose(judge.logits(x[:1]), judge.logits(x)[:1], atol=1e-4)

    def test_scores_differ_as_log_p_does(self, judge):
        """From the Bernoulli probabilities of all words and pairs, by SciPy."""
        from scipy.special import expit
        from scipy.stats import bernoulli

        x, rows = pictures(CAPTIONS[:2], 5), [CAPTIONS[:3], CAPTIONS[4:7]]
        q = expit(judge.logits(x).astype(float))
        log_p = np.array([[bernoulli(p).logpmf(y).sum() for y in judge.bags(r)] for p, r in zip(q, rows, strict=True)])
        found = judge.scores(x, rows)
        np.testing.assert_allclose(found - found[:, :1], log_p - log_p[:, :1], atol=1e-3)

    def test_words_and_pairs(self, judge):
        one, other = judge.bags(["a red block on blue, left", "a blue block on red, left"])
        named = {s for s, k in judge.symbols.items() if one[k] > other[k]}
        assert named == {"a red", "red block", "on blue", "blue left"}
        assert one.sum() == 6 + 5

    def test_probabilities_are_those_of_the_data(self):
        """Captions that x says nothing of: q is how often each word comes."""
        rng = np.random.default_rng(0)
        said = ["yes" if u < 0.3 else "no" for u in rng.uniform(size=2000)]
        judge = Retrieval.fit(rng.normal(size=(2000, 2)), said, steps=200, batch=256)
        logits = judge.logits(rng.normal(size=(500, 2)))[:, judge.symbols["yes"]]
        share = np.mean(np.array(said) == "yes")
        assert abs(logits.mean() - np.log(share / (1 - share))) < 0.15

    def test_the_seed_says_it_all_and_nothing_global_changes(self):
        x, before = pictures(CAPTIONS, 6), torch.get_rng_state()
        fits = [Retrieval.fit(x, CAPTIONS, k, steps=3, width=4).logits(x) for k in (0, 0, 1)]
        assert (fits[0] == fits[1]).all() and (fits[0] != fits[2]).any()
        assert (torch.get_rng_state() == before).all()

    def test_rows_that_are_no_pictures(self):
        rng = np.random.default_rng(0)
        k = rng.integers(4, size=400)
        x = 3 * np.eye(4)[k] + 0.3 * rng.normal(size=(400, 4))
        said = [("low", "middling", "high", "very high")[i] for i in k]
        judge = Retrieval.fit(x, said, steps=60, batch=64)
        others = candidates(said, said, 0, count=4)
        assert right_first(judge.scores(x, others)).value > 0.95


class TestRightFirst:
    def test_by_hand(self):
        found = right_first([[2.0, 1, 0], [0, 1, 2], [1, 1, 0], [3, 2, 1]])
        assert found.value == 0.5 and found.n == 4  # a tie is a miss
        assert right_first([[2.0, 1], [0, 1]], [0, 1]).value == 1

    def test_chance(self):
        scores = np.random.default_rng(0).normal(size=(20_000, 20))
        found = right_first(scores)
        assert abs(found.value - 0.05) < 5 * (0.05 * 0.95 / 20_000) ** 0.5

    @pytest.mark.parametrize("scores", [[[1.0]], [[np.nan, 1.0]], np.zeros((0, 3)), [1.0, 2.0]])
    def test_bad_scores(self, scores):
        with pytest.raises(ValueError, match="expected numbers"):
            right_first(scores)

    def test_a_column_that_is_not_there(self):
        with pytest.raises(ValueError, match="expected columns 0 .. 1"):
            right_first([[1.0, 2.0]], [2])


class TestCandidates:
    def test_itself_first_then_near_ones_all_different(self):
        rows = candidates(CAPTIONS[:5], CAPTIONS, 0, count=9)
        for caption, row in zip(CAPTIONS, rows, strict=False):
            assert row[0] == caption and len(set(row)) == 9
            own = set(caption.replace(",", "").split())
            common = [len(own & set(c.replace(",", "").split())) for c in row]
            missed = [len(own & set(c.replace(",", "").split())) for c in set(CAPTIONS) - set(row)]
            assert min(common[1:5]) >= max(missed)

    def test_none_near_is_uniform(self):
        rows = candidates(CAPTIONS[:1] * 4000, CAPTIONS, 0, count=4, near=0.0)
        counts = np.array([sum(c in row[1:] for row in rows) for c in CAPTIONS[1:]])
        expected = 4000 * 3 / 11
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - 3 / 11))).all()

    def test_too_few(self):
        with pytest.raises(ValueError, match="12 different captions"):
            candidates(CAPTIONS[:1], CAPTIONS, 0, count=20)


class TestBadInput:
    def test_another_number_of_captions(self):
        with pytest.raises(ValueError, match="got 12 rows and 11 captions"):
            Retrieval.fit(pictures(CAPTIONS, 0), CAPTIONS[1:])

    def test_captions_that_are_all_alike(self):
        with pytest.raises(ValueError, match="1 of them different"):
            Retrieval.fit(pictures(CAPTIONS, 0), ["a block"] * 12)

    def test_a_caption_without_words(self):
        with pytest.raises(ValueError, match="has no words"):
            Retrieval.fit(pictures(CAPTIONS, 0), ["...", *CAPTIONS[1:]])

    def test_a_word_that_was_never_read(self, judge):
        with pytest.raises(ValueError, match="'purple' was in no caption of the fit"):
            judge.bags(["a purple block on red, left"])

    def test_pictures_of_another_size(self, judge):
        with pytest.raises(ValueError, match=r"expected \(8, 8, 3\)"):
            judge.logits(np.zeros((2, 9, 8, 3), np.uint8))

    def test_nan(self):
        with pytest.raises(ValueError, match="NaN or no rows"):
            Retrieval.fit(np.full((3, 2), np.nan), ["a", "b", "c"])
