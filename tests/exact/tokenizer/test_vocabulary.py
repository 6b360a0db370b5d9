"""The bytes of tokens, their order, and what is refused."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tokenizer_zoo
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.exact import Unsupported, Vocabulary, canonical_of
from bytelm.exact.canonical.canonical import follow


@pytest.mark.parametrize("name", tokenizer_zoo.SMALL)
def test_bytes_of_an_encoding_are_the_text(small, name):
    canonical = small(name)
    alphabet = name in ("sp-alphabet", "nfkd", "unigram", "unigram-plain")
    text = (
        "the cat's  12 a b"
        if alphabet
        else "the cat's 12 a b"
        if name == "unigram-collapse"
        else "the cat's  12 é\n 中 😀 a b"
    )
    data = b"".join(canonical.vocabulary.data[t] for t in canonical.source.encode(text))
    assert data == ((" " if canonical.source.dummy else "") + text).encode()


def test_rows_are_sorted_and_ranges_are_those_of_a_scan(small):
    vocabulary = small("gpt2").vocabulary
    assert vocabulary.rows == sorted(vocabulary.rows)
    assert vocabulary.rows == [vocabulary.data[t] for t in vocabulary.order]
    np.testing.assert_array_equal(vocabulary.order[vocabulary.row_of[vocabulary.order]], vocabulary.order)
    draw = random.Random(0)
    prefixes = [
        b"",
        b"zzz",
        b"\xff\xff",
        *(r[: draw.randint(1, len(r))] for r in draw.sample(vocabulary.rows, 50)),
    ]
    for prefix in prefixes:
        low, high, following, firsts = vocabulary.below(prefix)
        rows = [i for i, r in enumerate(vocabulary.rows) if r.startswith(prefix)]
        assert rows == list(range(low, high))
        longer = [i for i in rows if len(vocabulary.rows[i]) > len(prefix)]
        expected = {}
        for i in longer:
            expected.setdefault(vocabulary.rows[i][len(prefix)], i)
        assert dict(zip(following.tolist(), firsts.tolist(), strict=True)) == expected


def test_specials_gaps_and_duplicates(small):
    vocabulary = small("sp-fallback").vocabulary
    assert vocabulary.special == {"<unk>": 0, "<s>": 1}
    assert vocabulary.empty() == [0, 1]
    assert len(vocabulary.duplicates()[b"a"]) == 2
    assert all(len(vocabulary.prefixes[data]) > 1 for data in vocabulary.duplicates())
    with pytest.raises(KeyError, match="no special token '<nope>'"):
        vocabulary.named("<nope>")


def test_forms_of_a_tokenizer_are_one(tmp_path):
    tokenizer = tokenizer_zoo.byte_level("llama3")
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    one = Vocabulary.read(tokenizer)
    assert one.data == Vocabulary.read(path).data == Vocabulary.read(str(tmp_path)).data


def test_tiktoken_patterns_keep_their_repeats():
    tiktoken = pytest.importorskip("tiktoken")
    tokenizer = tokenizer_zoo.byte_level()
    ours = Vocabulary.read(tokenizer)
    ranks = {ours.data[t]: t for t in ours.order.tolist()}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,3}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s"
    canonical = canonical_of(
        tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    )
    for text in ("the cat's  dog 12345 12", "for i in range  (1000)  ", "naïve 中文字"):
        tokens = canonical.source.encode(text)
        assert canonical.ends(follow(canonical, tokens)), text
        starts = canonical.parts.splitter.pieces(text)
        assert len(starts) < len(text)


def test_a_pattern_read_wrongly_is_noticed_at_start(monkeypatch):
    from bytelm.exact.cuts import pretokenizers

    monkeypatch.setattr(pretokenizers, "GPT2", r"\p{L}+|\P{L}")
    with pytest.raises(Unsupported, match="not read as the tokenizer does"):
        canonical_of(tokenizer_zoo.byte_level())


def test_tiktoken_is_the_same_as_its_tokenizer_json():
    tiktoken = pytest.importorskip("tiktoken")
    tokenizer = tokenizer_zoo.byte_level("cl100k")
    described = json.loads(tokenizer.to_str())
    vocabulary = Vocabulary.read(tokenizer)
    special = vocabulary.special
    ranks = {vocabulary.data[t]: t for t in vocabulary.order.tolist()}
    pattern = tokenizer_zoo.PATTERNS["cl100k"].replace(r"\z", "$")
    encoding = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    described["model"]["ignore_merges"] = True
    ours, theirs = canonical_of(Tokenizer.from_str(json.dumps(described))), canonical_of(encoding)
    assert ours.vocabulary.data == theirs.vocabulary.data
    for text in ("the cat's  12 a", "for i in  range", " 中文 x  "):
        tokens = theirs.source.encode(text)
        assert theirs.ends(follow(theirs, tokens))
        if tokens == ours.source.encode(text):
            assert ours.ends(follow(ours, tokens))
        last, state = tokens[-1], follow(theirs, tokens[:-1])
        for token in (last, 5, 300):
            assert (
                bool(theirs.step(tokens[-2], state, token))
                == theirs.mask(tokens[-2], state)[theirs.vocabulary.row_of[token]]
            )


def _with(change) -> Tokenizer:
    described = json.loads(tokenizer_zoo.byte_level().to_str())
    change(described)
    return Tokenizer.from_str(json.dumps(described))


def _set(**parts):
    return lambda described: described.update({k: json.loads(v.__getstate__()) for k, v in parts.items()})


def _split(pattern: str, behaviour: str = "isolated"):
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(pattern), behaviour)
    return _set(
        pre_tokenizer=pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(normalizer=normalizers.Strip()), "Strip"),
        (_set(normalizer=normalizers.Replace("a", "b")), "Replace"),
        (_set(normalizer=normalizers.Lowercase()), "Lowercase"),
        (_set(decoder=decoders.Fuse()), "Fuse"),
        (_set(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "add_prefix_space"),
        (_set(pre_tokenizer=pre_tokenizers.WhitespaceSplit()), "WhitespaceSplit|ByteLevel"),
        (_split(r"\w+?"), "lazy"),
        (_split(r"\bthe"), r"escape \\b"),
        (_split(r"(?<=a)b"), "unknown kind"),
        (_split(r"a*"), "empty"),
        (_split(r"\s+", "removed"), "removed"),
        (_split(r"(?>a)b"), "unknown kind"),
        (_split(r"\s++a|\s++\s"), "possessive"),
        (
            _set(
                pre_tokenizer=pre_tokenizers.Sequence(
                    [pre_tokenizers.ByteLevel(False), pre_tokenizers.Digits(individual_digits=True)]
                )
            ),
            "after ByteLevel",
        ),
    ],
)
def test_refusals_print_the_feature(change, message):
    with pytest.raises(Unsupported, match=message):
        canonical_of(_with(change))


def test_other_models_are_refused():
    with pytest.raises(Unsupported, match="WordPiece"):
        canonical_of(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(Unsupported, match="WordLevel"):
        canonical_of(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.model"):
        canonical_of("some/tokenizer.model")
    with pytest.raises(TypeError, match="not int"):
        canonical_of(3)


def test_added_text_with_conditions_is_refused():
    tokenizer = tokenizer_zoo.byte_level()
    tokenizer.add_tokens([AddedToken("dog", lstrip=True)])
    with pytest.raises(Unsupported, match="dog"):
        canonical_of(tokenizer)


def test_tokens_that_no_merge_makes(tmp_path):
    described = json.loads(tokenizer_zoo.byte_level("llama3").to_str())
    described["model"]["merges"].pop()
    canonical = canonical_of(Tokenizer.from_str(json.dumps(described)))
    lost = [t for t in canonical.vocabulary.order.tolist() if not canonical.parts.is_made(t)]
    assert len(lost) == 1
    assert not canonical.mask(-1, canonical.start)[canonical.vocabulary.row_of[lost[0]]]
    described["model"]["ignore_merges"] = True
    with pytest.raises(Unsupported, match="1 tokens are made by no merge"):
        canonical_of(Tokenizer.from_str(json.dumps(described)))
