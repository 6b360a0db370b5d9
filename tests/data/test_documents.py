"""Tables of documents, splits by content, and cuts between characters."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.data.documents import TableBuilder, check_fractions, read_file, split_of_digest, utf8_cut


def test_table_slices_memory_and_files(tmp_path):
    path = tmp_path / "long.bin"
    path.write_bytes(bytes(range(256)) * 40)
    builder = TableBuilder()
    builder.add(b"first")
    builder.add(b"")
    builder.add_file(str(path), 100, 5000)
    builder.add(b"last")
    documents = builder.build("mixed", "")
    assert [documents[i] for i in range(3)] == [b"first", path.read_bytes()[100:5000], b"last"]
    assert documents.read(1, 10, 20) == path.read_bytes()[110:120]
    assert documents.lengths.tolist() == [5, 4900, 4]
    assert documents.lengths.dtype == np.int64
    assert documents.skipped == {"empty document": 1}


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 6), (3, 2)])
def test_reading_outside_a_document_is_an_error(table, start, stop):
    with pytest.raises(IndexError, match=r"document 0, which has 5 bytes"):
        table([b"first", b"second"]).read(0, start, stop)


def test_a_file_that_shrank_or_vanished_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 100)
    assert read_file(str(path), 90, 10) == b"x" * 10
    with pytest.raises(OSError, match=r"a\.txt.*changed"):
        read_file(str(path), 90, 11)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        read_file(str(path), 0, 1)


def test_no_document_is_an_error_that_says_what_was_skipped():
    builder = TableBuilder()
    builder.add(b"")
    with pytest.raises(ValueError, match=r"name: no document.*1 empty document.*advice"):
        builder.build("name", "advice")


def test_fractions_of_hashed_splits():
    digests = [hashlib.sha256(str(i).encode()).digest() for i in range(5000)]
    splits = [split_of_digest(digest, 0.2, 0.1) for digest in digests]
    shares = {split: splits.count(split) / 5000 for split in ("train", "valid", "test")}
    assert shares["valid"] == pytest.approx(0.2, abs=0.02)
    assert shares["test"] == pytest.approx(0.1, abs=0.02)
    assert {split_of_digest(digest, 0, 0) for digest in digests} == {"train"}


@pytest.mark.parametrize("fractions", [(-0.1, 0), (0.5, 0.5), (1, 0), (float("nan"), 0)])
def test_bad_fractions(fractions):
    with pytest.raises(ValueError, match="sum below 1"):
        check_fractions(*fractions, "X")


@given(st.text(max_size=20), st.integers(0, 80))
def test_utf8_cut_never_splits_a_character(text, cut):
    data = text.encode("utf-8", "replace")
    cut = min(cut, len(data))
    place = utf8_cut(lambda a, b: data[a:b], cut, len(data))
    assert cut - 3 <= place <= cut
    data[:place].decode()
    data[place:].decode()
    if cut == len(data) or data[cut] & 0xC0 != 0x80:
        assert place == cut


def test_utf8_cut_leaves_binary_alone():
    data = b"\x80" * 20
    assert utf8_cut(lambda a, b: data[a:b], 10, 20) == 10
