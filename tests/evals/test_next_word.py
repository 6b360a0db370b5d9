"""Next-word accuracy against counting by hand, with models that know the text, or nothing."""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np
import pytest
from fakes import HistoryLM, hashed, normalised, repeating, uniform

from bytelm import words
from bytelm.evals import next_word as module
from bytelm.evals.next_word import NextWord, count_words, mean_of, next_word, spans
from bytelm.lm import END, LAW

TEXT = b"The cat's  hat,\n  the\thats -- no. 7 cats\xc3\xa9!"
WORDS = [b"The", b"cat", b"s", b"hat", b"the", b"hats", b"no", b"7", b"cats\xc3\xa9"]


def said(text):
    return [text[a:b] for a, b in spans(text).tolist()]


def by_name(shares):
    return {share.name: share for share in shares}


# ---- words and counts ----


def test_words_are_those_of_the_paper_without_their_space():
    assert said(TEXT) == WORDS
    assert said(b"") == said(b" ") == said(b"-- !\x00") == []
    assert said(b"a" * 5000) == [b"a" * 5000]  # no cap


def random_text(seed, size=3000):
    letters = list(b"aab9\x00\xc3\xa9") + list(b" \n\t.,_-'")
    return bytes(np.random.default_rng(seed).choice(letters, size).astype(np.uint8))


def test_words_are_those_of_the_rule():
    text = random_text(0)
    cut = [w.lstrip(string.whitespace.encode()) for w in words.rule("paper", words.rules.MOST).cut(text)]
    assert said(text) == [w for w in cut if re.search(rb"[a-zA-Z0-9\x80-\xff]", w)]


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_counts_are_those_of_brute_force(monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    documents = [random_text(seed, 800) for seed in range(4)] + [b"", b"end"]
    expected = Counter(word for document in documents for word in said(document))
    assert len(expected) > 50
    read = []
    assert count_words(iter(documents), set(expected), progress=read.append) == expected
    assert sum(read) == sum(map(len, documents))
    wanted = [*list(expected)[:3], b"nowhere"]
    assert count_words(documents, wanted) == {w: expected[w] for w in wanted}


# ---- models that know ----


def oracle(text):
    """Knows where it is in `text` from what it has read, and says the rest of it."""

    def law(row):
        law_V = np.full(LAW, -10.0)
        at = text.find(bytes(row)) if row else -1
        law_V[text[at + len(row)] if 0 <= at < len(text) - len(row) else END] = 5.0
        return normalised(law_V)

    return HistoryLM(law)


def test_who_knows_the_text_is_right_about_every_word():
    found = next_word(repeating(TEXT, p=0.9), [TEXT], context=100)
    assert found.correct_N.tolist() == [1.0] * len(WORDS)
    shares = by_name(found.figures())
    assert (shares["all"].words, shares["all"].value, shares["all"].low) == (len(WORDS), 1.0, 1.0)


def test_who_knows_nothing_is_right_about_none():
    assert next_word(uniform(), [TEXT, b"more words"], context=100).figures()[0].value == 0.0
    assert next_word(hashed(), [random_text(0, 400)], context=100).figures()[0].value < 0.05


def slip(text, at, symbol):
    """Knows `text` but for the symbol at offset `at`, for which it says `symbol`."""
    return repeating(text[:at] + bytes([symbol]) + text[at + 1 :], p=0.9)


def test_counted_by_hand():
    """Each slip costs the words that it makes wrong, and no other."""
    text = b"one two three, four"

    def right(lm):
        return next_word(lm, [text], context=50).correct_N.tolist()

    assert right(slip(text, 5, ord("x"))) == [1, 0, 1, 1]  # inside "two"
    assert right(slip(text, 4, ord("x"))) == [1, 0, 1, 1]  # its first byte
    assert right(slip(text, 7, ord("x"))) == [1, 0, 1, 1]  # it goes on with a letter
    assert right(slip(text, 7, ord("7"))) == [1, 0, 1, 1]  # or with a digit
    assert right(slip(text, 7, 0xC3)) == [1, 0, 1, 1]  # or with a letter beyond ASCII
    assert right(slip(text, 7, ord("."))) == [1, 1, 1, 1]  # it stops, if not as the text does
    assert right(slip(text, 14, ord("x"))) == [1, 1, 1, 1]  # the space before a word is no part of it
    assert right(repeating(text + b"s", p=0.9)) == [1, 1, 1, 0]  # the last must stop too
    assert right(repeating(text, p=0.9)) == [1, 1, 1, 1]


def test_after_an_impossible_byte_nothing_is_right():
    text = b"one two three"
    assert next_word(repeating(b"one xwo three"), [text], context=50).correct_N.tolist() == [1, 0, 0]


# ---- windows ----


@pytest.mark.parametrize("context", [16, 17, 40])
def test_every_word_is_asked_once_with_at_least_half_the_context(context):
    random = np.random.default_rng(1)
    text = b" ".join(
        bytes(random.integers(97, 123, random.integers(1, 5)).astype(np.uint8)) for _ in range(90)
    )
    least = []

    def law(row):
        least.append(len(row))
        return np.full(LAW, -np.log(LAW))

    found = next_word(HistoryLM(law), [text, b"", text[:3]], context=context)
    assert max(least) == context
    assert len(found.correct_N) == len(said(text)) + len(said(text[:3]))
    assert found.too_long == 0
    spans_N2, first_N = module._windowed(text, context)
    assert (first_N + context >= spans_N2[:, 1]).all()
    assert (first_N <= spans_N2[:, 0]).all()
    inner = first_N > 0
    assert (spans_N2[inner, 1] - first_N[inner] > context // 2).all()
    # One who knows the text is right in every window; so laws and words are laid side by side.
    unlike = b" ".join(b"w%d" % i for i in range(100, 160))
    assert next_word(oracle(unlike), [unlike], context=context).correct_N[1:].mean() > 0.9


def test_words_longer_than_half_the_context_are_counted():
    text = b"ab " + b"x" * 30 + b" cd"
    found = next_word(repeating(text, p=0.9), [text], context=20)
    assert (len(found.correct_N), found.too_long) == (2, 1)


def test_the_batch_does_not_matter(monkeypatch):
    texts = [random_text(seed, 150) for seed in range(3)]
    whole = next_word(hashed(1, scale=9.0), texts, context=32)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    np.testing.assert_array_equal(
        next_word(hashed(1, scale=9.0), texts, context=32).correct_N, whole.correct_N
    )


def test_a_context_that_the_model_does_not_have():
    lm = uniform()
    lm.context = 64
    next_word(lm, [b"some words"], context=63)
    with pytest.raises(ValueError, match="at most 63"):
        next_word(lm, [b"some words"], context=64)
    with pytest.raises(ValueError, match="context of 1 "):
        next_word(lm, [b"some words"], context=1)


# ---- bins and intervals ----


def words_of(correct, documents=None, counts=None):
    n = len(correct)
    documents = np.zeros(n, np.int64) if documents is None else np.asarray(documents)
    counts = np.zeros(n, np.int64) if counts is None else np.asarray(counts)
    return NextWord(np.asarray(correct, float), documents, counts, 100, 0)


def test_bins_by_training_count():
    text = b"a b c d e f g"
    counts = dict(zip(text.split(), (0, 1, 10, 11, 45, 46, 999), strict=True))
    found = by_name(next_word(slip(text, 4, ord("x")), [text], counts, context=50).figures())
    assert {name: share.words for name, share in found.items()} == {
        **{"all": 7, "0": 1, "1-10": 2, "11-45": 2, "> 45": 2}
    }
    assert found["1-10"].value == 0.5
    assert found["0"].value == found["11-45"].value == found["> 45"].value == 1.0
    empty = by_name(next_word(uniform(), [b"word"], {b"word": 3}, context=9).figures())["0"]
    assert (empty.words, empty.value, empty.low, empty.high) == (0, None, None, None)


def test_interval_over_words_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        share = words_of(random.random(300) < 0.3).figures(seed=seed)[0]
        assert share.unit == "words"
        held += share.low <= 0.3 <= share.high
    assert 0.90 < held / 200 < 0.99


def test_interval_over_documents_is_wider_where_documents_differ():
    random = np.random.default_rng(0)
    held = alone = 0
    for seed in range(100):
        rate_D = random.beta(2, 5, 40)  # mean 2/7
        document_N = np.repeat(np.arange(40), 50)
        correct_N = random.random(2000) < rate_D[document_N]
        share = words_of(correct_N, document_N).figures(seed=seed)[0]
        assert share.unit == "documents"
        held += share.low <= 2 / 7 <= share.high
        share = words_of(correct_N).figures(seed=seed)[0]  # control: as if words were independent
        alone += share.low <= 2 / 7 <= share.high
    assert held > 85
    assert alone < 75
    few = words_of(np.ones(60), np.arange(60) % 19).figures()[0]
    assert few.unit == "words"  # nineteen documents are too few to draw from


def test_gain_is_paired_and_seeded():
    random = np.random.default_rng(0)
    easy_N = random.random(2000) < 0.4
    better_N = easy_N | (random.random(2000) < 0.02)
    a, b = words_of(better_N, counts=np.arange(2000) % 60), words_of(easy_N, counts=np.arange(2000) % 60)
    gain = a.gain(b)[0]
    assert gain.value == pytest.approx(better_N.mean() - easy_N.mean())
    assert 0 < gain.low < gain.value < gain.high < 0.03  # each alone is uncertain by 0.02 either way
    assert a.gain(b, seed=0) == a.gain(b)
    assert a.gain(b, seed=1) != a.gain(b)
    assert a.gain(a)[0][2:5] == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="different words"):
        a.gain(words_of(easy_N))


def test_mean_over_seeds():
    mean = mean_of([words_of([1, 0, 1]), words_of([1, 0, 0])])
    assert mean.correct_N.tolist() == [1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="different words"):
        mean_of([words_of([1, 0]), words_of([1])])
