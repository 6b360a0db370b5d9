"""Data sets on disk: round trips through TFDS without TensorFlow, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bytelm.data import Counts, Files, Tfds, eval_rows, prepare, train_stream
from bytelm.data.documents import TableBuilder

MODULE = sys.modules[prepare.__module__]  # as an attribute of its package the function hides it
TRAIN = [
    bytes(range(256)) * 9,
    "héllo 漢字 ✓ שלום".encode(),
    b"\xff\xfe\x00",
    b"x",
    "漢".encode() * 900,
    b"\0" * 3,
]
HELD = {"valid": [b"v" * 700, b"\x80" * 50], "test": ["日本語".encode() * 40]}


@dataclass(frozen=True)
class Given:
    """A source of given documents, empty ones included."""

    documents: dict[str, list[bytes]]

    @property
    def splits(self):
        return tuple(self.documents)

    def open(self, split):
        builder = TableBuilder()
        for text in self.documents[split]:
            builder.add(text)
        return builder.build(f"given {split}", "")


SOURCE = Given({"train": [*TRAIN, b""], **HELD})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    counts = prepare(SOURCE, folder, name="mine", shard_bytes=2000)
    return folder, counts


def texts(documents):
    return [documents[i] for i in range(len(documents))]


def test_round_trip(prepared):
    folder, counts = prepared
    expected = {"train": TRAIN, **HELD}
    assert counts == {split: Counts(len(own), sum(map(len, own))) for split, own in expected.items()}
    for split, own in expected.items():
        documents = Tfds("mine", data_dir=str(folder)).open(split)
        assert texts(documents) == own
        assert documents.lengths.tolist() == list(map(len, own))
        assert documents.read(0, 3, 7) == own[0][3:7]
    with pytest.raises(IndexError, match="document 0, which has 360"):
        Tfds("mine", data_dir=str(folder)).open("test").read(0, 0, 361)


def test_a_file_that_vanishes_or_loses_its_end(prepared, tmp_path):
    """Since it was opened: an error that says so, as for any file, and never an empty document."""
    shutil.copytree(prepared[0], tmp_path / "sets")
    documents = Tfds("mine", data_dir=str(tmp_path / "sets")).open("train")
    first, *_, last = sorted((tmp_path / "sets").rglob("*train.array_record*"))
    first.unlink()
    os.truncate(last, last.stat().st_size // 2)
    with pytest.raises(OSError, match=rf"train: document 0 cannot be read: .*{first.name}"):
        documents[0]
    with pytest.raises(OSError, match=f"document {len(documents) - 1} cannot be read"):
        documents[len(documents) - 1]
    assert len(documents[len(documents) // 2]) > 0  # the control: the file between them


def test_plain_tfds_opens_it_without_tensorflow(prepared):
    folder, _ = prepared
    sets = tfds.data_source("mine", data_dir=folder)
    assert {name: [row["text"] for row in rows] for name, rows in sets.items()} == {
        "train": TRAIN,
        "validation": HELD["valid"],
        "test": HELD["test"],
    }
    assert len(list(folder.glob("mine/1.0.0/mine-train.array_record-*-of-00003"))) == 3  # by shard_bytes
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "expression", ["train[:50%]", "train[2:5]", "train[4:]", "train+test", "test+train[1:3]"]
)
def test_slices_of_splits(prepared, expression):
    folder, _ = prepared
    documents = Tfds("mine", data_dir=str(folder), train=expression).open("train")
    plain = tfds.data_source("mine", data_dir=folder, split=expression)
    assert texts(documents) == [row["text"] for row in plain]
    assert documents.lengths.tolist() == [len(text) for text in texts(documents)]


def test_streams_are_those_of_the_source(prepared):
    folder, _ = prepared
    stored = Tfds("mine", data_dir=str(folder))
    for piece in (None, 100):
        a, b = (
            train_stream(s.open("train"), rows=3, length=64, seed=1, piece=piece) for s in (SOURCE, stored)
        )
        for _ in range(50):
            ours, theirs = next(a), next(b)
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for split in ("valid", "test"):
        ours, theirs = (list(eval_rows(s.open(split), rows=2, length=64)) for s in (SOURCE, stored))
        assert len(ours) == len(theirs)
        assert all(np.array_equal(x[name], y[name]) for x, y in zip(ours, theirs, strict=True) for name in x)


def test_without_stored_lengths(prepared, tmp_path):
    """As any other TFDS data set: whole documents, and the same bytes."""
    prepare(SOURCE, tmp_path, name="bare")
    for file in (tmp_path / "bare" / "1.0.0").glob("*.npy"):
        file.unlink()
    documents = Tfds("bare", data_dir=str(tmp_path)).open("train")
    assert documents.lengths is None
    a, b = (train_stream(d, rows=2, length=64, seed=1) for d in (SOURCE.open("train"), documents))
    for _ in range(20):
        assert np.array_equal(next(a)["targets"], next(b)["targets"])


def test_max_document_cuts_training_documents_between_characters(tmp_path):
    counts = prepare(SOURCE, tmp_path, name="cut", max_document=500)
    source = Tfds("cut", data_dir=str(tmp_path))
    train = texts(source.open("train"))
    assert b"".join(train) == b"".join(TRAIN)
    assert max(map(len, train)) <= 500
    assert counts["train"] == Counts(len(train), sum(map(len, TRAIN)))
    chinese = [text for text in train if "漢".encode() * 5 in text]
    assert len(chinese) == 6  # of 498 bytes, whole characters
    assert all(text.decode() for text in chinese)
    assert texts(source.open("valid")) == HELD["valid"]  # one has 700 bytes: held-out documents stay whole


def test_files_on_disk_and_missing_splits(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"line {i} " * 9}) + "\n" for i in range(30))
    )
    (tmp_path / "b.txt").write_text("plain " * 500)
    source = Files((str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")), split="tail", valid_fraction=0.2)
    counts = prepare(source, tmp_path / "out", name="tailed", progress=False)
    assert list(counts) == ["train", "valid"]
    stored = Tfds("tailed", data_dir=str(tmp_path / "out"))
    for split in counts:
        assert texts(stored.open(split)) == texts(source.open(split))


def test_interrupted_leaves_nothing(tmp_path):
    class Interrupted(Given):
        def open(self, split):
            if split == "valid":
                raise KeyboardInterrupt
            return super().open(split)

    with pytest.raises(KeyboardInterrupt):
        prepare(Interrupted(SOURCE.documents), tmp_path, name="mine")
    assert list(tmp_path.iterdir()) == []
    prepare(SOURCE, tmp_path, name="mine")


def test_a_killed_run_is_never_taken_for_whole(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(MODULE.shutil, "rmtree", lambda *_, **__: None)  # as if the process died
    monkeypatch.setattr(MODULE, "_write_metadata", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(SOURCE, tmp_path, name="mine")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="no data set 'mine'"):
        Tfds("mine", data_dir=str(tmp_path)).open("train")
    monkeypatch.undo()
    with caplog.at_level("WARNING"):
        prepare(SOURCE, tmp_path, name="mine")
    assert "left from a run that was killed" in caplog.text
    assert len(Tfds("mine", data_dir=str(tmp_path)).open("train")) == len(TRAIN)


def test_prepare_refuses(prepared, tmp_path):
    folder, _ = prepared
    with pytest.raises(FileExistsError, match=r"mine/1\.0\.0 is there already"):
        prepare(SOURCE, folder, name="mine")
    for wrong, message in [
        ({"name": "Not Good"}, "name 'Not Good'"),
        ({"name": "imdb_reviews"}, "a data set of TFDS itself"),
        ({"name": "a", "shard_bytes": 0}, "shard_bytes is 0"),
        ({"name": "a", "max_document": 3}, "max_document is 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(SOURCE, tmp_path, **wrong)
    with pytest.raises(ValueError, match="has no split"):
        prepare(Given({}), tmp_path, name="a")
    with pytest.raises(ValueError, match="no document in this split"):
        prepare(Given({"train": [b""]}), tmp_path, name="a")
    assert list(tmp_path.iterdir()) == []


def test_tfds_refuses(prepared, tmp_path):
    folder, _ = prepared
    there = {"data_dir": str(folder)}
    with pytest.raises(FileNotFoundError, match=r"no data set 'nothing' in .*download_and_prepare"):
        Tfds("nothing", **there).open("train")
    with pytest.raises(ValueError, match=r"no field 'body'; it has text"):
        Tfds("mine", **there, field="body").open("train")
    for expression in ("trian", "train[:x]"):
        with pytest.raises(
            ValueError, match=r"cannot read train = 'tr.*it has the splits train, validation, test"
        ):
            Tfds("mine", **there, train=expression).open("train")
    with pytest.raises(ValueError, match=r"'train\[:0\]' holds no document"):
        Tfds("mine", **there, train="train[:0]").open("train")
    with pytest.raises(ValueError, match="has no 'test' split"):
        Tfds("mine", **there, test="").open("test")


def test_a_data_set_known_to_tfds(tmp_path, monkeypatch):
    """A registered name: not prepared, then found on disk, then in a format without random access."""
    source = Tfds("imdb_reviews", data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"not prepared.*download_and_prepare"):
        source.open("train")
    monkeypatch.setattr(MODULE, "_names_of_tfds", frozenset)
    prepare(SOURCE, tmp_path, name="imdb_reviews")
    final = tmp_path / "imdb_reviews" / "plain_text" / "1.0.0"  # where its config has its files
    final.parent.mkdir()
    (tmp_path / "imdb_reviews" / "1.0.0").rename(final)
    assert texts(source.open("train")) == TRAIN
    with pytest.raises(ValueError, match=r"field 'label' is .*int64.*, not a string"):
        Tfds("imdb_reviews", data_dir=str(tmp_path), field="label").open("train")
    info = final / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"is tfrecord, which has no random access"):
        source.open("train")
