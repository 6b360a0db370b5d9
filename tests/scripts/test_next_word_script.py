"""scripts/next_word.py: which bytes are asked for, and what is kept of the answers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from bytelm.evals.next_word import NextWord


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    yield importlib.import_module("next_word")
    del sys.path[0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (100, [b"one two", b"three four"]),
        (17, [b"one two", b"three four"]),
        (7, [b"one two"]),
        (15, [b"one two", b"three "]),  # "fo" would be no word
        (5, [b"one "]),
        (2, [b""]),
    ],
)
def test_the_first_bytes_end_with_a_whole_word(script, size, expected):
    assert list(script.first_bytes([b"one two", b"three four"], size)) == expected


def test_counts_are_those_of_the_training_text(script):
    assert script.counts_of([b"a b, c"], [b"a a b", b"c-a d"]) == {b"a": 3, b"b": 1, b"c": 1}


def test_what_is_saved_is_read_again_for_the_same_settings_only(script, tmp_path):
    found = NextWord(np.array([1.0, 0.0]), np.array([0, 1]), np.array([5, 7]), 63, 2)
    path, settings = tmp_path / script.FILE, {"split": "valid", "max_bytes": 100}
    assert script.read(path, settings) is None
    script.save(path, found, settings)
    again = script.read(path, {**settings, "context": 63})
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    for other in ({"split": "test"}, {"max_bytes": 99}, {"context": 64}):
        assert script.read(path, {**settings, **other}) is None
