"""Boundary rules: three forms that agree, causality, the cap, and how text is cut."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm import words
from bytelm.words.compiling import Definition, Word, compile_rule
from bytelm.words.machine import PIECE, Rule, Tables

SCRIPTS = {
    "Latin": "All human beings are born free, “equal” in dignity — and rights. Don't you know? àéîõü Ünïcode",
    "Vietnamese": "Mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Greek": "Ολοι οι άνθρωποι γεννιούνται ελεύθεροι καὶ ἴσοι στὴν ἀξιοπρέπεια",
    "Cyrillic": "Все люди рождаются свободными и равными в своем достоинстве и правах. и\u0306",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، وقد وهبوا عقلًا",
    "Devanagari": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "Tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងភាពស្មើៗគ្នា",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა",
    "Hangul": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。\n他们赋有理性和良心，用Python写代码「引用」𠀀𠀁𠀂。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。ＡＢ",
    "Emoji": "👩‍👩‍👧 yes 🎉🎉🎉 no ✓ ∑x²",
}
CODE = """class HTTPServer2:
    def fooBar_baz(self, x12345=0xFF):
\t\treturn {"a": [1.5, 100000]}


# __init__  (x)\r\n"""
CAPS = (4, 7, 16)
WHOLE = ("runs", "closing")  # rules that keep characters whole
SAMPLES = {**{name: text.encode() for name, text in SCRIPTS.items()}, "code": CODE.encode()}


def shipped(caps=(16,)):
    return [pytest.param(name, cap, id=f"{name}-{cap}") for name in words.RULES for cap in caps]


# Broken and whole characters, close to each other: uniformly random bytes rarely hold the latter.
PARTS = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([c.encode() for text in SCRIPTS.values() for c in set(text)]),
    st.sampled_from([c.encode()[:n] for c in "éคक中Ệ\uffff𠀀🎉" for n in (1, 2, 3)]),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=4).map(str.encode),
    st.sampled_from([b" ", b"\n", b"    ", b"aB", b"0123456", b"((", b"x" * 30]),
)
TEXTS = st.lists(PARTS, max_size=40).map(b"".join)


def rows_of_samples(seed=0, rows=8, length=300):
    """Symbols [B, T] and documents: samples, code, random bytes and special symbols, laid end to end."""
    rng = np.random.default_rng(seed)
    symbols, documents = np.empty((rows, length), np.uint16), np.empty((rows, length), np.int32)
    pool = [np.frombuffer(sample, np.uint8) for sample in SAMPLES.values()]
    for row in range(rows):
        line, ids = [], []
        while len(line) < length:
            piece = pool[rng.integers(len(pool))] if rng.random() < 0.7 else rng.integers(0, 256, 40)
            piece = np.array(piece[rng.integers(20) :][: rng.integers(1, 90)], np.uint16)
            if rng.random() < 0.3:
                piece[rng.integers(len(piece))] = rng.integers(256, 261)
            line += piece.tolist()
            ids += [rng.integers(1000)] * len(piece)
        symbols[row], documents[row] = line[:length], ids[:length]
    return symbols, documents


SYMBOLS, DOCUMENTS = rows_of_samples()


def one_by_one(rule, symbols_BT):
    """Words ended before, and states, by `step`."""

    def body(state, symbol_B):
        ended_B, state = rule.step(state, symbol_B)
        return state, (ended_B, state)

    _, (ended_TB, states) = jax.lax.scan(body, rule.start(symbols_BT.shape[0]), symbols_BT.T)
    return ended_TB.T, jax.tree.map(jnp.transpose, states)


# ---- the three forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cap"), shipped())
def test_the_three_forms_agree(name, cap):
    rule = words.rule(name, cap)
    expected_BT = rule.ended_before(SYMBOLS)
    read = jax.jit(rule.read)
    ended_BT, states = read(jnp.asarray(SYMBOLS))
    ended_step_BT, states_step = jax.jit(lambda x: one_by_one(rule, x))(jnp.asarray(SYMBOLS))
    np.testing.assert_array_equal(ended_BT, expected_BT)
    np.testing.assert_array_equal(ended_step_BT, expected_BT)
    jax.tree.map(np.testing.assert_array_equal, states, states_step)
    alone = [rule.ended_before(row) for row in SYMBOLS]
    np.testing.assert_array_equal(alone, expected_BT)
    assert expected_BT[:, 0].all()
    assert name == "byte" or not expected_BT.all()


@pytest.mark.parametrize(("name", "cap"), shipped())
def test_documents_are_read_as_if_alone(name, cap):
    rule = words.rule(name, cap)
    expected_BT = np.empty(SYMBOLS.shape, bool)
    for row, (symbols, documents) in enumerate(zip(SYMBOLS, DOCUMENTS, strict=True)):
        cuts = np.flatnonzero(np.diff(documents)) + 1
        expected_BT[row] = np.concatenate([rule.ended_before(part) for part in np.split(symbols, cuts)])
    np.testing.assert_array_equal(rule.ended_before(SYMBOLS, DOCUMENTS), expected_BT)
    ended_BT, _ = jax.jit(rule.read)(jnp.asarray(SYMBOLS), jnp.asarray(DOCUMENTS))
    np.testing.assert_array_equal(ended_BT, expected_BT)
    assert name == "byte" or (rule.ended_before(SYMBOLS) != expected_BT).any()  # they were crossed otherwise


@pytest.mark.parametrize("name", words.RULES)
def test_lengths_around_pieces_and_blocks(name, monkeypatch):
    rule = words.rule(name, 16)
    data = np.frombuffer(b"".join(SAMPLES.values()), np.uint8)
    whole = rule.ended_before(data)
    for length in (0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 5):
        np.testing.assert_array_equal(rule.ended_before(data[:length]), whole[:length])
    for length in (0, 1, PIECE + 1):
        ended_1T, states = jax.jit(rule.read)(jnp.asarray(data[None, :length]))
        np.testing.assert_array_equal(ended_1T[0], whole[:length])
        assert states.node.shape == states.since.shape == (1, length)
    monkeypatch.setattr("bytelm.words.machine._BLOCK", 97)
    np.testing.assert_array_equal(rule.ended_before(data), whole)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from((4, 16)), st.sampled_from(list(words.RULES)))
def test_reading_in_parallel_is_walking_the_automaton(data, cap, name):
    rule = words.rule(name, cap)
    t = rule.tables
    node, since, ended = 0, 0, []
    for byte in data:
        mark = int(t.marks[node, t.classes[byte]])
        since = 0 if mark & 2 else since + 1
        number = mark >> 5
        m, width = (t.strides[number - 1] if number else 0), mark >> 2 & 7
        ended.append(bool(mark & 1) or bool(m and since >= m and since % m < width))
        node = t.nodes[node, t.classes[byte]]
    assert rule.ended_before(data).tolist() == ended


# ---- causality -------------------------------------------------------------------------------------


def check_causal(ended_before, at_once, seed=0):
    """Changing symbols from t on changes nothing before t, and at t nothing either if it is known at once."""
    rng = np.random.default_rng(seed)
    symbols = np.repeat(SYMBOLS, 40, axis=0)
    changed, at = symbols.copy(), rng.integers(1, symbols.shape[1], len(symbols))
    for row, t in enumerate(at):
        changed[row, t:] = rng.permuted(SYMBOLS[rng.integers(len(SYMBOLS))])[: len(changed[row, t:])]
    before, after = ended_before(symbols), ended_before(changed)
    for row, t in enumerate(at):
        settled = t + 1 if at_once else t
        np.testing.assert_array_equal(before[row, :settled], after[row, :settled])


@pytest.mark.parametrize(("name", "cap"), shipped((4, 16)))
def test_rules_read_no_further_than_they_declare(name, cap):
    rule = words.rule(name, cap)
    check_causal(rule.ended_before, rule.at_once)


@pytest.mark.parametrize("name", ["runs", "paper"])
def test_a_rule_that_knows_later_fails_as_one_that_knows_at_once(name):
    with pytest.raises(AssertionError):
        check_causal(words.rule(name).ended_before, at_once=True)


@pytest.mark.parametrize("name", [name for name in words.RULES if name not in ("byte", "stride")])
def test_a_rule_that_reads_ahead_fails(name):
    rule = words.rule(name, 16)

    def ahead(symbols):
        return np.roll(rule.ended_before(symbols), -1, axis=1)

    with pytest.raises(AssertionError):
        check_causal(ahead, rule.at_once)


def test_a_false_declaration_is_refused():
    rule = words.rule("runs")
    with pytest.raises(ValueError, match="declares that it knows at once"):
        Rule("runs", rule.cap, True, rule.tables)


@pytest.mark.parametrize("name", words.RULES)
def test_ended_after_is_the_next_answer_of_a_rule_that_knows_at_once(name):
    rule = words.rule(name, 16)
    ended_BT, states = jax.jit(rule.read)(jnp.asarray(SYMBOLS))
    after_BT = np.asarray(rule.ended_after(states))
    assert not rule.ended_after(rule.start(2)).any()
    if rule.at_once:
        np.testing.assert_array_equal(after_BT[:, :-1], ended_BT[:, 1:])
    else:
        assert not after_BT.any()


@settings(deadline=None, max_examples=40)
@given(TEXTS, TEXTS, st.sampled_from(list(words.RULES)))
def test_appending_changes_nothing(data, more, name):
    rule = words.rule(name, 7)
    np.testing.assert_array_equal(rule.ended_before(data + more)[: len(data)], rule.ended_before(data))


# ---- the cap, characters, nothing lost --------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(TEXTS, st.sampled_from(CAPS), st.sampled_from(list(words.RULES)))
def test_words_are_lossless_and_within_the_cap(data, cap, name):
    cut = words.rule(name, cap).cut(data)
    assert b"".join(cut) == data
    assert all(1 <= len(word) <= cap for word in cut)


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("name", WHOLE)
def test_characters_are_never_cut(name, cap):
    for text in [*SCRIPTS.values(), "é" * 99, "中" * 99, "🎉" * 99, "aก" * 50, "中𠀀a🎉é" * 30, "한ꀀ" * 30]:
        cut = words.rule(name, cap).cut(text.encode())
        assert "".join(word.decode() for word in cut) == text  # decodes each alone
        assert max(map(len, cut)) <= cap


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters(codec="utf-8")), st.sampled_from(CAPS), st.sampled_from(WHOLE))
def test_characters_of_any_text_are_never_cut(text, cap, name):
    assert "".join(word.decode() for word in words.rule(name, cap).cut(text.encode())) == text


@pytest.mark.parametrize("name", ["paper", "spacebyte", "stride", "byte"])
def test_the_others_show_that_those_checks_can_fail(name):
    cut = words.rule(name, 16).cut(SAMPLES["Chinese"] + SAMPLES["Emoji"])
    broken = [word for word in cut if word.decode(errors="ignore").encode() != word]
    assert bool(broken) == (name != "paper")  # which ends words at ASCII, and at the cap


def test_the_cap_is_what_limits_words():
    for name in ("runs", "closing", "paper", "spacebyte"):
        assert [len(w) for w in words.rule(name, 16).cut(b"x" * 40)] == [13, 13, 13, 1]
        assert len(words.rule(name, 64).cut(b"x" * 40)) == 1
        assert max(map(len, words.rule(name, 16).cut(b"xx" + "é".encode() * 40))) <= 16


def test_what_is_not_utf8_is_cut_too():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, 20_000).astype(np.uint8).tobytes()
    for name in words.RULES:
        for data in (
            noise,
            b"\xf0" * 99,
            b"\x80" * 99,
            b"\xc3" * 99,
            "中".encode()[:2] * 99,
            b"\xff\xe4" * 50,
        ):
            cut = words.rule(name, 7).cut(data)
            assert b"".join(cut) == data
            assert max(map(len, cut)) <= 7
    assert 1.5 < len(noise) / len(words.rule("runs").cut(noise)) < 4


@pytest.mark.parametrize("name", words.RULES)
def test_a_symbol_that_is_no_byte_ends_its_word(name):
    rule = words.rule(name)
    row = np.array([97, 98, 256, 97, 260, 259, 32, 97])
    ended = rule.ended_before(row)
    assert ended[[0, 3, 5, 6]].all()
    assert rule.ended_before(row[:2])[1] == (name == "byte")  # there is no end without one


# ---- how each rule cuts ----------------------------------------------------------------------------

EXAMPLE = "def fooBar_baz(x12345):\n    return"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("runs", EXAMPLE, "def| foo|Bar|_baz|(x|123|45|):\n    |return"),
        ("closing", EXAMPLE, "def |fooBar_|baz(|x12345)|:\n|    return"),
        ("paper", EXAMPLE, "def| fooBar|_|baz|(|x12345|)|:|\n    return"),
        ("spacebyte", EXAMPLE, "def |fooBar_|baz(|x12345)|:\n    return"),
        ("stride", EXAMPLE[:24], "def fooBar_baz(x1234|5):\n"),
        ("runs", "It's $100,\nnot  so. 1999", "It|'s| $|100|,\n|not|  |so|.| 199|9"),
        ("runs", "HTTPServer MAX_LEN x1", "HTTPServer| MAX|_LEN| x|1"),
        ("runs", "Привет, мир! Grüße naïveté", "Привет|,| мир|!| Grüße| naïveté"),
        ("runs", "Việt ἀξία e\u0301te\u0301", "Việt| ἀξία| e\u0301te\u0301"),
        ("runs", "Latinкириллица", "Latin|кириллица"),
        ("runs", "用Python写代码，很好。\n行", "用|Python|写代|码，|很好|。\n|行"),
        ("runs", "ภาษาไทย ไม่มี", "ภาษ|าไท|ย| ไม่|มี"),
        ("runs", "모든 인간은", "모든| 인간은"),
        ("closing", "Hi, you! 用代码，很好", "Hi,| you!| 用|代码|，|很好"),
        ("spacebyte", "hi, 中a", "hi,| 中a"),
    ],
)
def test_examples(name, text, expected):
    cut = words.rule(name).cut(text.encode())
    assert "|".join(word.decode() for word in cut) == expected


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_spacebyte_is_the_published_rule(data):
    """Slagle 2024, section 3: global blocks after a spacelike byte that follows none."""

    def spacelike(b):
        return not (48 <= b <= 57 or 65 <= b <= 90 or 97 <= b <= 122 or 128 <= b < 192)

    expected = [
        t == 0 or (spacelike(data[t - 1]) and (t < 2 or not spacelike(data[t - 2]))) for t in range(len(data))
    ]
    assert words.rule("spacebyte", 2**20).ended_before(data).tolist() == expected


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_stride_and_byte(data):
    t = np.arange(len(data))
    np.testing.assert_array_equal(words.rule("stride", 6).ended_before(data), t % 6 == 0)
    assert words.rule("byte").ended_before(data).all()


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("word", 16), "no rule 'word'; there are runs, closing, paper, spacebyte, stride, byte"),
        (("runs", 3), "the cap of rule 'runs' is 3; it must be 4 to 1,048,576, because a character"),
        (("stride", 0), "must be 1 to"),
        (("runs", 2**21), "must be 4 to"),
    ],
)
def test_bad_rules(args, said):
    with pytest.raises(ValueError, match=said):
        words.rule(*args)


def test_bad_symbols():
    rule = words.rule()
    for bad in ("text", [1, 2], np.zeros(3)):
        with pytest.raises(TypeError, match="must be bytes or an array of integers"):
            rule.ended_before(bad)
    with pytest.raises(ValueError, match=r"symbol \[1, 0\] is -1"):
        rule.ended_before(np.array([[0], [-1]]))
    with pytest.raises(ValueError, match=r"shape \[T\] or \[B, T\], not \[1, 1, 1\]"):
        rule.ended_before(np.zeros((1, 1, 1), int))
    with pytest.raises(ValueError, match=r"documents have shape \[2\], symbols \[3\]"):
        rule.ended_before(b"abc", np.zeros(2, int))
    assert rule.cut(b"") == []
    assert rule.ended_before(b"").shape == (0,)


def test_a_rule_that_never_forgets_is_refused():
    parity = Definition(
        at_once=True,
        extend=lambda word, kind: Word(kind, closed=word is not None and not word.closed),
        kinds=lambda first: ("x",),
        characters=False,
    )
    with pytest.raises(ValueError, match="must forget sooner"):
        compile_rule("parity", parity, 16)
    same = np.zeros((1, 2), np.int32)
    assert Tables(np.zeros(257, np.int32), same, same, (16,)).memory == 1
