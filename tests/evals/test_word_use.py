"""Words in rows, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm import words
from bytelm.data import eval_rows
from bytelm.evals.word_use import word_use


class Texts(list):
    """Opened documents in memory."""

    name, skipped, sliceable = "texts", {}, False

    @property
    def lengths(self):
        return None


def used(rule, texts, W, length=32, rows=2, **options):
    return word_use(words.rule(rule, 8), eval_rows(Texts(texts), rows=rows, length=length, **options), W)


def test_by_hand():
    # Inputs of the row: END, "ab cd, ef"; its words: END | "ab" | " cd" | "," | " ef".
    found = used("paper", [b"ab cd, ef"], 5)
    assert (found.bytes, found.words, found.bytes_a_word) == (9, 4, 9 / 4)
    assert (found.p50, found.p99, found.longest, found.fullest) == (2, 3, 3, 5)
    assert found.lost_share == 0


@pytest.mark.parametrize(("W", "lost"), [(4, 0), (3, 2), (2, 3), (1, 6)])
def test_bytes_beyond_the_limit_by_hand(W, lost):
    """The rule knows of an end one byte late: words before the input's own are known, 0 1 1 2 2 2 3 4 4 4."""
    found = used("paper", [b"ab cd, ef"], W)
    assert found.lost_share == pytest.approx(lost / 9)


def test_a_rule_that_knows_at_once():
    """Every byte a word, END too: before byte t, t + 1 words have ended and are known."""
    for W in (3, 5, 20):
        assert used("byte", [b"abcdefgh"], W).lost_share == max(0, 8 - W) / 8
    assert used("byte", [b"abcdefgh"], 3).bytes_a_word == 1


def test_documents_rows_and_padding():
    texts = [b"one two", b"three", b"four five six"]
    found = used("stride", texts, 2, length=8, rows=4)
    assert found.bytes == sum(map(len, texts))
    many = used("stride", texts * 30, 2, length=8, rows=4)
    assert many.bytes == 30 * found.bytes
    one = used("runs", texts, 100, length=64, rows=1)
    assert one.lost_share == 0
    assert one.words == sum(len(words.rule("runs", 8).cut(text)) for text in texts)
    with pytest.raises(ValueError, match="no byte"):
        word_use(words.rule(), iter([]), 4)


def test_agrees_with_what_the_model_counts_as_lost():
    from bytelm.models import WordPooledConfig

    random = np.random.default_rng(0)
    texts = [bytes(random.choice(list(b"ab c,d\n"), 60).astype(np.uint8)) for _ in range(4)]
    for rule in ("runs", "closing", "paper", "byte"):
        config = WordPooledConfig(rule=rule, cap=8, words=10, layers=1, width=16, heads=2)
        batches = list(eval_rows(Texts(texts), rows=2, length=32))
        counts = [_counts(config, batch) for batch in batches]
        lost, kept = (sum(float(np.sum(c[i])) for c in counts) for i in (2, 0))
        assert word_use(config.boundaries, batches, 10).lost_share == pytest.approx(lost / (lost + kept))


def _counts(config, batch):
    import jax

    from bytelm import models

    model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
    return model.counts(batch)
