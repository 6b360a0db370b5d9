"""What the tokens of a tokenizer.json spell."""

from __future__ import annotations

import json

import pytest

from bytelm import words
from bytelm.data.spellings import spellings
from bytelm.data.tokenizer import SMALLEST, train

TEXTS = [b"the cat and the dog = the cats\n" * 3, "é naïve the thing".encode()]


def test_of_a_byte_level_bpe(table, tmp_path):
    path = tmp_path / "tokenizer.json"
    train(table(TEXTS), size=300).save(str(path))
    found = spellings(path)
    assert {bytes([b]) for b in range(256)} < found
    assert b" the" in found
    assert not {b"", b"<|endoftext|>"} & found
    assert len(found) <= 300 - (SMALLEST - 256)
    runs, closing = (spellings(path, words.rule(name, 8)) for name in ("runs", "closing"))
    assert b" the" in runs <= found
    assert b" the" not in closing
    assert all(len(s) <= 4 for s in spellings(path, words.rule("runs", 4)))


def wordpiece(tmp_path, **changes):
    vocab = {"[UNK]": 0, "[CLS]": 1, "the": 2, "##ing": 3, "th": 4, "##s": 5, "s": 6, "é": 7}
    added = [{"id": i, "content": name, "special": True} for i, name in enumerate(("[UNK]", "[CLS]"))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"added_tokens": added, "model": model, **changes}))
    return path


def test_of_a_wordpiece(tmp_path):
    expected = {b"the", b"ing", b"th", b"s", "é".encode()}
    assert spellings(wordpiece(tmp_path)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "not a tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": 3}}, "tokenizer.json: not a tokenizer.json"),
    ],
)
def test_what_is_none(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        spellings(wordpiece(tmp_path, **changes))
