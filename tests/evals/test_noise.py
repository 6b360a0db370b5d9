"""Noise: what each kind is, that its rate is what it says, and that text stays text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.evals.noise import KINDS, NEIGHBOURS, Noise, noisy, parse

every_kind = pytest.mark.parametrize("kind", KINDS)
TEXT = ("The quick brown fox jumps over the lazy dog. " * 400).encode()
STRAY = b"\x80\xff\xc3(\xe2\x82 \xf0\x9f\x98 \xed\xa0\x80"  # but for 3, none is a whole character


def under(text, kind, rate, **how):
    return noisy(text, [Noise(kind, rate)], **how)


# ---- what the kinds are, at rate 1, where nothing is left to chance ----


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("drop", "aé好", ""),
        ("swap", "abcde", "badce"),
        ("swap", "é好xy", "好éyx"),
        ("swap", "a", "a"),
        ("insert", "aaa", "aaaaaa"),
        ("insert", "", ""),
        ("case", "aBc Éß 1好", "AbC éß 1好"),  # the other case of ß is two letters
        ("case", "Привет", "пРИВЕТ"),
        ("keyboard", "1 é好\n", "1 é好\n"),
    ],
)
def test_every_character(kind, text, expected):
    assert under(text, kind, 1.0).decode() == expected


def test_keyboard_neighbours():
    near = {"q": "wa", "g": "tyfhvb", "m": "jkn", "p": "ol", "z": "asx"}
    for key, expected in near.items():
        assert sorted(NEIGHBOURS[key]) == sorted(expected)
        assert NEIGHBOURS[key.upper()] == NEIGHBOURS[key].upper()
    assert all(a in NEIGHBOURS[b] for a, letters in NEIGHBOURS.items() for b in letters)
    found = under("g" * 600, "keyboard", 1.0).decode()
    assert set(found) == set(near["g"])
    assert min(found.count(letter) for letter in near["g"]) > 60  # 100 are expected
    assert under("GG", "keyboard", 1.0).decode().isupper()


def test_inserted_characters_are_the_texts_own():
    found = under("你好" * 200, "insert", 0.5).decode()
    assert set(found) == {"你", "好"}
    assert 0.4 < (found.count("你") - 200) / (len(found) - 400) < 0.6


# ---- rates ----


def touched(kind, text, found):
    """The share of the characters that a kind touches, read off the texts' lengths or letters."""
    if kind in ("drop", "insert"):
        return abs(len(found) - len(text)) / len(text)
    may = [c for c in zip(text, found, strict=True) if kind == "swap" or chr(c[0]).isalpha()]
    return np.mean([a != b for a, b in may])


@every_kind
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_rates(kind, rate):
    text = bytes(np.random.default_rng(0).permutation(np.arange(97, 123, dtype=np.uint8).repeat(800)))
    found, error = touched(kind, text, under(text, kind, rate)), 4 * np.sqrt(rate * (1 - rate) / len(text))
    if kind == "swap":  # of equal neighbours, one in 26, the swap does not show; moves come in pairs
        rate, error = rate * 25 / 26, 2 * error + 0.01
    assert abs(found - rate) <= error + 1e-4  # an odd character at the end


@every_kind
def test_control_another_rate_is_told_apart(kind):
    assert touched(kind, TEXT, under(TEXT, kind, 0.05)) < 0.075 < touched(kind, TEXT, under(TEXT, kind, 0.1))


@every_kind
def test_no_noise_is_the_text(kind):
    for text in (b"", TEXT, bytes(range(256)) * 3):
        assert under(text, kind, 0.0) == text
    assert under(TEXT, kind, 0.1) != TEXT


# ---- text stays text ----


@given(
    text=st.text(), seed=st.integers(0, 5), rate=st.floats(0, 1), kinds=st.lists(st.sampled_from([*KINDS]))
)
def test_valid_text_stays_valid(text, seed, rate, kinds):
    noisy(text.encode("utf-8"), [Noise(kind, rate) for kind in kinds], seed=seed).decode("utf-8")


def test_control_noise_of_bytes_is_not_valid():
    """The same noise on bytes, each taken for a character, cuts characters."""
    found = under("é好" * 50, "drop", 0.3).decode()
    assert set(found) == {"é", "好"}
    by_byte = under("é好".encode().decode("latin-1") * 50, "drop", 0.3).decode().encode("latin-1")
    with pytest.raises(UnicodeDecodeError):
        by_byte.decode()


@given(parts=st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=6))), kind=st.sampled_from([*KINDS]))
def test_stray_bytes_pass_through_in_order(parts, kind):
    text = b"".join(p if isinstance(p, bytes) else p.encode() for p in parts)

    def stray(data):
        return [c for c in data.decode("utf-8", "surrogateescape") if "\udc80" <= c <= "\udcff"]

    if kind == "drop":  # a character less between two of them may make a whole one of them
        assert under(text, kind, 1.0) == bytes(ord(c) - 0xDC00 for c in stray(text))
    else:
        assert stray(under(text, kind, 0.7)) == stray(text)


def test_stray_bytes_by_hand():
    assert under(b"a" + STRAY + b"b", "drop", 1.0) == b"\x80\xff\xc3\xe2\x82\xf0\x9f\x98\xed\xa0\x80"
    assert under(b"ab\xffcd", "swap", 1.0) == b"ba\xffdc"
    assert under(b"a\xffb", "swap", 1.0) == b"a\xffb"
    assert under(b"\xffa", "insert", 1.0) == b"\xffaa"


# ---- the same again ----


def test_draws_depend_on_seed_text_and_place_only():
    noises = [Noise("drop", 0.2), Noise("case", 0.3)]
    texts = [TEXT, TEXT[:77], TEXT]
    found = [noisy(t, noises, seed=3, index=i) for i, t in enumerate(texts)]
    again = [noisy(texts[i], noises, seed=3, index=i) for i in (2, 1, 0)][::-1]
    assert found == again
    assert found[0] != found[2]  # equal texts at other numbers
    assert found[0] != noisy(TEXT, noises, seed=4, index=0)
    assert len({under(TEXT, "drop", 0.2), noisy(TEXT, [Noise("case", 0.0), Noise("drop", 0.2)])}) == 2


def test_the_stream_is_this_one():
    """The same on every machine and with every version: a figure under noise can be made again."""
    text = "the quick brown fox jumps"
    found = {kind: under(text, kind, 0.3, seed=1, index=2).decode() for kind in KINDS}
    assert found == {
        "drop": "equik br fo mps",
        "swap": "tehq uikc brwo nfox ujmps",
        "insert": "nt hek quijck bruo wwn fowx ij umps",
        "case": "THe quiCk brOWN foX JUmps",
        "keyboard": "fbe quivk brlab foz ijmps",
    }


def test_what_is_touched_at_a_low_rate_is_at_a_higher():
    text = np.frombuffer(TEXT, np.uint8)
    low, high = (np.frombuffer(under(TEXT, "case", rate), np.uint8) != text for rate in (0.05, 0.2))
    assert high[low].all()
    assert high.sum() > 2 * low.sum()
    different = "".join(map(chr, range(0x4E00, 0x4F00)))
    assert {*under(different, "drop", 0.2).decode()} < {*under(different, "drop", 0.05).decode()}


def test_in_turn():
    one = [Noise("swap", 0.3), Noise("insert", 0.3)]
    assert noisy("abc" * 20, one) == noisy(noisy("abc" * 20, one[:1]), [Noise("case", 0.0), one[1]])
    assert noisy("abc", []) == b"abc"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop", "KIND:RATE"),
        ("drop:x", "KIND:RATE"),
        ("blur:0.1", "no noise 'blur'; there are drop, swap, insert, case, keyboard"),
        ("drop:1.5", "in \\[0, 1\\], not 1.5"),
        ("drop:nan", "in \\[0, 1\\]"),
    ],
)
def test_bad_noise(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_parsed():
    assert parse("swap:0.10") == Noise("swap", 0.1)
