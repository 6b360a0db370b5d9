"""What users get wrong, and what tokenizers hold in store: each with its message or its law."""

from __future__ import annotations

import json

import numpy as np
import pytest
import real_tokenizers
import tokenizer_zoo
from token_models import HistoryLM
from tokenizers import AddedToken, Tokenizer

from bytelm.exact import Unsupported, canonical_of, convert
from bytelm.exact.canonical.canonical import follow
from bytelm.lm import END, Special

DEFINITIONS = ({}, {"normalise": "joint"}, {"support": "all", "K": None, "eps": 0.0})


@pytest.fixture(scope="module")
def tiny():
    return canonical_of(tokenizer_zoo.TINIES["gpt2"]())


@pytest.mark.parametrize("condition", ["lstrip", "rstrip", "single_word"])
def test_added_text_with_a_condition_is_refused(condition):
    tokenizer = tokenizer_zoo.byte_level()
    tokenizer.add_tokens([AddedToken("dog", **{condition: True})])
    with pytest.raises(Unsupported, match=f'added_tokens.*dog.*"{condition}": true'):
        canonical_of(tokenizer)


def test_a_special_token_may_strip_spaces():
    """Texts never become special tokens, so conditions on those change nothing."""
    tokenizer = tokenizer_zoo.byte_level()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    canonical = canonical_of(tokenizer)
    assert canonical.ends(follow(canonical, canonical.source.encode("the  <mask> cat")))


def test_added_text_that_a_special_string_hides_is_refused():
    tokenizer = tokenizer_zoo.byte_level()
    tokenizer.add_tokens([AddedToken("end|", special=False)])
    with pytest.raises(Unsupported, match=r"the special token '<\|end\|>' overlaps it"):
        canonical_of(tokenizer)


def test_added_text_beside_a_dummy_space_is_refused():
    tokenizer = tokenizer_zoo.sentencepiece()
    tokenizer.add_tokens([AddedToken("dog", special=False)])
    with pytest.raises(Unsupported, match=r"dog.*beside a mark for spaces"):
        canonical_of(tokenizer)


def test_bert_is_refused_in_words():
    with pytest.raises(Unsupported, match="WordPiece: its decoding is not the concatenation"):
        canonical_of(real_tokenizers.real_path("bert-wordpiece"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', "null"])
def test_files_that_are_no_tokenizer(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        canonical_of(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a tokenizer\.json nor a tokenizer\.model"):
        canonical_of(tmp_path)


@pytest.mark.parametrize("how", DEFINITIONS)
def test_prompts_that_are_odd(tiny, how):
    token_lm = HistoryLM(tiny.vocabulary.size + 3)
    ends = [min(tiny.vocabulary.special.values()), token_lm.vocab_size - 1]
    lm = convert(token_lm, tiny, eos=ends, **how)
    law = np.exp(lm.next_logprobs(lm.start([b"", "é".encode()[:1], b"\xff", b"a\xffb"])))
    np.testing.assert_allclose(law.sum(1)[:2], 1)
    assert law[0, END] > 0
    if how.get("support") != "all":
        assert law[1, 0xA9] == pytest.approx(1)  # the only way to finish the character
    assert (law[2:] == 0).all()
    assert not np.isnan(lm.leak(lm.start([b"\xff", b"a"]))).any()
    (whole,) = lm.score(["aé1".encode()])
    for cut in range(5):
        (rest,) = lm.score(["aé1".encode()[cut:]], prompts=["aé1".encode()[:cut]])
        np.testing.assert_allclose(rest, whole[cut:], atol=1e-10)


@pytest.mark.parametrize("how", DEFINITIONS)
def test_mistakes_of_a_call(tiny, how):
    token_lm = HistoryLM(tiny.vocabulary.size)
    lm = convert(token_lm, tiny, eos=0, **how)
    with pytest.raises(ValueError, match="no special token '<nope>'"):
        lm.start([[Special("<nope>")]])
    with pytest.raises(ValueError, match="300 was pushed"):
        lm.push(lm.start([b""]), [300])
    with pytest.raises(ValueError, match="2 symbols were pushed on 1 rows"):
        lm.push(lm.start([b""]), [1, 2])
    with pytest.raises(ValueError, match="1 texts and 2 prompts"):
        lm.score([b"a"], prompts=[b"", b""])
    with pytest.raises(TypeError, match="bytes or str"):
        lm.score([3])
    with pytest.raises(UnicodeEncodeError):
        lm.score(["\ud800"])
    assert lm.score([]) == []
    token_lm.context = 3
    with pytest.raises(ValueError, match="the model sees 3"):
        lm.score([b"as 11 as 11 as"])


@pytest.mark.parametrize("how", DEFINITIONS)
def test_a_token_model_that_misbehaves(tiny, how):
    class Wrong:
        vocab_size = tiny.vocabulary.size

        def next_token_logprobs(self, contexts):
            return np.full((len(contexts), self.vocab_size + self.more), self.value)

    wrong = Wrong()
    for more, value, message in ((1, -1.0, "next_token_logprobs gave"), (0, np.nan, "NaN")):
        wrong.more, wrong.value = more, value
        lm = convert(wrong, tiny, eos=0, **how)
        with pytest.raises(ValueError, match=message):
            lm.score([b"a"])


def test_a_model_with_fewer_tokens_than_the_tokenizer(tiny):
    """Tokens that the model lacks have no mass; nothing is read out of range."""
    token_lm = HistoryLM(tiny.vocabulary.size - 2)
    for how in DEFINITIONS:
        lm = convert(token_lm, tiny, eos=0, **how)
        for law in lm.laws([b"as 1"]):
            np.testing.assert_allclose(np.exp(law[0]).sum(), 1)


def test_added_text_can_be_asked_for_as_a_token():
    """Qwen's <|fim_prefix|> is text to the tokenizer; in a prompt it may be meant as the token."""
    described = json.loads(tokenizer_zoo.TINIES["nfc"]().to_str())
    canonical = canonical_of(Tokenizer.from_str(json.dumps(described)))
    token = canonical.vocabulary.named("s1")
    assert canonical.vocabulary.data[token] == b"s1"
    lm = convert(HistoryLM(canonical.vocabulary.size), canonical, eos=0)
    as_token, as_text = (lm.next_logprobs(lm.start([p]))[0] for p in ([Special("s1")], b"s1"))
    np.testing.assert_allclose(np.exp(as_token), np.exp(as_text), atol=1e-12)  # there is one way to read it
