"""Fill-in-the-middle data: the layouts, where is cut, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.data import ByteCoding, Fim, TokenCoding, Tokens, train_stream
from bytelm.data.fim import Cut, characters, cut_of
from bytelm.data.pieces import Piece, Pieces, piece_sequence
from bytelm.data.tokenizer import train
from bytelm.lm import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

DATA = "héllo wörld 中文 print(value)".encode()
TEXTS = [("naïve 中文 value " * (1 + i)).encode() for i in range(12)]
NAMES = {FIM_PREFIX: "<P>", FIM_SUFFIX: "<S>", FIM_MIDDLE: "<M>", END: "<E>"}


@pytest.fixture(scope="module")
def tokens(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("fim") / "tokenizer.json"
    train(table([DATA * 5, *TEXTS]), size=330).save(str(path))
    return Tokens(path)


def whole(documents, i=0, **changes):
    return Piece(documents, i, 0, len(documents[i]) + 1, **changes)


def shown(symbols):
    return "".join(NAMES.get(s) or chr(s) for s in symbols)


@pytest.mark.parametrize(
    ("spm", "expected"),
    [
        (False, "<E><P>prefix <S> suffix<M>middle<E>"),
        (True, "<E><P><S> suffix<M>prefix middle<E>"),
    ],
)
def test_layouts_of_bytes(table, monkeypatch, spm, expected):
    monkeypatch.setattr("bytelm.data.coding.cut_of", lambda *_: Cut(7, 13, spm))
    coding = ByteCoding(Fim(rate=1.0))
    assert shown(coding.symbols(whole(table([b"prefix middle suffix"]))).tolist()) == expected


def test_layouts_of_tokens_spm_joins_what_psm_parts(table, tokens, monkeypatch):
    """Cut inside the token `value`: SPM reads prefix and middle as one text, PSM each as its own."""
    data = b"print value here"
    at = data.index(b"lue")
    p, s, m = tokens.sentinels
    for spm in (False, True):
        monkeypatch.setattr("bytelm.data.coding.cut_of", lambda *_, spm=spm: Cut(at, at + 3, spm))
        symbols = TokenCoding(tokens, Fim(rate=1.0)).symbols(whole(table([data]))).tolist()
        encode = lambda text: tokens.encode([text])[0].tolist()  # noqa: E731
        if spm:
            expected = [0, p, s, *encode(b" here"), m, *encode(b"print value"), 0]
        else:
            expected = [0, p, *encode(b"print va"), s, *encode(b" here"), m, *encode(b"lue"), 0]
        assert symbols == expected
    assert encode(b"print va") + encode(b"lue") != encode(b"print value")  # control: the parting matters


def test_cuts_lie_between_characters_and_cover_all(table):
    documents = table([DATA])
    allowed = {len(DATA.decode()[:i].encode()) for i in range(len(DATA.decode()) + 1)}
    assert set(characters(DATA).tolist()) == allowed
    cuts = [cut_of(Fim(rate=1.0), whole(documents, seed=1, epoch=e), DATA) for e in range(3000)]
    assert {c.first for c in cuts} | {c.second for c in cuts} == allowed
    assert all(c.first <= c.second for c in cuts)
    assert characters(b"").tolist() == [0]
    assert characters(b"\x80\x80a").tolist() == [0, 2, 3]  # not UTF-8: the ends, and where no byte continues


@pytest.mark.parametrize(("rate", "spm"), [(0.9, 0.5), (0.3, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_shares(table, rate, spm):
    documents, n = table([DATA]), 4000
    cuts = [cut_of(Fim(rate, spm), whole(documents, seed=7, epoch=e), DATA) for e in range(n)]
    drawn = [cut for cut in cuts if cut is not None]
    assert abs(len(drawn) / n - rate) < 0.03
    assert abs(sum(c.spm for c in drawn) / max(len(drawn), 1) - (spm if rate else 0)) < 0.04


def test_draws_depend_on_seed_epoch_document_and_place(table):
    documents = table([DATA, DATA + b"!"])
    fim, base = Fim(rate=1.0), {"seed": 1, "epoch": 2}
    first = cut_of(fim, whole(documents, **base), DATA)
    assert first == cut_of(fim, whole(documents, **base), DATA)
    others = [
        cut_of(fim, whole(documents, seed=2, epoch=2), DATA),
        cut_of(fim, whole(documents, seed=1, epoch=3), DATA),
        cut_of(fim, whole(documents, 1, **base), DATA),
        cut_of(fim, whole(documents, **base)._replace(start=1), DATA),
    ]
    assert all(other != first for other in others)


def put_back(symbols, sentinels, end, data):
    """The text of a piece, from its targets in whatever order."""
    targets = symbols[1:].tolist()
    p, s, m = sentinels
    spell = lambda part: b"".join(data[t] for t in part if t != end)  # noqa: E731
    if p not in targets:
        return spell(targets)
    at_s, at_m = targets.index(s), targets.index(m)
    assert targets[0] == p
    assert symbols[0] == end
    assert targets[-1] == end
    suffix = spell(targets[at_s + 1 : at_m])
    return spell(targets[1:at_s]) + spell(targets[at_m + 1 :]) + suffix if at_s > 1 else (targets, suffix)


@pytest.mark.parametrize("piece", [None, 9, 30])
@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_every_byte_once_an_epoch(table, tokens, kind, piece):
    documents = table(TEXTS)
    fim = Fim(rate=0.7, spm=0.0)  # in PSM the parts tell where they were
    if kind == "bytes":
        coding, names, end = ByteCoding(fim), (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE), END
        data = [*(bytes([b]) for b in range(256)), b"", b"", b"", b""]
    else:
        coding, names, end, data = TokenCoding(tokens, fim), tokens.sentinels, tokens.end, tokens.data
    pieces, found, rearranged = piece_sequence(documents, piece=piece, seed=1), {}, 0
    for i in range(len(Pieces(documents, piece, 1))):
        one = pieces[i]
        symbols = None if one is None else coding.symbols(one)
        if symbols is not None:
            spelled = put_back(symbols, names, end, data)
            if isinstance(spelled, tuple):  # an empty prefix
                targets, suffix = spelled
                spelled = b"".join(data[t] for t in targets[targets.index(names[2]) + 1 : -1]) + suffix
            rearranged += names[0] in symbols
            found[one.document, one.start] = spelled
            spelled.decode()  # no character was cut
    for i, text in enumerate(TEXTS):
        assert b"".join(found[key] for key in sorted(found) if key[0] == i) == text
    assert 0.4 < rearranged / len(found) < 0.95


def test_byte_rows_of_a_stream(table, unmeasured):
    """Sentinels are uint16 symbols of rows like any other; a place in them is gone on from to the bit."""
    fixed = {"rows": 2, "length": 19, "seed": 3, "prefetch": 0}
    for source, piece in ((table(TEXTS), 25), (unmeasured(TEXTS), None)):
        make = lambda s=source, p=piece: train_stream(s, piece=p, coding=ByteCoding(Fim(0.5)), **fixed)  # noqa: E731
        stream, states, batches = make(), [], []
        for _ in range(12):
            states.append(stream.get_state())
            batches.append(next(stream))
        assert {name: x.dtype for name, x in batches[0].items()} == {
            "inputs": np.uint16, "targets": np.uint16, "documents": np.int32,
        }  # fmt: skip
        assert any((batch["targets"] == FIM_MIDDLE).any() for batch in batches)
        resumed = make()
        resumed.set_state(states[5])
        for expected in batches[5:]:
            for name, x in next(resumed).items():
                np.testing.assert_array_equal(x, expected[name])


@pytest.mark.parametrize("wrong", [{"rate": 1.5}, {"rate": -0.1}, {"spm": 2.0}, {"rate": float("nan")}])
def test_shares_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"data\.fim\.(rate|spm) is a share"):
        Fim(**wrong)
