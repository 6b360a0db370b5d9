"""Generation: laws, seeds, stops, UTF-8 and streaming."""

import itertools
from collections import Counter

import numpy as np
import pytest
from fakes import HistoryLM, hashed, normalised, repeating, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm import Special, Text, generate, stream
from bytelm.generate import _NEXT, _START, adjusted, draw, utf8_allowed
from bytelm.lm import END, LAW, Sampling


def constant(law: dict[int, float]) -> HistoryLM:
    """The same law `{symbol: probability}` at every byte."""
    law_V = np.full(LAW, -np.inf)
    law_V[list(law)] = np.log(list(law.values()))
    return HistoryLM(lambda row: law_V)


# ---- the law of what is drawn ----------------------------------------------------------------------


def chi_square_excess(counts: np.ndarray, p: np.ndarray) -> float:
    """How many standard deviations Pearson's statistic lies above its mean, rare outcomes put together."""
    expected = p * counts.sum()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    counts = np.append(counts[~rare], counts[rare].sum())
    keep = expected > 0
    assert (counts[~keep] == 0).all(), "an impossible outcome was drawn"
    degrees = keep.sum() - 1
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    return float((statistic - degrees) / np.sqrt(2 * degrees))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_one_byte_follows_the_law(temperature):
    lm = hashed(order=0, scale=1.0)
    out = generate(lm, [b""] * 6000, max_bytes=1, temperature=temperature)
    counts = np.bincount([text[0] if text else END for text in out], minlength=LAW)
    law_V = lm.law([])
    assert chi_square_excess(counts, np.exp(normalised(law_V / temperature))) < 4
    assert chi_square_excess(counts, np.exp(normalised(law_V / temperature * 0.8))) > 8  # a wrong law is seen


def test_whole_completions_follow_the_joint_law():
    lm = hashed(order=1, seed=3, among=b"ab", scale=1.0)
    out = Counter(generate(lm, ["x"] * 4000, max_bytes=3))
    texts, p = [], []
    for length in range(4):
        for text in map(bytes, itertools.product(b"ab", repeat=length)):
            (score,) = lm.score([text], ["x"])
            texts.append(text)
            p.append(np.exp(score.sum() if length < 3 else score[:-1].sum()))
    assert np.isclose(sum(p), 1)
    counts = np.array([out[text] for text in texts])
    assert counts.sum() == 4000
    assert chi_square_excess(counts, np.array(p)) < 4
    assert chi_square_excess(counts, np.roll(p, 1)) > 8


def slow_adjusted(law_V, temperature, top_k, top_p, min_p):
    """The same from its definition, by plain loops."""
    p = {v: np.exp(x / temperature) for v, x in enumerate(law_V) if x > -np.inf}
    ranked = sorted(p, key=lambda v: (-p[v], v))
    if top_k is not None:
        ranked = ranked[:top_k]
    if top_p is not None and top_p < 1:
        total, mass, nucleus = sum(p[v] for v in ranked), 0.0, []
        for v in ranked:
            if mass >= top_p * total:
                break
            nucleus.append(v)
            mass += p[v]
        ranked = nucleus
    if min_p is not None:
        ranked = [v for v in ranked if p[v] >= min_p * p[ranked[0]]]
    out = np.zeros(len(law_V))
    out[ranked] = [p[v] for v in ranked]
    return out / out.sum()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 1, 2, 3, 7, 50]), min_size=2, max_size=12).filter(any),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.none() | st.integers(1, 14),
    st.none() | st.sampled_from([0.05, 0.31, 0.77, 0.999, 1.0]),
    st.none() | st.sampled_from([0.0, 0.099, 0.4, 1.0]),
)
def test_filters_are_their_definitions(weights, temperature, top_k, top_p, min_p):
    with np.errstate(divide="ignore"):
        law_BV = np.log(np.array([weights, weights[::-1]]) / sum(weights))
    p_BV = adjusted(law_BV, Sampling(temperature, top_k, top_p, min_p))
    for law_V, p_V in zip(law_BV, p_BV, strict=True):
        np.testing.assert_allclose(p_V, slow_adjusted(law_V, temperature, top_k, top_p, min_p), atol=1e-12)


def test_ties_go_to_the_lowest():
    law_BV = np.log([[0.25, 0.25, 0.25, 0.25]])
    assert adjusted(law_BV, Sampling(top_k=2)).tolist() == [[0.5, 0.5, 0, 0]]
    assert adjusted(law_BV, Sampling(top_p=0.5)).tolist() == [[0.5, 0.5, 0, 0]]
    assert adjusted(law_BV, Sampling(temperature=0)).tolist() == [[1, 0, 0, 0]]


def test_a_tiny_temperature_is_greedy_and_no_overflow():
    law_BV = np.log([[0.3, 0.5, 0.2]])
    assert adjusted(law_BV, Sampling(temperature=5e-324)).tolist() == [[0, 1, 0]]


def test_draw_at_the_edges():
    p_BV = np.array([[0, 0.5, 0, 0.5, 0]])
    for uniform_, symbol in [(0.0, 1), (0.4999, 1), (0.5, 3), (np.nextafter(1, 0), 3)]:
        assert draw(p_BV, np.array([uniform_])).tolist() == [symbol]


def test_greedy_takes_the_likeliest_and_ignores_the_seed():
    lm = hashed()
    (text,) = generate(lm, [b"go"], max_bytes=40, temperature=0)
    (law_TV,) = lm.laws([text], [b"go"])
    assert [*text, END][:40] == law_TV.argmax(axis=1).tolist()[: min(40, len(text) + 1)]
    assert generate(lm, [b"go"], max_bytes=40, temperature=0, seed=9) == [text]
    assert generate(uniform(), [b""], max_bytes=3, temperature=0) == [b"\0\0\0"]


# ---- seeds and batches -----------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_companions():
    lm = hashed()
    settings_ = {"max_bytes": 60, "seed": 5, "stop": [b"\n"]}
    out = generate(lm, [b"a", b"longer prompt", b"c"], **settings_)
    assert out[:1] == generate(lm, [b"a"], **settings_)
    assert out[1] == generate(lm, [b"", b"longer prompt"], **settings_)[1]
    assert out == generate(lm, [b"a", b"longer prompt", b"c"], **settings_)


def test_rows_and_seeds_differ():
    lm = hashed()
    out = {seed: generate(lm, [b"a", b"a"], max_bytes=30, seed=seed) for seed in range(3)}
    assert len({text for pair in out.values() for text in pair}) == 6


def test_done_rows_are_pushed_none():
    pushed = []

    class Spy(HistoryLM):
        def push(self, state, symbols):
            pushed.append(list(symbols))
            return super().push(state, symbols)

    lm = Spy(repeating(b"abcd").law)
    assert generate(lm, [b"", b"abc", b"abcd"], max_bytes=3) == [b"abc", b"d", b""]
    assert pushed == [[ord("a"), ord("d"), None], [ord("b"), None, None]]


# ---- when to stop ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), b"one two three"),
        ([b"two"], b"one "),
        (["wo t"], b"one t"),
        (b" t", b"one"),
        ("three", b"one two "),
        ([b"three", b"e t"], b"on"),
        ([b"xyz"], b"one two three"),
        ([b"o", b"two"], b""),
        ([b"ne", b"one"], b""),  # one byte completes both: the longest is cut off
        ([b"e tw", b"e two", b"tw"], b"on"),
    ],
)
def test_stop_strings(stop, expected):
    assert generate(repeating(b"one two three"), [b""], stop=stop) == [expected]


def test_a_stop_string_is_not_looked_for_in_the_prompt():
    lm = repeating(b"ab ab")
    assert generate(lm, [b"a"], stop=["ab"]) == [b"b "]


def test_the_stop_string_counts_as_bytes_generated():
    lm = repeating(b"one two three")
    assert generate(lm, [b""], stop=["two"], max_bytes=6) == [b"one tw"]
    assert generate(lm, [b""], stop=["two"], max_bytes=7) == [b"one "]
    assert generate(lm, [b""], max_bytes=0) == [b""]


# ---- UTF-8 -----------------------------------------------------------------------------------------


def test_the_automaton_knows_exactly_the_characters_of_python():
    # 64 characters share all their bytes but the last: the first and the last of them stand for all.
    following: dict[bytes, set[int]] = {b"": set(range(0x80))}
    for block in itertools.chain(range(0x80, 0xD800, 64), range(0xE000, 0x110000, 64)):
        first, last = chr(block).encode(), chr(block + 63).encode()
        assert first[:-1] == last[:-1]
        following[first[:-1]] = set(range(first[-1], last[-1] + 1))
        for cut in range(len(first) - 1):
            following.setdefault(first[:cut], set()).add(first[cut])
    states = {b"": _START}
    allowed = {state: set(np.flatnonzero(utf8_allowed(state, left=4)).tolist()) for state in range(8)}
    for prefix in sorted(following, key=len):  # each comes after its own prefixes
        assert allowed[states[prefix]] == following[prefix] | ({END} if prefix == b"" else set()), prefix
        for byte in following[prefix]:
            longer = prefix + bytes([byte])
            states[longer] = int(_NEXT[states[prefix], byte])
            assert (states[longer] == _START) == (longer not in following)


def test_a_budget_allows_what_can_be_finished_in_it():
    characters = ["a", "é", "€", "𝄞"]
    for left in range(1, 6):
        allowed_V = utf8_allowed(_START, left)
        assert [bool(allowed_V[c.encode()[0]]) for c in characters] == [left >= n for n in (1, 2, 3, 4)]


MISSING = {b"": 0, b"ok": 0, b"\xc3\xa9": 0, b"\xc3": 1, b"\xe2\x82": 1, b"\xf0\x9d": 2}
MISSING |= {b"x\xf0": 3, b"\xed": 2, b"\xf4\x8f\xbf": 1}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(MISSING)), st.integers(0, 12), st.integers(0, 10**6), st.booleans())
def test_utf8_completions_decode_with_their_prompt(prompt, max_bytes, seed, sharp):
    lm = hashed(order=1, seed=seed % 7, scale=5.0 if sharp else 0.5)
    (text,) = generate(lm, [prompt], max_bytes=max_bytes, seed=seed, utf8=True, stop=["é", "a"])
    assert len(text) <= max_bytes
    if MISSING[prompt] <= max_bytes:
        (prompt + text).decode()
    else:
        assert text == b""


def test_without_utf8_the_same_completions_do_not_decode():
    with pytest.raises(UnicodeDecodeError):
        generate(hashed(order=1), [b""], max_bytes=12)[0].decode()


def test_a_character_of_the_prompt_is_finished_before_the_end_is_allowed():
    lm = constant({END: 0.999, 0xAC: 0.0005, 0x82: 0.0005})
    assert generate(lm, [b"\xe2", b"\xe2\x82", b"\xe2\x82\xac", b"\x82"], utf8=True, temperature=0) == [
        b"\x82\x82",
        b"\x82",
        b"",
        b"",
    ]
    # After a special token a new text begins: the character before it is not waited for.
    assert generate(lm, [[b"\xe2", Special("<fim_middle>")]], utf8=True, temperature=0) == [b""]


def test_no_character_is_begun_that_does_not_fit():
    only_long = constant({0xF0: 0.5, 0x9D: 0.5})
    assert generate(only_long, [b"", b"\xf0\x9d"], max_bytes=1, utf8=True) == [b"", b""]
    assert generate(only_long, [b"\xf0"], max_bytes=3, utf8=True) == [b"\x9d" * 3]
    mixed = constant({0xF0: 0.98, ord("a"): 0.01, 0x90: 0.01})
    assert generate(mixed, [b""], max_bytes=7, utf8=True, temperature=0) == [b"\xf0\x90\x90\x90aaa"]


def test_utf8_says_when_the_model_leaves_nothing():
    with pytest.raises(RuntimeError, match=r"row 1, byte 0: .* valid UTF-8"):
        generate(constant({0xF0: 0.5, END: 0.5}), [b"", b"\xf0"], utf8=True, temperature=0, max_bytes=4)


# ---- streaming -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 60),
    st.lists(st.binary(min_size=1, max_size=3) | st.sampled_from([b"ab", b"aab", b"ba"]), max_size=3),
    st.sampled_from([bytes(range(256)), b"ab", b"\xe2\x82\xac\xf0\x9fa"]),
)
def test_the_pieces_of_a_stream_are_the_completion(seed, max_bytes, stop, among):
    lm = hashed(order=1, seed=seed % 5, among=among)
    common = {"max_bytes": max_bytes, "stop": stop, "seed": seed}
    pieces = list(stream(lm, b"a", **common))
    assert "".join(pieces) == generate(lm, [b"a"], **common)[0].decode("utf-8", "replace")
    assert all(pieces)


def test_a_stream_in_utf8_has_no_replacement_character():
    lm = hashed(order=1)
    pieces = list(stream(lm, b"", utf8=True, max_bytes=50))
    assert "".join(pieces).encode() == generate(lm, [b""], utf8=True, max_bytes=50)[0]
    assert "\ufffd" not in "".join(pieces)
    assert "\ufffd" in "".join(stream(lm, b"", max_bytes=50))


def test_pieces_come_as_soon_as_they_are_certain():
    assert list(stream(repeating("né!".encode()), b"")) == ["n", "é", "!"]
    assert list(stream(repeating(b"a\n\nb"), b"", stop=["\n\nc"])) == ["a", "\n\nb"]
    assert list(stream(repeating(b"a\n\nb"), b"", stop=["\n\n"])) == ["a"]
    assert list(stream(repeating(b"a\n"), b"", stop=["\n\n"])) == ["a", "\n"]  # held, then the text ended
    assert list(stream(repeating(b"a\xf0\x9f"), b"")) == ["a", "\ufffd"]
    first = next(stream(repeating(b"ab"), b""))
    assert first == "a"


# ---- models that generate by themselves ------------------------------------------------------------


class Fast(HistoryLM):
    """Says in place of a completion what it was asked for; in byte mode it cannot do top_k."""

    def continue_(self, state, *, max_bytes, sampling, stop, seed):
        self.asked = (max_bytes, sampling, stop, seed)
        return None if sampling.top_k else [b"fast"] * len(state.rows)


def test_a_model_that_generates_by_itself_is_let():
    lm = Fast(repeating(b"slow").law)
    assert generate(lm, ["", ""], stop="x", seed=3, top_p=0.5, max_bytes=9) == [b"fast", b"fast"]
    assert lm.asked == (9, Sampling(top_p=0.5), (b"x",), 3)
    assert generate(lm, [""], top_k=1) == [b"slow"]
    assert generate(lm, [""], mode="boundary", token_temperature=0.7) == [b"fast"]
    assert lm.asked[1] == Sampling(mode="boundary", token_temperature=0.7)


def test_boundary_mode_needs_a_converted_model():
    with pytest.raises(ValueError, match=r"HistoryLM cannot .* converted tokenized model; use mode 'byte'"):
        generate(uniform(), [b""], mode="boundary")


# ---- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"temperature": -1}, "temperature must be"),
        ({"top_p": 0}, "top_p must lie"),
        ({"max_bytes": -1}, "max_bytes must be 0 or more, not -1"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"stop": [b"a", b""]}, "stop string is empty"),
        ({"stop": ""}, "stop string is empty"),
        ({"stop": [b"\xff"], "utf8": True}, "not valid UTF-8"),
    ],
)
def test_settings_that_make_no_sense(settings_, said):
    with pytest.raises(ValueError, match=said):
        generate(uniform(), [], **settings_)
    with pytest.raises(ValueError, match=said):
        stream(uniform(), b"", **settings_)  # at once, without asking for a piece


def test_prompts_are_a_list_of_prompts():
    assert generate(uniform(), []) == []
    with pytest.raises(TypeError, match=r"write \[prompt\] for one"):
        generate(uniform(), b"abc")
    for segment in (Special("<fim_prefix>"), Text(b"x")):
        with pytest.raises(TypeError, match=r"prompts\[1\] is .* a segment.*\[\[segment, ...\]\]"):
            generate(uniform(), [b"a", segment])
    assert len(generate(uniform(), [[Special("<fim_prefix>"), b"a"]], max_bytes=1)) == 1
    with pytest.raises(TypeError, match="not int"):
        generate(uniform(), [3])
    with pytest.raises(TypeError, match="not int"):
        stream(uniform(), 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_law_that_is_none_is_an_error(bad):
    def law(row):
        law_V = uniform().law(row).copy()
        if len(row) == 2:
            law_V[7] = bad
        return law_V

    with pytest.raises(RuntimeError, match=f"row 1, byte 2 of its completion: {bad} is in the law"):
        generate(HistoryLM(law), [b"xyz", b""], temperature=0, max_bytes=5)


def test_an_impossible_prompt_is_an_error():
    with pytest.raises(RuntimeError, match="row 1, byte 0 of its completion: no symbol is possible"):
        generate(HistoryLM(lambda row: uniform().law(row) if not row else np.full(LAW, -np.inf)), [b"", b"b"])


def test_a_law_of_another_shape_is_an_error():
    with pytest.raises(RuntimeError, match=r"shape \(1, 256\), not \(1, 257\)"):
        generate(HistoryLM(lambda row: np.zeros(256)), [b""])
