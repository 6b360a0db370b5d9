"""SentencePiece models, read without the library; written here, and the real ones where there are some."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import oracle
import pytest
import tokenizer_zoo
from real_data import real

from bytelm.exact import Unsupported, canonical_of
from bytelm.exact.canonical.canonical import follow
from bytelm.exact.tokenizer.sentencepiece_file import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    load,
)


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def message(*fields: tuple[int, int | float | bytes | str]) -> bytes:
    """A protocol buffer."""
    found = b""
    for number, value in fields:
        if isinstance(value, float):
            found += varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            found += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            found += varint(number << 3 | 2) + varint(len(data)) + data
    return found


def model(pieces, kind=BPE, trainer=(), normalizer=((3, 1), (4, 0), (5, 1)), more=()) -> bytes:
    """A `.model` of (text, score, type)."""
    found = [(1, message((1, text), (2, float(score)), (3, t))) for text, score, t in pieces]
    return message(*found, (2, message((3, kind), *trainer)), (3, message(*normalizer)), *more)


def from_bpe(**more) -> bytes:
    described = json.loads(tokenizer_zoo.sentencepiece().to_str())["model"]
    order = [a + b for a, b in (m if isinstance(m, list) else m.split(" ") for m in described["merges"])]
    pieces = []
    for piece in sorted(described["vocab"], key=described["vocab"].__getitem__):
        kind = UNKNOWN if piece == "<unk>" else CONTROL if piece == "<s>" else NORMAL
        kind = BYTE if piece.startswith("<0x") else kind
        score = -float(order.index(piece)) if piece in order else 0.0 if kind != NORMAL else -1000.0
        pieces.append((piece, score, kind))
    return model(pieces, trainer=((35, 1),), **more)


def from_unigram(**more) -> bytes:
    vocabulary = json.loads(tokenizer_zoo.unigram("plain", fallback=True).to_str())["model"]["vocab"]
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL}
    pieces = [(p, s, BYTE if p.startswith("<0x") else kinds.get(p, NORMAL)) for p, s in vocabulary]
    return model(pieces, UNIGRAM, trainer=((35, 1),), **more)


MODELS = {
    "bpe": from_bpe(),
    "bpe-plain": from_bpe(normalizer=((3, 0), (4, 0), (5, 1))),
    "bpe-collapse": from_bpe(normalizer=((3, 1), (4, 1), (5, 1))),
    "unigram": from_unigram(),
    "unigram-collapse": from_unigram(normalizer=((3, 1), (4, 1), (5, 1))),
}


@pytest.fixture
def written(tmp_path):
    def write(data: bytes, name: str = "tokenizer.model") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", MODELS)
def test_pre_d(written, name):
    canonical = canonical_of(written(MODELS[name]))
    tried, wrong = oracle.refused_prefixes(canonical, oracle.texts(150))
    assert tried > 100
    assert not wrong
    accepted, refused, wrong = oracle.compared(canonical, nodes=12, candidates=20, seed=1)
    print(f"{name}: {accepted} accepted, {refused} refused")
    assert not wrong
    assert min(accepted, refused) > 20


@pytest.mark.parametrize("name", MODELS)
def test_encodings_are_the_librarys(written, name):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = written(MODELS[name])
    library, canonical = sentencepiece.SentencePieceProcessor(model_file=str(path)), canonical_of(path)
    for text in [*oracle.texts(400), "the the   the", "     " * 9]:
        if "<" not in text and "\x00" not in text:
            assert canonical.source.encode(text) == library.encode(text), repr(text)


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_a_model_is_its_tokenizer_json(written, name):
    canonical = canonical_of(written(MODELS[name]))
    if name == "bpe":
        other = canonical_of(tokenizer_zoo.sentencepiece())
    else:
        canonical = canonical_of(written(from_unigram(normalizer=((3, 0), (4, 0), (5, 1)))))
        other = canonical_of(tokenizer_zoo.unigram("plain", fallback=True))
    assert canonical.vocabulary.data == other.vocabulary.data
    for text in oracle.texts(200):
        if "<" not in text:
            assert canonical.source.encode(text) == other.source.encode(text), repr(text)


def test_real_models():
    path = real("tokenizers", "mistral-v1", "tokenizer.model")
    model, json_file = canonical_of(path), canonical_of(path.with_suffix(".json"))
    assert model.vocabulary.data == json_file.vocabulary.data
    assert (model.merges.reachable == json_file.merges.reachable).all()
    draw = random.Random(0)
    for text in [*oracle.texts(100), *(" " * n for n in range(60))]:
        tokens = model.source.encode(text)
        if "<" not in text:
            assert tokens == json_file.source.encode(text)
        state, other = follow(model, tokens), follow(json_file, tokens)
        assert bool(state) == bool(other)
        if state and draw.random() < 0.1 and tokens:
            assert (model.mask(tokens[-1], state) == json_file.mask(tokens[-1], other)).all()
    with pytest.raises(Unsupported, match="nfkc"):
        canonical_of(real("tokenizers", "unigram-test", "spiece.model"))


def test_user_defined_pieces_are_never_cut(written):
    pieces = [("<unk>", 0, UNKNOWN), ("▁▁", 0, USER_DEFINED), ("ab", 0, USER_DEFINED), ("abc", -5, NORMAL)]
    pieces += [(c, -9, NORMAL) for c in "abc▁"] + [("bc", -2, NORMAL), ("▁a", -3, NORMAL)]
    canonical = canonical_of(written(model(pieces, normalizer=((3, 0), (4, 0), (5, 1)))))
    assert canonical.source.encode("abc") == [2, 6]
    assert canonical.source.encode("c  bc a") == [6, 1, 8, 9]
    for text in ("abc", "c  bc a", "   ", "aab ab"):
        assert canonical.ends(follow(canonical, canonical.source.encode(text)))
    assert not follow(canonical, [3])
    assert not oracle.compared(canonical, nodes=40, candidates=12, seed=3)[2]


def test_runs_of_one_score(written):
    """Runs of spaces that share a score, all lengths of which one is missing, as in Mistral's vocabulary."""
    runs = [("▁" * n, -5.0, NORMAL) for n in range(2, 17) if n != 15]
    pieces = [("<unk>", 0, UNKNOWN), ("▁a", -1, NORMAL), *runs, ("▁", -9, NORMAL), ("a", -9, NORMAL)]
    canonical = canonical_of(written(model(pieces)))
    for n in range(40):
        for text in (" " * n + "a", "a" + " " * n):
            assert canonical.ends(follow(canonical, canonical.source.encode(text)))
    odd = [p for p in pieces if len(p[0]) in (1, 3) or p[0] in ("▁▁▁▁▁", "<unk>", "▁▁")]
    with pytest.raises(Unsupported, match="runs of one score"):
        canonical_of(written(model(odd)))
    with pytest.raises(Unsupported, match="parts of each other"):
        canonical_of(written(model([*pieces, ("ab", -3, NORMAL), ("abc", -3, NORMAL), ("b", -9, NORMAL)])))


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_an_error(written, keep):
    data = MODELS["bpe"]
    with pytest.raises(ValueError, match=r"tokenizer\.model.*cut off"):
        canonical_of(written(data[: int(len(data) * keep)]))


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 40, b'{"model": {}}', b"\x80\x04\x95 a pickle", b"PK\x03\x04zip"]
)
def test_other_files_are_errors(written, data):
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        canonical_of(written(data))


@pytest.mark.parametrize(
    ("data", "message_"),
    [
        (from_bpe(normalizer=((1, "nmt_nfkc"), (2, b"\1\2\3"), (3, 1), (4, 0))), "nmt_nfkc"),
        (model([("a", 0, NORMAL)], kind=3), "WORD"),
        (model([("a", 0, NORMAL), ("b", 0, UNUSED)]), "unused"),
        (model([("a", 0, NORMAL)], trainer=((24, 1),)), "treat_whitespace_as_suffix"),
        (model([("a", 0, NORMAL), ("a", -1, NORMAL)]), "twice"),
        (from_bpe(more=((5, message((2, b"\1\2"))),)), "denormalizer"),
        (model([("a", 0, NORMAL), ("▁", 0, NORMAL), ("xy", 0, USER_DEFINED)]), "beside a mark for spaces"),
    ],
)
def test_refusals(written, data, message_):
    with pytest.raises(Unsupported, match=message_):
        canonical_of(written(data))


def test_fields_that_are_left_out_have_their_defaults(written):
    found = load(written(message((1, message((1, "a"))))))
    assert found.pieces == [("a", 0.0, NORMAL)]
    assert (found.kind, found.dummy, found.collapse, found.escape) == (UNIGRAM, True, True, True)
