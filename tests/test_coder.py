"""The stack: what is put comes out first, whatever was there before comes out again as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pofx.engines.coder import Reader, Stack, Writer
from pofx.tasks.container import initial_words


def tables(rng, rows, codes):
    table = rng.dirichlet(np.full(codes, 0.4), rows).astype(np.float32)
    return table, np.array([rng.choice(codes, p=p / p.sum()) for p in table.astype(float)], np.int32)


def test_what_is_put_is_taken_in_its_order_and_costs_its_entropy():
    rng, stack = np.random.default_rng(0), Stack(initial_words(5))
    parts = [tables(rng, 300, codes) for codes in (2, 17, 256)]
    for table, symbols in parts[:2]:
        stack.put(symbols, table)
    stack.put_raw(np.array([0.1, -1e300]))
    stack.flush()
    stack.put(parts[2][1], parts[2][0])
    stack.flush()
    assert abs(stack.bits - 5 * 32 - stack.put_bits) < 4
    again = Stack(stack.words())
    assert np.array_equal(again.take(parts[2][0]), parts[2][1])
    for table, symbols in parts[:2]:
        assert np.array_equal(again.take(table), symbols)
    assert np.array_equal(again.take_raw(2, np.float64), [0.1, -1e300])
    assert np.array_equal(again.words(), initial_words(5))
    assert again.taken_bits == pytest.approx(stack.put_bits)


def test_bits_taken_are_bits_saved():
    rng, stack = np.random.default_rng(1), Stack(initial_words(400))
    table, _ = tables(rng, 1000, 12)
    symbols, before = stack.take(table), 400 * 32
    assert stack.bits == pytest.approx(before - stack.taken_bits, abs=4)
    entropy = -float((table * np.log2(np.maximum(table, 1e-30))).sum())
    spread = float(np.sqrt((table * np.log2(np.maximum(table, 1e-30)) ** 2).sum()))
    assert abs(stack.taken_bits - entropy) < 5 * spread  # words that look random give draws from the table
    stack.put(symbols, table)
    stack.flush()
    assert np.array_equal(stack.words(), initial_words(400))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 300), st.integers(0, 40), st.booleans()), max_size=6), st.integers(0, 9))
def test_any_sequence_of_puts_and_takes_can_be_undone(moves, words):
    rng, stack, done = np.random.default_rng(len(moves)), Stack(initial_words(words)), []
    for codes, rows, take in moves:
        table, symbols = tables(rng, rows, codes) if rows else (np.zeros((0, codes), np.float32), np.zeros(0, np.int32))
        if take:
            symbols = stack.take(table)
        else:
            stack.put(symbols, table)
            stack.flush()
        done.append((take, table, symbols))
    again = Stack(stack.words())
    for take, table, symbols in reversed(done):
        if take:
            again.put(symbols, table)
            again.flush()
        else:
            assert np.array_equal(again.take(table), symbols)
    assert np.array_equal(again.words(), initial_words(words))


def test_a_symbol_without_mass_is_dear_but_comes_back():
    table = np.tile(np.array([[0.0, 1.0, 0.0]], np.float32), (4, 1))
    symbols = np.array([0, 2, 1, 0], np.int32)
    out, stack = Writer(), Stack()
    for coder in (out, stack):
        coder.put(symbols, table)
    stack.flush()
    assert np.array_equal(Reader(out.words()).take(table), symbols)
    assert np.array_equal(Stack(stack.words()).take(table), symbols)
    assert out.ideal == pytest.approx(72) and 40 < stack.bits < 90


def test_the_first_words_never_change():
    assert initial_words(3).tolist() == INITIAL
    assert len(initial_words(0)) == 0 and initial_words(9)[8] != 0


INITIAL = [3782875817, 1162053726, 3388510597]
