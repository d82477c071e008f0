"""Algorithms that know neither families nor tasks: callables in, frozen results out."""
