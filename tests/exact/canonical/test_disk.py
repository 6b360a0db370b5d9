"""What is kept on disk between runs."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest
import tokenizer_zoo

from bytelm.exact.canonical import disk, parts
from bytelm.exact.canonical.canonical import canonical_of
from bytelm.exact.canonical.states import NOTHING


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_made_once(folder):
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(3), "b": np.array(["x"])}

    for _ in range(3):
        found = disk.kept("key-1", make)
        np.testing.assert_array_equal(found["a"], [0, 1, 2])
    assert len(made) == 1
    assert [p.name for p in folder.iterdir()] == ["key-1.npz"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04cut"])
def test_damage_is_repaired_and_pickles_are_refused(folder, damage):
    disk.kept("key", lambda: {"a": np.arange(3)})
    (folder / "key.npz").write_bytes(damage)
    np.testing.assert_array_equal(disk.kept("key", lambda: {"a": np.arange(4)})["a"], np.arange(4))
    np.savez(folder / "key.npz", a=np.array([object()], object))
    np.testing.assert_array_equal(disk.kept("key", lambda: {"a": np.arange(5)})["a"], np.arange(5))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "file"))
    assert disk.kept("key", lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]


def test_many_writers(folder):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(disk.kept, "key", lambda: {"a": np.arange(10_000)}) for _ in range(32)]
        assert all((job.result()["a"] == np.arange(10_000)).all() for job in jobs)
    assert [p.name for p in folder.iterdir()] == ["key.npz"]


def test_where(monkeypatch, tmp_path):
    monkeypatch.delenv("BYTELM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk.folder() == tmp_path / "bytelm"


def test_merges_from_disk_are_the_same(folder, monkeypatch):
    monkeypatch.setattr(parts, "_LARGE", 0)
    first, second = (canonical_of(tokenizer_zoo.SMALL["gpt2"]()) for _ in range(2))
    assert len(list(folder.iterdir())) == 1
    state, last = second.start, NOTHING
    for token in second.source.encode(tokenizer_zoo.TEXT[:100]):
        np.testing.assert_array_equal(
            second.mask(last, state), first.mask(last, first.start if last < 0 else state)
        )
        state, last = second.step(last, state, token), token
        assert state
    assert second.merges._fires == first.merges._fires
    canonical_of(tokenizer_zoo.SMALL["llama3"]())
    assert len(list(folder.iterdir())) == 2
