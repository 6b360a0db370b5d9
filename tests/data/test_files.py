"""Files of every kind, ways of splitting, and what is refused."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bytelm.data import Files


def texts(documents):
    return [documents[i] for i in range(len(documents))]


def whole(*paths, **fields):
    """All documents of the paths, unsplit."""
    return Files(train=tuple(map(str, paths)), **fields).open("train")


def test_kinds_of_files(tmp_path):
    binary = bytes(range(256)) * 3
    (tmp_path / "a.bin").write_bytes(binary)
    (tmp_path / "b.txt").write_text("plain é 漢", encoding="utf-8")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"zipped" * 100))
    lines = [{"text": "one"}, {"text": "two\nlines", "label": 3}, {"text": "\x00 漢"}]
    jsonl = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "d.jsonl").write_text(jsonl)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    pq.write_table(pa.table({"text": ["p", "qé"], "n": [1, 2]}), tmp_path / "f.parquet")
    pq.write_table(pa.table({"text": pa.array([b"\xff\x00"], pa.large_binary())}), tmp_path / "g.parquet")
    pq.write_table(pa.table({"text": pa.array(["r", "r"]).dictionary_encode()}), tmp_path / "h.parquet")
    documents = whole(tmp_path)
    from_json = [line["text"].encode() for line in lines]
    expected = [binary, "plain é 漢".encode(), b"zipped" * 100, *from_json, *from_json]
    assert texts(documents) == [*expected, b"p", "qé".encode(), b"\xff\x00", b"r", b"r"]
    assert documents.lengths.tolist() == [len(text) for text in texts(documents)]
    assert documents.read(0, 100, 300) == binary[100:300]


def test_plain_files_stay_on_disk(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 10_000)
    documents = whole(tmp_path / "a.txt")
    assert len(documents.memory) == 0
    (tmp_path / "a.txt").write_bytes(b"y" * 10_000)
    assert documents.read(0, 9_999, 10_000) == b"y"


def test_lone_surrogates_are_kept(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}')
    assert texts(whole(tmp_path / "a.jsonl")) == [b"a\xed\xa0\x80b", "😀".encode()]


def test_folders_globs_and_what_is_skipped(tmp_path, caplog):
    for name in ("b/2.txt", "b/1.txt", "a.txt", "c.md", ".hidden", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty.txt").touch()
    os.symlink(tmp_path / "b", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with caplog.at_level("INFO"):
        documents = whole(tmp_path, tmp_path / "*.txt")
    assert texts(documents) == [b"a.txt", b"b/1.txt", b"b/2.txt", b"c.md"]
    expected = {"hidden file": 1, "hidden folder": 1, "link to a folder": 1, "not a regular file": 1}
    assert documents.skipped == {**expected, "file named twice": 2, "empty document": 1}
    assert "1 hidden folder" in caplog.text
    assert texts(whole(tmp_path / "**" / "1.txt")) == [b"b/1.txt"]


def test_hash_split_is_disjoint_and_complete(tmp_path):
    for i in range(60):
        (tmp_path / f"{i:02}.txt").write_text(f"document {i % 50}")  # ten are copies
    (tmp_path / "more.jsonl").write_text(
        "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(70))
    )
    source = Files((str(tmp_path),), valid_fraction=0.3, test_fraction=0.2)
    splits = {split: texts(source.open(split)) for split in source.splits}
    assert sum(map(len, splits.values())) == 130
    assert min(map(len, splits.values())) > 5
    for split, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not set(splits[split]) & set(splits[other])
    assert len(splits["train"]) > len(set(splits["train"]))  # the control: there are copies to keep together


def test_tail_split(tmp_path):
    text = "".join(chr(0x4E00 + i % 3000) for i in range(1001))  # three bytes a character
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"text": "0123456789" * 10}) + "\n" + json.dumps({"text": "x"})
    )
    source = Files((str(tmp_path),), split="tail", valid_fraction=0.1)
    train, valid = source.open("train"), source.open("valid")
    assert texts(train)[0] + texts(valid)[0] == text.encode()
    assert texts(train)[0].decode() == text[:900]  # byte 2702 lies in character 900
    assert texts(train)[1] == b"0123456789" * 9
    assert texts(valid)[1:] == [b"0123456789", b"x"]
    assert train.skipped == {"empty document": 1}  # all of "x" is tail
    assert source.splits == ("train", "valid")
    with pytest.raises(ValueError, match="has no 'test' split"):
        source.open("test")


def test_named_splits(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    source = Files(train=(str(tmp_path / "a"), str(tmp_path / "b")), valid=(str(tmp_path / "c"),))
    assert source.splits == ("train", "valid")
    assert texts(source.open("train")) == [b"a", b"b"]
    assert texts(source.open("valid")) == [b"c"]


JSON_ERRORS = {
    '{"text": "a"}\n{"text": ': r"a\.jsonl, line 2: not JSON",
    '{"text": "a"}\n[1]\n': r"a\.jsonl, line 2: a JSON array, not an object",
    '{"text": "a"}\n{"title": "t", "n": 1}': r"a\.jsonl, line 2: no field 'text'; the line has 'title', 'n'",
    '{"text": null}': r"a\.jsonl, line 1: field 'text' is a JSON null",
    '{"text": 3.5}': r"a\.jsonl, line 1: field 'text' is a JSON number",
    '{"text": true}': r"a\.jsonl, line 1: field 'text' is a JSON boolean",
}


@pytest.mark.parametrize("content", JSON_ERRORS)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_json_lines(tmp_path, content, zipped):
    data = content.encode()
    path = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(ValueError, match=JSON_ERRORS[content].replace("jsonl", r"jsonl(\.gz)?")):
        whole(path)


def test_json_nested_too_deeply(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: not JSON"):
        whole(tmp_path / "a.jsonl")


def test_bytes_that_are_no_text_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        whole(tmp_path / "a.jsonl")


def test_blank_lines_count_as_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": ""}\n   \n')
    documents = whole(tmp_path / "a.jsonl")
    assert texts(documents) == [b"a"]
    assert documents.skipped == {"empty document": 3}


@pytest.mark.parametrize("name", ["a.gz", "a.jsonl.gz"])
@pytest.mark.parametrize(
    "damage", [lambda z: z[: len(z) // 2], lambda z: z[:5], lambda z: b"no gzip", lambda z: z[:-1]]
)
def test_damaged_gzip(tmp_path, name, damage):
    text = "".join(json.dumps({"text": os.urandom(20).hex()}) + "\n" for _ in range(100))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    assert whole(path).lengths.sum() > 0
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name}: the gzip file is damaged or cut short"):
        whole(path)


def test_bad_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'body'; it has 'text', 'n'"):
        whole(path, field="body")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'n' holds int64"):
        whole(path, field="n")
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: column 'text' is null"):
        whole(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet: not a whole Parquet file"):
        whole(path)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*nowhere'"):
        whole(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nothing matches '.*\*\.txt'"):
        whole(tmp_path / "*.txt")
    with pytest.raises(ValueError, match="no path given"):
        Files().open("train")
    with pytest.raises(ValueError, match="not both"):
        Files(("a",), train=("b",))
    with pytest.raises(TypeError, match="tuple of paths"):
        Files("a.txt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'hash' or 'tail'"):
        Files(("a",), split="random")  # type: ignore[arg-type]
    (tmp_path / "one.txt").write_text("alone")
    lone = Files((str(tmp_path / "one.txt"),), valid_fraction=0.01, test_fraction=0)
    with pytest.raises(ValueError, match=r"one\.txt\) valid: no document.*split='tail'"):
        lone.open("valid")
