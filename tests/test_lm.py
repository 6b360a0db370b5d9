"""Prompts and symbols; and the fakes against the contract that all models are held to."""

import numpy as np
import pytest
from fakes import HistoryLM, State, assert_byte_lm, hashed, repeating, uniform

from bytelm.lm import (
    END,
    FIM_MIDDLE,
    FIM_PREFIX,
    LAW,
    MASK,
    NUM_SYMBOLS,
    SPECIALS,
    ByteLM,
    FastGenerate,
    Sampling,
    Special,
    Text,
    TokenLM,
    TreeLM,
    segments,
    symbols_of,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (b"", []),
        ("", []),
        ([], []),
        ([b"", ""], []),
        ("é", [Text(b"\xc3\xa9")]),
        ([b"a", "b", Text(b"c")], [Text(b"abc")]),
        ([b"a", Special("<x>"), b"", b"b"], [Text(b"a"), Special("<x>"), Text(b"b")]),
        ([Special("<x>"), b"", Special("<y>")], [Special("<x>"), Special("<y>")]),
        # How a text starts is said by its first piece, and an empty piece may say it.
        ([Text(b"a", False), b"b"], [Text(b"ab", False)]),
        ([b"a", Text(b"b", False)], [Text(b"ab", True)]),
        ([Text(b"", False), b"b"], [Text(b"b", False)]),
        ([Special("<x>"), Text(b"", False)], [Special("<x>"), Text(b"", False)]),
        ((Text("é", dummy_prefix=False),), [Text(b"\xc3\xa9", False)]),
    ],
)
def test_segments(prompt, expected):
    assert segments(prompt) == expected
    assert segments(expected) == expected


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (None, "list of segments, not NoneType"),
        (3, "list of segments, not int"),
        (bytearray(b"x"), "not bytearray"),
        ([1, 2], "segment 0 .* not int"),
        ([b"a", None], "segment 1 .* not NoneType"),
        ([[b"a"]], "segment 0 .* not list"),
    ],
)
def test_what_is_not_a_prompt_is_a_type_error(prompt, said):
    with pytest.raises(TypeError, match=said):
        segments(prompt)


def test_bad_segments():
    with pytest.raises(TypeError, match="name of a special token"):
        Special(257)
    with pytest.raises(TypeError, match="name of a special token"):
        Special("")
    with pytest.raises(TypeError, match="bytes or str, not int"):
        Text(3)
    with pytest.raises(ValueError, match="surrogates"):
        segments("\ud800")


def test_symbols_of():
    symbols = symbols_of([Special("<fim_prefix>"), b"\x00\xff", Special("<fim_middle>"), "é"])
    assert symbols.dtype == np.uint16
    assert symbols.tolist() == [FIM_PREFIX, 0, 255, FIM_MIDDLE, 0xC3, 0xA9]
    assert symbols_of(b"").shape == (0,)
    assert symbols_of(b"").dtype == np.uint16


def test_an_unknown_special_is_named_and_the_known_are_listed():
    with pytest.raises(ValueError, match=r"'<fim_prefx>'.*<fim_prefix>, <fim_suffix>, <fim_middle>, <mask>"):
        symbols_of([Special("<fim_prefx>")])


def test_symbols_are_numbered_without_gaps():
    assert sorted(SPECIALS.values()) == list(range(END + 1, NUM_SYMBOLS))
    assert (LAW, MASK) == (END + 1, NUM_SYMBOLS - 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"mode": "word"},
        {"token_temperature": 0.5},
        {"mode": "boundary", "token_temperature": -1},
        {"mode": "boundary", "temperature": 0.5},
        {"mode": "boundary", "top_p": 0.5},
        {"mode": "boundary", "utf8": True},
    ],
)
def test_sampling_refuses(settings):
    names = "|".join(settings)
    with pytest.raises(ValueError, match=names):
        Sampling(**settings)


def test_protocols_are_checked_by_what_a_model_has():
    assert isinstance(uniform(), ByteLM)
    assert not isinstance(uniform(), FastGenerate)

    class Tokens:
        vocab_size = 3

        def next_token_logprobs(self, contexts):
            return np.zeros((len(contexts), 3))

    assert isinstance(Tokens(), TokenLM)
    assert not isinstance(Tokens(), TreeLM | ByteLM)


TEXTS = [b"hello", b"", b"\xff\x00~~~", b"ab"]
PROMPTS = [b"", "say: ", [Special("<fim_prefix>"), b"x"], b"aa"]


@pytest.mark.parametrize(
    "lm", [uniform(), hashed(), hashed(order=0), hashed(among=b"hello~ab"), repeating(b"aaab")]
)
def test_the_fakes_are_byte_lms(lm):
    assert_byte_lm(lm, TEXTS, PROMPTS)


class AliasingFork(HistoryLM):
    def fork(self, state):
        return State(state.rows)


class ShiftedScore(HistoryLM):
    def score(self, texts, prompts=None):
        return [np.roll(score_T, 1) for score_T in super().score(texts, prompts)]


class RowsMeet(HistoryLM):
    def next_logprobs(self, state):
        return np.roll(super().next_logprobs(state), 1, axis=0)


class LeakingLaw(HistoryLM):
    def next_logprobs(self, state):
        return super().next_logprobs(state) - 0.01


@pytest.mark.parametrize("broken", [AliasingFork, ShiftedScore, RowsMeet, LeakingLaw])
def test_the_contract_finds_broken_models(broken):
    with pytest.raises(AssertionError):
        assert_byte_lm(broken(hashed().law), TEXTS, PROMPTS)
