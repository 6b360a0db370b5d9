"""Tokenizers of runs, and token data: canonical, complete, resumable, over the same bytes as byte data."""

from __future__ import annotations

import json
import logging
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.data import Fim, Mixture, TokenCoding, Tokens, eval_rows, train_stream
from bytelm.data.pieces import Pieces, piece_sequence
from bytelm.data.tokenizer import SMALLEST, Bpe, make, train
from bytelm.exact.canonical.canonical import canonical_of, follow
from bytelm.lm import END

WORDS = (
    *("def", "return", "self", "import", "value", "é", "naïve", "中文", "한국", "12", "3456"),
    *("(x):", "\n\n", "", "", "#", "->", "don't", "<|endoftext|>"),
)
BAD = b"broken \xff\xfe bytes"


def text(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count)).encode()


TEXTS = [text(i, 1 + i * i // 2) for i in range(20)]


@pytest.fixture(scope="module")
def tokens(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    train(table(TEXTS), size=400).save(str(path))
    return Tokens(path)


def write(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


# ---- training one --------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [None, 2, 3, 4])
@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "starcoder"])
def test_trained_tokenizers_spell_texts_and_convert_exactly(table, tmp_path, pattern, longest):
    made = train(table(TEXTS), size=330, pattern=pattern, longest=longest)
    path = write(tmp_path, made)
    read = Tokens(path)
    assert 280 < read.vocab_size <= 330
    assert (read.end, read.sentinels) == (0, (1, 2, 3))
    assert {data for data in read.data if len(data) == 1} == {bytes([b]) for b in range(256)}
    sizes = read.sizes_V.max()
    assert sizes == longest if longest else sizes > 4
    for ids, given in zip(read.encode(TEXTS), TEXTS, strict=True):
        assert b"".join(read.data[t] for t in ids) == given
    canonical = canonical_of(str(path))
    assert follow(canonical, read.encode([TEXTS[4]])[0].tolist())
    if pattern == "starcoder":
        assert not any(sum(chr(b).isdigit() for b in data) > 1 for data in read.data)


def test_the_same_documents_give_the_same_tokenizer(table):
    one, two = (train(table(TEXTS), size=350).to_str() for _ in range(2))
    assert one == two
    assert one != train(table(TEXTS[:-1]), size=350).to_str()  # control


def test_settings_that_make_no_tokenizer(table, caplog):
    with pytest.raises(ValueError, match=f"{SMALLEST - 1} tokens is too small: {SMALLEST} are"):
        train(table(TEXTS), size=SMALLEST - 1)
    with pytest.raises(ValueError, match="longest is 1 bytes"):
        Bpe(longest=1)
    with pytest.raises(ValueError, match="not 'gpt5'"):
        Bpe(pattern="gpt5")
    with pytest.raises(ValueError, match="no document that is UTF-8"):
        train(table([BAD]), size=300)
    with caplog.at_level(logging.WARNING):
        assert train(table([b"ab ab", BAD]), size=400).get_vocab_size() < 400
    assert "1 documents that are not UTF-8" in caplog.text
    assert "tokens only, not 400" in caplog.text


def test_the_tokenizer_of_a_run(table, tmp_path, caplog):
    class Source:
        splits = ("train",)

        def open(self, split):
            return table(TEXTS)

    run = tmp_path / "run"
    path = make(Bpe(size=300), Source(), run)
    assert Tokens(path).vocab_size == 300
    assert Tokens(make(Bpe(size=310), Source(), run)).vocab_size == 310  # nothing trained with the old yet
    kept = path.read_text()
    assert make(Bpe(size=320), Source(), run, keep=True).read_text() == kept
    given = write(tmp_path, train(table(TEXTS), size=340))
    with pytest.raises(ValueError, match="another tokenizer"):
        make(Bpe(path=str(given)), Source(), run, keep=True)
    assert make(Bpe(path=str(tmp_path)), Source(), tmp_path / "two").read_text() == given.read_text()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(Bpe(path="nowhere"), Source(), run)


# ---- reading one ---------------------------------------------------------------------------------------


def byte_level(special=("<|endoftext|>",), normalizer=None):
    alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens(list(special))
    return made


def test_tokenizers_that_do_not_do(tmp_path):
    with pytest.raises(ValueError, match=r"no special token for the end of text.*it has <pad>"):
        Tokens(write(tmp_path, byte_level(["<pad>"])))
    with pytest.raises(ValueError, match=r"tokenizer\.json: tokenizer's normalizer.*Lowercase"):
        Tokens(write(tmp_path, byte_level(normalizer=normalizers.Lowercase())))
    metaspace = Tokenizer(models.BPE(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>"))
    metaspace.pre_tokenizer, metaspace.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    with pytest.raises(ValueError, match="byte-level"):
        Tokens(write(tmp_path, metaspace))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokens(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError):
        Tokens(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="no special tokens <fim_prefix>"):
        TokenCoding(Tokens(write(tmp_path, byte_level())), Fim(rate=0.5))


def test_a_tokenizer_that_loses_text(tmp_path):
    """A byte without a token is dropped in silence by the library."""
    alphabet = [char for char in sorted(pre_tokenizers.ByteLevel.alphabet()) if char != "z"]
    lossy = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    lossy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lossy.decoder = decoders.ByteLevel()
    lossy.add_special_tokens(["<|endoftext|>"])
    read = Tokens(write(tmp_path, lossy))
    assert read.encode([b"abc"])[0] is not None
    with pytest.raises(
        ValueError, match=r"loses text: b'zcd', at byte 2 of a text of 5, reads back as b'cd'"
    ):
        read.encode([b"abzcd"])


# ---- the stream ----------------------------------------------------------------------------------------


def reference(tokens, texts, piece):
    """(the symbol before, targets) of a piece, token by token."""
    line = [tokens.end, *tokens.encode([texts[piece.document]])[0].tolist(), tokens.end]
    at, found, previous = 0, [], False
    for before, token in pairwise(line):
        stop = len(texts[piece.document]) + 1 if piece.stop is None else piece.stop
        inside = bool(tokens.data[token]) and tokens.data[token][0] & 0xC0 == 0x80
        own = previous if inside else piece.start <= at < stop
        if own:
            found.append((before, token))
        previous, at = own, at + len(tokens.data[token])
    return found


@pytest.mark.parametrize("piece", [None, 3, 20, 100])
def test_pieces_hold_the_canonical_tokens_that_begin_in_them(table, tokens, piece):
    source = table(TEXTS)
    coding = TokenCoding(tokens)
    sequence = piece_sequence(source, piece=piece, seed=3)
    for i in range(2 * len(Pieces(source, piece, 3))):
        if (one := sequence[i]) is None:
            continue
        symbols, expected = coding.symbols(one), reference(tokens, TEXTS, one)
        if symbols is None:
            assert not expected
        else:
            assert list(zip(symbols[:-1].tolist(), symbols[1:].tolist(), strict=True)) == expected


def test_control_pieces_on_their_own_are_not_canonical(tokens):
    given = b"return value " * 5
    parts = tokens.encode([given[i : i + 8] for i in range(0, len(given), 8)])
    assert np.concatenate(parts).tolist() != tokens.encode([given])[0].tolist()


def epoch(source, coding, piece, number=0):
    """All symbols of an epoch, by document and place in it."""
    pieces = piece_sequence(source, piece=piece, seed=1)
    length = len(Pieces(source, piece, 1))
    found = {}
    for i in range(number * length, (number + 1) * length):
        one = pieces[i]
        symbols = None if one is None else coding.symbols(one)
        if symbols is not None:
            found[one.document, one.start] = symbols
    return found


@pytest.mark.parametrize("piece", [None, 5, 40])
@pytest.mark.parametrize("number", [0, 3])
def test_every_byte_once_an_epoch(table, tokens, piece, number):
    found = epoch(table(TEXTS), TokenCoding(tokens), piece, number)
    for document, given in enumerate(TEXTS):
        own = [found[key] for key in sorted(found) if key[0] == document]
        assert b"".join(tokens.data[t] for symbols in own for t in symbols[1:]) == given
        assert sum((symbols[1:] == tokens.end).sum() for symbols in own) == 1
    total = sum(int(tokens.sizes_V[symbols[1:]].sum()) for symbols in found.values())
    assert total == sum(map(len, TEXTS))


def test_batches_say_what_targets_stand_for(table, tokens):
    total = sum(len(ids) + 1 for ids in tokens.encode(TEXTS))
    stream = train_stream(table(TEXTS), rows=1, length=total, seed=0, prefetch=0, coding=TokenCoding(tokens))
    for _ in range(2):
        batch = next(stream)
        assert batch["bytes"].sum() == sum(map(len, TEXTS))
        assert batch["ends"].sum() == len(TEXTS)
        assert (batch["targets"][batch["ends"]] == tokens.end).all()
        assert not batch["bytes"][batch["ends"]].any()
        np.testing.assert_array_equal(batch["bytes"], tokens.sizes_V[batch["targets"]])
        assert batch["inputs"].dtype == np.uint16


def test_documents_come_in_the_order_of_the_byte_stream(table, tokens):
    distinct = [bytes([65 + i]) * (3 + i) for i in range(20)]
    one = train_stream(table(distinct), rows=1, length=500, seed=5, prefetch=0)
    two = train_stream(table(distinct), rows=1, length=300, seed=5, prefetch=0, coding=TokenCoding(tokens))
    ours = b"".join(tokens.data[t] or b"|" for t in next(two)["targets"][0])
    theirs = bytes(124 if t == END else t for t in next(one)["targets"][0])
    assert len(ours) > 200
    assert ours[:200] == theirs[:200]


@pytest.fixture(params=["whole", "pieces", "fim", "mixture", "unmeasured"])
def open_stream(request, table, unmeasured, tokens):
    kind = request.param
    sources = {
        "mixture": Mixture((table(TEXTS[:9]), table(TEXTS[9:])), (2.0, 1.0)),
        "unmeasured": unmeasured(TEXTS),
    }
    source = sources.get(kind) or table(TEXTS)
    fim = Fim(rate=0.5) if kind == "fim" else Fim()
    fixed = {"rows": 4, "length": 17, "seed": 5, "piece": None if kind in ("whole", "unmeasured") else 30}
    return lambda **changes: train_stream(
        source, **{**fixed, "coding": TokenCoding(tokens, fim), "prefetch": 0, **changes}
    )


def same(a, b):
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def test_resume_to_the_bit(open_stream):
    with open_stream(prefetch=2) as stream:
        states, through = [], []
        for _ in range(30):
            states.append(json.loads(json.dumps(stream.get_state())))
            through.append(next(stream))
    inside = 0
    for step in (1, 7, 12, 20, 25):
        inside += any(offset for _, _, offset in states[step]["lanes"])
        with open_stream() as resumed:
            resumed.set_state(states[step])
            assert same([next(resumed) for _ in range(4)], through[step : step + 4])
            assert not same([next(resumed)], through[step : step + 1])  # control
    assert inside == 5


def test_hosts_see_their_rows_of_one_global_batch(open_stream):
    whole, own = open_stream(), open_stream(lanes=(1, 3))
    for _ in range(8):
        batch = next(whole)
        assert same([next(own)], [{name: x[[1, 3]] for name, x in batch.items()}])


def test_a_place_belongs_to_a_tokenizer(table, tokens, tmp_path, open_stream):
    other = Tokens(write(tmp_path, train(table(TEXTS), size=310)))
    with pytest.raises(ValueError, match="tokenizer="):
        open_stream(coding=TokenCoding(other)).set_state(open_stream().get_state())
    with pytest.raises(ValueError, match="tokenizer="):
        open_stream().set_state(open_stream(coding=None).get_state())
    with pytest.raises(ValueError, match="fim="):
        open_stream(coding=TokenCoding(tokens, Fim(rate=0.25))).set_state(open_stream().get_state())


def test_documents_that_are_not_text_are_left_out_counted_and_told_of(table, tokens, caplog):
    coding = TokenCoding(tokens)
    texts = [*TEXTS[:3], BAD, TEXTS[3], b"\x80"]
    total = sum(len(ids) + 1 for ids in tokens.encode(TEXTS[:4]))
    with caplog.at_level(logging.WARNING):
        stream = train_stream(table(texts), rows=1, length=total, seed=0, prefetch=0, coding=coding)
        assert [int(next(stream)["bytes"].sum()) for _ in range(3)] == [sum(map(len, TEXTS[:4]))] * 3
    assert coding.left_out == {"test": 2}
    assert caplog.text.count("is not UTF-8") == 1  # at the first, then at the tenth
    lost = train_stream(table([BAD]), rows=1, length=4, seed=0, prefetch=0, coding=coding)
    with pytest.raises(ValueError, match="hold nothing to train on"):
        next(lost)


def test_empty_documents_are_passed_over(unmeasured, tokens):
    stream = train_stream(
        unmeasured([b"", b"a", b""]), rows=1, length=4, seed=0, prefetch=0, coding=TokenCoding(tokens)
    )
    batch = next(stream)
    assert batch["bytes"].tolist() == [[1, 0, 1, 0]]
    assert batch["ends"].tolist() == [[False, True, False, True]]


def test_special_strings_in_documents_are_text(tokens):
    ids = tokens.encode([b"a <|endoftext|> b"])[0]
    assert tokens.end not in ids
    assert b"".join(tokens.data[t] for t in ids) == b"a <|endoftext|> b"


def test_a_small_cache_changes_nothing(open_stream, monkeypatch):
    expected = [next(stream) for stream in [open_stream()] for _ in range(6)]
    monkeypatch.setattr("bytelm.data.coding.CACHE", 10)
    assert same([next(stream) for stream in [open_stream()] for _ in range(6)], expected)


# ---- held out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 7, 100, 333, 334, 335, 336, 1000, None])
def test_the_same_held_out_bytes_as_of_a_byte_model(table, tokens, max_bytes):
    source = table(["é中한 x".encode() * 40, *TEXTS])
    coded = list(eval_rows(source, rows=2, length=9, max_bytes=max_bytes, coding=TokenCoding(tokens)))
    plain = list(eval_rows(source, rows=2, length=9, max_bytes=max_bytes))
    assert all(batch["targets"].shape == (2, 9) for batch in coded)

    def spelled(batches, data, end):
        found = {}
        for batch in batches:
            for t, d in zip(batch["targets"].ravel().tolist(), batch["documents"].ravel(), strict=True):
                if d:
                    found[d] = found.get(d, b"") + (b"<end>" if t == end else data[t])
        return found

    ours = spelled(coded, tokens.data, tokens.end)
    assert ours == spelled(plain, [bytes([b]) for b in range(256)], END)
    size = sum(int(batch["bytes"].sum()) for batch in coded)
    assert size == sum(int(((b["targets"] < END) & (b["documents"] > 0)).sum()) for b in plain)
    assert sum(int(b["ends"].sum()) for b in coded) == sum(x.endswith(b"<end>") for x in ours.values())


def test_held_out_rows_of_hosts_and_documents_left_out(table, tokens):
    coding = TokenCoding(tokens)
    source = table([TEXTS[5], BAD, *TEXTS[6:]])
    whole = list(eval_rows(source, rows=4, length=13, coding=coding))
    own = list(eval_rows(source, rows=4, length=13, lanes=(2, 3), coding=coding))
    assert same(own, [{name: x[[2, 3]] for name, x in batch.items()} for batch in whole])
    assert coding.left_out == {"test": 1}
    assert not any((batch["documents"] == 2).any() for batch in whole)
