"""The standard library as a corpus."""

from __future__ import annotations

import pytest

from bytelm.data import Stdlib


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "lib"
    (folder / "inner").mkdir(parents=True)
    (folder / "site-packages" / "other").mkdir(parents=True)
    for i in range(40):
        (folder / f"m{i}.py").write_text(f"x = {i}\n")
        (folder / "inner" / f"copy{i}.py").write_text(f"x = {i}\n")
    (folder / "empty.py").write_text("")
    (folder / "data.txt").write_text("no code")
    (folder / "site-packages" / "other" / "theirs.py").write_text("theirs = 1\n")
    return folder


def opened(source):
    return {split: source.open(split) for split in source.splits}


def texts(documents):
    return [documents[i] for i in range(len(documents))]


def test_splits_are_disjoint_complete_and_deterministic(library):
    source = Stdlib(valid_fraction=0.3, test_fraction=0.3, folder=str(library))
    splits = {name: texts(documents) for name, documents in opened(source).items()}
    everything = [text for documents in splits.values() for text in documents]
    assert sorted(everything) == sorted(f"x = {i}\n".encode() for i in range(40))  # each once: copies dropped
    assert min(map(len, splits.values())) > 3
    assert splits == {name: texts(documents) for name, documents in opened(source).items()}
    assert source.open("train").skipped == {"duplicate": 40, "empty document": 1}


def test_a_file_added_moves_no_other(library):
    source = Stdlib(valid_fraction=0.3, test_fraction=0.3, folder=str(library))
    before = set(texts(source.open("valid")))
    for i in range(10):
        (library / f"a{i}.py").write_text(f"y = {i}\n")
    after = set(texts(source.open("valid")))
    assert before <= after
    assert all(text.startswith(b"y") for text in after - before)


def test_the_running_interpreters_library():
    splits = opened(Stdlib())
    sizes = {name: int(documents.lengths.sum()) for name, documents in splits.items()}
    assert sizes["valid"] > 1_000_000
    assert sizes["test"] > 1_000_000
    assert sizes["train"] > 5_000_000
    held_out = {text for name in ("valid", "test") for text in texts(splits[name])}
    assert not held_out & set(texts(splits["train"]))


def test_errors(tmp_path, library):
    with pytest.raises(FileNotFoundError, match=r"nowhere; set `folder`"):
        Stdlib(folder=str(tmp_path / "nowhere")).open("train")
    with pytest.raises(ValueError, match=r"unknown split 'validation'; it is one of train, valid, test"):
        Stdlib().open("validation")
    with pytest.raises(ValueError, match=r"has no 'test' split, only train, valid"):
        Stdlib(test_fraction=0, folder=str(library)).open("test")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"no document.*standard library"):
        Stdlib(folder=str(tmp_path / "bare")).open("train")
