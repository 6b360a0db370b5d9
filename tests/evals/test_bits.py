"""Bits per byte against plain arithmetic on laws that are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import HistoryLM, hashed, repeating, uniform

from bytelm.evals.bits import bits_per_byte
from bytelm.lm import END, LAW


def test_a_uniform_model_costs_log2_of_257():
    bits = bits_per_byte(uniform(), [b"hello", "é", b""])
    assert [t.bytes for t in bits.texts] == [5, 2, 0]
    assert bits.bytes == 7
    assert bits.bits_per_byte == pytest.approx(np.log2(LAW))
    assert bits.end_nats == pytest.approx(3 * np.log(LAW))
    assert bits.standard_error == pytest.approx(0)


def test_the_end_of_text_is_counted_apart():
    bits = bits_per_byte(repeating(b"abc", p=0.9), [b"abc", b"abd"])
    sure, slip = -np.log(0.9), -np.log(0.1 / 256)
    assert [t.nats for t in bits.texts] == pytest.approx([3 * sure, 2 * sure + slip])
    assert [t.end_nats for t in bits.texts] == pytest.approx([sure, sure])
    assert bits.bits_per_byte == pytest.approx((5 * sure + slip) / 6 / np.log(2))


def test_order_batches_and_prompts_do_not_matter_to_each_text():
    lm = hashed()
    texts = [b"x" * n for n in (3, 0, 9, 1, 5)]
    prompts = [b"p", "", b"q", b"r", b"s"]
    done = []
    bits = bits_per_byte(lm, texts, prompts=prompts, batch=2, progress=done.append)
    assert sum(done) == 18
    assert len(done) == 3
    for text, expected in zip(bits.texts, lm.score(texts, prompts), strict=True):
        np.testing.assert_array_equal(text.nats_T1, -expected)


def test_nothing_to_score_is_no_crash():
    for texts in ([], [b""], [b"", b""]):
        bits = bits_per_byte(uniform(), texts)
        assert bits.bits_per_byte is None
        assert bits.standard_error is None
        assert all(t.bits_per_byte is None and t.impossible is None for t in bits.texts)


def test_an_impossible_byte_is_found():
    bits = bits_per_byte(repeating(b"abc"), [b"abc", b"abxc"])
    assert [t.impossible for t in bits.texts] == [None, 2]
    assert bits.texts[0].bits_per_byte == 0
    assert bits.texts[1].bits_per_byte == bits.bits_per_byte == np.inf
    assert bits.standard_error is None


def test_an_impossible_end_is_not_an_impossible_byte():
    (text,) = bits_per_byte(repeating(b"abc"), [b"ab"]).texts
    assert (text.impossible, text.nats, text.end_nats) == (None, 0, np.inf)


def test_the_standard_error_is_the_spread_over_samples():
    """The estimate from one sample of documents, against the spread of the ratio over many samples."""
    random = np.random.default_rng(0)

    def sample():
        lengths = random.integers(1, 40, 200)
        return [np.where(random.random(n) < 0.2, 98, 97).astype(np.uint8).tobytes() for n in lengths]

    nats_V = np.zeros(LAW)
    nats_V[[97, 98]] = 0.5, 3.0
    lm = SimpleNamespace(score=lambda texts, prompts: [-nats_V[[*text, END]] for text in texts])
    bits = bits_per_byte(lm, sample())
    ratios = [nats_V[[*b"".join(sample())]].mean() / np.log(2) for _ in range(400)]
    assert bits.standard_error == pytest.approx(np.std(ratios), rel=0.2)


def test_windows_are_stated():
    lm = uniform()
    assert bits_per_byte(lm, [b"a" * 50]).context is None
    lm.context, lm.overlap = 8, 3
    bits = bits_per_byte(lm, [b"a" * 7, b"a" * 8])
    assert (bits.context, bits.overlap) == (8, 3)
    # Seven bytes and the symbol before them are eight symbols.
    assert [t.windowed for t in bits.texts] == [False, True]


class Broken(HistoryLM):
    def score(self, texts, prompts=None):
        return [self.spoil(score_T) for score_T in super().score(texts, prompts)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s[:-1], r"text 1: score has shape \(2,\), not \(3,\)"),
        (lambda s: np.where(np.arange(len(s)) == 1, np.nan, s), "text 1, offset 1: nan is no log prob"),
        (lambda s: np.where(np.arange(len(s)) == 1, 0.5, s), "text 1, offset 1: 0.5 is no log prob"),
    ],
)
def test_scores_that_are_none_are_errors(spoil, said):
    lm = Broken(uniform().law)
    lm.spoil = lambda s: spoil(s) if len(s) == 3 else s
    with pytest.raises(RuntimeError, match=said):
        bits_per_byte(lm, [b"abc", b"ab"])


def test_bad_arguments():
    with pytest.raises(ValueError, match="2 texts but 1 prompts"):
        bits_per_byte(uniform(), [b"a", b"b"], prompts=[b""])
    with pytest.raises(ValueError, match="batch must be 1"):
        bits_per_byte(uniform(), [b"a"], batch=0)
