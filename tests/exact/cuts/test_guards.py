"""Normalisers that are not one-to-one: guards read exactly the texts that the library leaves alone."""

from __future__ import annotations

import json
import random

import numpy as np
import oracle
import pytest
import tokenizer_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers

from bytelm.exact import Unsupported, canonical_of
from bytelm.exact.canonical.canonical import follow
from bytelm.exact.cuts import characters
from bytelm.exact.cuts.guards import NormalForm, Spaces
from bytelm.exact.cuts.program import Alphabet

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
MARKS = (
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u0323\u0327\u0328\u0334\u0338\u0345\u0315\u031b"
)
AWKWARD = (
    MARKS + "aeiousAEILOlöÀéǖậậạ̄ệçḑṩṡṣ가각ᄀ까ᅢᆨᆩ한국ㅎﬁ①²ⅳｱﾞゞかがは゜ぱ\u0340\u0344\u037e\u2126\u212b\u1e9b"
    "\u09c7\u09be\u09d7\u09bc\u0bc6\u0bbe\u0dd9\u0dcf\u0dca\u0ddf\u0f71\u0f72\u0f73\u0f80\u1025\u102e <=≠≮\n1"
    "\u0600\u064e\u0651\u0653\u0627\u0655\u05d0\u05b7\u05bc\ufb2e\U0001d15e\U0001d157\U0001d165\U00011099\U000110ba"
)


class Reader:
    """A guard with an alphabet that knows all characters; `reads` says whether it survives a text."""

    def __init__(self, guard):
        self.guard, self.alphabet = guard, Alphabet()
        guard.read_classes(self.alphabet)
        self.alphabet.close(characters.valid())

    def reads(self, text: str) -> bool:
        state: int | None = 0
        for char in text:
            state = self.guard.after(state, self.alphabet.of_code(ord(char)))
            if state is None:
                return False
        return self.guard.ends(state)


READERS = {form: Reader(NormalForm(form)) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=6)
)
def test_normal_forms(form, text):
    assert READERS[form].reads(text) == (getattr(normalizers, form)().normalize_str(text) == text)


@pytest.mark.parametrize("form", FORMS)
def test_every_character_alone_and_after_letters(form):
    normalise = getattr(normalizers, form)().normalize_str
    draw = random.Random(0)
    chars = [chr(c) for c in range(0x20000) if not 0xD800 <= c < 0xE000]
    before = ["", "a", "À", "각", "\u0308", "a\u0323", "s\u0307", "か"]
    stable = 0
    for char in chars if form == "NFC" else draw.sample(chars, 20000):
        text = draw.choice(before) + char
        expected = normalise(text) == text
        stable += expected
        assert READERS[form].reads(text) == expected, ascii(text)
    assert stable > 10000


def test_looking_at_characters_one_by_one_is_not_enough():
    """The control: each character of these is left alone, the text is not."""
    reader = READERS["NFC"]
    for text in ("a\u0301", "\u1ea1\u0302", "à\u0323", "a\u0301\u0323", "\uac00\u11a8"):
        assert all(reader.reads(char) for char in text)
        assert not reader.reads(text)
    for text in ("1\u0301", "a\u0334\u0338", "s\u030c\u0301".replace("s\u030c", "š"), "\uac01\u11a8"):
        assert reader.reads(text)


@pytest.mark.parametrize(
    "rules", [(True, False, False), (False, True, False), (False, False, True), (True,) * 3]
)
def test_spaces(rules):
    reader, (leading, trailing, runs) = Reader(Spaces(*rules)), rules
    for n in range(3**6):
        text = "".join("a b"[n // 3**i % 3] for i in range(6)).replace("b", "", n % 2)
        bad = (leading and text[:1] == " ") or (trailing and text[-1:] == " ") or (runs and "  " in text)
        assert reader.reads(text) != bad, repr(text)


def test_texts_that_a_normaliser_changes_have_no_mass(small):
    canonical = small("nfc")
    assert canonical.ends(follow(canonical, canonical.source.encode("é")))
    apart = [
        canonical.source.encode("a")[0],
        *(canonical.vocabulary.data.index(bytes([b])) for b in b"\xcc\x81"),
    ]
    assert follow(canonical, apart[:2])  # after "a", 0xCC may begin a mark that does not compose
    assert not follow(canonical, apart)
    mask = canonical.mask(apart[1], follow(canonical, apart[:2]))
    rows = [canonical.vocabulary.row_of[canonical.vocabulary.data.index(bytes([b]))] for b in (0x81, 0x95)]
    assert mask[rows].tolist() == [False, True]  # U+0301 composes with a, U+0315 with nothing


def test_many_texts_in_nfc(small):
    canonical, draw, kept = small("nfc"), random.Random(4), 0
    for _ in range(300):
        text = "".join(draw.choices(AWKWARD, k=draw.randint(1, 8)))
        tokens = canonical.source.encode(text)
        if oracle.survives(canonical, text, tokens):
            kept += 1
            assert canonical.ends(follow(canonical, tokens)), ascii(text)
    assert 20 < kept < 250


def test_an_added_text_that_is_changed_is_refused():
    tokenizer = tokenizer_zoo.normal_form("NFC")
    tokenizer.add_tokens([AddedToken("a\u0301", normalized=True, special=False)])
    with pytest.raises(Unsupported, match="the normaliser changes it"):
        canonical_of(tokenizer)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Lowercase(),
        normalizers.StripAccents(),
        normalizers.Strip(),
        normalizers.Nmt(),
        normalizers.Replace(Regex("a+"), "a"),
        normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
    ],
)
def test_other_normalisers_are_refused(normalizer):
    tokenizer = tokenizer_zoo.byte_level()
    tokenizer.normalizer = normalizer
    name = type(normalizer).__name__.replace("Sequence", "Lowercase")
    with pytest.raises(Unsupported, match=f"normalizer: .*{name}"):
        canonical_of(tokenizer)


def test_gemma_like_runs_of_the_mark_are_pieces():
    described, run = json.loads(tokenizer_zoo.sentencepiece("gemma").to_str()), "▁▁"
    described["model"]["vocab"].setdefault(run, len(described["model"]["vocab"]))
    described["model"]["merges"].append(["▁", "▁"])
    tokenizer = Tokenizer.from_str(json.dumps(described))
    plain = canonical_of(tokenizer)
    tokenizer.add_tokens([AddedToken(run, normalized=False), AddedToken("\n\n", normalized=False)])
    canonical = canonical_of(tokenizer)
    token = tokenizer.token_to_id(run)
    assert canonical.vocabulary.data[token] == b" " * len(run)
    assert canonical.parts.added == [tokenizer.token_to_id("\n\n")]
    for text in ("a" + " " * len(run) + "b", "a\n\nb", "\n\n\n a"):
        tokens = canonical.source.encode(text)
        assert oracle.survives(canonical, text, tokens)
        assert canonical.ends(follow(canonical, tokens)), text
    marked = canonical.source.encode(f"a{run}b")
    assert not oracle.survives(canonical, f"a{run}b", marked)
    assert np.isin(token, marked)
    assert plain.vocabulary.data[token] == canonical.vocabulary.data[token]
