"""Documents with labels: read, packed whole, counted where they are cut, the same on any number of hosts."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.data import ByteCoding, Files, Fim, LabelCoding, eval_rows, known_labels, train_stream
from bytelm.data.documents import TableBuilder
from bytelm.data.readers import Label
from bytelm.lm import END

NAMES = ("no", "yes", 3)


def opened(texts, labels=None):
    builder = TableBuilder()
    for i, text in enumerate(texts):
        builder.add(text, Label(NAMES[i % 3] if labels is None else labels[i], "file", i + 1))
    return builder.build("labelled", "give some")


CODING = LabelCoding(ByteCoding(Fim()), NAMES)


def read(batch):
    """(bytes, label, whether cut) of each document of a batch, in order; checks what all rows satisfy."""
    found = []
    for inputs, targets, documents, labels in zip(
        *(batch[name] for name in ("inputs", "targets", "documents", "labels")), strict=True
    ):
        count = documents.max()
        assert documents.tolist() == sorted(documents, key=lambda d: d or 10**9)  # padding is last
        for d in range(1, count + 1):
            at = np.flatnonzero(documents == d)
            assert inputs[at[0]] == END
            assert (labels[at[:-1]] == -1).all()
            np.testing.assert_array_equal(inputs[at[1:]], targets[at[:-1]])
            found.append((bytes(inputs[at[1:]].tolist()), NAMES[labels[at[-1]]], targets[at[-1]] != END))
        assert (labels[documents == 0] == -1).all()
    return found


def expected(texts, length):
    return [(t[: length - 1], NAMES[i % 3], len(t) + 1 > length) for i, t in enumerate(texts)]


TEXTS = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 3), st.integers(1, 24))
def test_held_out_documents_come_once_in_order_and_whole(texts, rows, length):
    batches = list(eval_rows(opened(texts), rows=rows, length=length, coding=CODING))
    assert all(batch["labels"].shape == (rows, length) for batch in batches)
    assert [one for batch in batches for one in read(batch)] == expected(texts, length)
    parts = [list(eval_rows(opened(texts), rows=rows, length=length, coding=CODING, lanes=[lane]))
             for lane in range(rows)]  # fmt: skip
    for i, batch in enumerate(batches):
        for name, x in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[i][name] for part in parts]), x)


def test_rows_are_filled_as_far_as_documents_are_whole():
    texts = [b"aaa", b"bb", b"c" * 9, b"d"]
    (batch,) = eval_rows(opened(texts), rows=3, length=8, coding=CODING)
    np.testing.assert_array_equal(
        batch["documents"],
        [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]],
    )
    (first,) = eval_rows(opened(texts), rows=3, length=8, coding=CODING, max_bytes=4)
    assert read(first) == expected(texts, 8)[:2]  # both begin in the first four bytes


def stream(texts, **how):
    return train_stream(opened(texts), **{"rows": 4, "length": 16, "seed": 1, "prefetch": 0} | how)


def test_training_sees_each_document_once_an_epoch():
    texts = [bytes([97 + i]) * (1 + i % 13) for i in range(24)]
    with stream(texts, coding=CODING) as s:
        seen = [one for _ in range(12) for one in read(next(s))]
    first = {one[0]: one for one in expected(texts, 16)}
    assert all(one == first[one[0]] for one in seen)
    counts = np.bincount([one[0][0] - 97 for one in seen], minlength=24)
    assert counts.max() - counts.min() <= 2  # the lanes are not in step


def test_a_stream_goes_on_where_it_was():
    texts = [bytes([97 + i]) * (1 + i % 19) for i in range(24)]
    with stream(texts, coding=CODING) as whole, stream(texts, coding=CODING) as other:
        batches = [next(whole) for _ in range(3)]
        place, after = whole.get_state(), [next(whole) for _ in range(3)]
        other.set_state(json.loads(json.dumps(place)))
        for batch in after:
            np.testing.assert_equal(next(other), batch)
        assert any((a["inputs"] != b["inputs"]).any() for a, b in zip(batches, after, strict=True))
    with stream(texts) as plain, stream(texts, coding=CODING) as other:
        place = plain.get_state()
        with pytest.raises(ValueError, match="labels"):
            other.set_state(place)


# ---- files -----------------------------------------------------------------------------------------


def write(path, lines):
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_labels_of_files(tmp_path):
    lines = [{"text": "é", "label": "b"}, "", {"text": "", "label": 4}, {"text": "x", "label": 10, "more": 1}]
    path = write(tmp_path / "a.jsonl", [*lines, {"text": "y", "label": 2}])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "z", "label": "10"}))
    table = Files(train=(path, str(tmp_path / "b.jsonl.gz")), label="label").open("train")
    assert [table[i] for i in range(len(table))] == ["é".encode(), b"x", b"y", b"z"]
    assert [label.value for label in table.labels] == ["b", 10, 2, "10"]
    assert table.labels[1].where == f"{path}, line 4"
    assert known_labels(table) == (2, 10, "10", "b")
    assert Files(train=(path,)).open("train").labels is None


def test_splits_by_content_keep_labels(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": i % 5} for i in range(200)])
    source = Files(paths=(path,), label="label")
    parts = [source.open(split) for split in source.splits]
    assert [len(part) > 0 for part in parts] == [True] * 3
    for part in parts:
        for i, label in enumerate(part.labels):
            assert int(part[i][1:]) % 5 == label.value


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"text": "a", "label": 1}, {"text": "b"}], "a.jsonl, line 2: no field 'label'; .*set `label`"),
        ([{"label": "b"}], "a.jsonl, line 1: no field 'text'"),
        ([{"text": "a", "label": True}], "a JSON boolean, not a string or an integer"),
        ([{"text": "a", "label": 1.5}], "a JSON number, not a string or an integer"),
        ([{"text": "a", "label": None}], "a JSON null"),
        (["{"], "a.jsonl, line 1: not JSON"),
        ([], "no document in this split"),
    ],
)
def test_bad_lines(tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        Files(train=(write(tmp_path / "a.jsonl", lines),), label="label").open("train")


def test_truncated_gzip(tmp_path):
    whole = gzip.compress(json.dumps({"text": "a" * 1000, "label": 1}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: the gzip file is damaged or cut short"):
        Files(train=(str(tmp_path / "a.jsonl.gz"),), label="label").open("train")


def test_files_that_have_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt: labels are read from \.jsonl"):
        Files(train=(str(tmp_path / "a.txt"),), label="label").open("train")
    with pytest.raises(ValueError, match="'tail' cuts documents"):
        Files(paths=("a.jsonl",), split="tail", label="label")
    with pytest.raises(ValueError, match=r"no labels; set data\.source\.label"):
        known_labels(Files(train=(str(tmp_path / "a.txt"),)).open("train"))


def test_labels_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match="one label only, 'no'"):
        known_labels(opened([b"a", b"b"], ["no", "no"]))
    CODING.check(opened([b"a", b"b"], ["no", 3]))
    with pytest.raises(ValueError, match=r"file, line 2: the label '3' is not one .*: 'no', 'yes', 3"):
        CODING.check(opened([b"a", b"b"], ["no", "3"]))
