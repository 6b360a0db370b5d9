"""The small scripts that the report runs: monobyte.py, excerpt.py, exact_bits.py."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield lambda name: importlib.import_module(name)
    sys.path.remove(str(ROOT / "scripts"))


# ---- monobyte.py ---------------------------------------------------------------------------------------


def test_brackets_are_well_nested(scripts):
    pairs = {pair[1]: pair[0] for pair in scripts("monobyte").PAIRS}
    data, open_, deepest = scripts("monobyte").brackets(5000, 0), [], 0
    for symbol in data.replace(b"\n", b""):
        if symbol in pairs:
            assert open_.pop() == pairs[symbol]
        else:
            open_.append(symbol)
        deepest = max(deepest, len(open_))
    assert len(data) == 5000
    assert deepest > 5
    assert data.count(b"\n") > 20
    assert data == scripts("monobyte").brackets(5000, 0) != scripts("monobyte").brackets(5000, 1)


@pytest.fixture
def corpora(tmp_path):
    (tmp_path / "a.txt").write_text("some words of a language " * 40)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        for i in range(9):
            file.write(json.dumps({"text": f"{i} " * 50}) + "\n")
    names = [f"A={tmp_path / 'a.txt'}", f"B={tmp_path / 'b.jsonl.gz'}"]
    return Namespace(
        corpora=names, bytes=600, held_out=100, seed=0, out=tmp_path / "out", config="flat", flags=""
    )


def test_all_corpora_and_controls_have_as_many_bytes(scripts, corpora):
    held_out = scripts("monobyte").prepared(corpora)
    assert list(held_out) == ["A", "B", "shuffled", "brackets"]
    assert {len(text) for text in held_out.values()} == {100}
    texts = {name: [(corpora.out / "text" / f"{name}.{s}.txt").read_bytes() for s in ("train", "valid")]
             for name in held_out}  # fmt: skip
    assert {len(train) for train, _ in texts.values()} == {600}
    assert {name: valid for name, (_, valid) in texts.items()} == held_out
    assert sorted(b"".join(texts["shuffled"])) == sorted(b"".join(texts["A"]))
    assert texts["shuffled"] != texts["A"]
    corpora.bytes = 2000
    with pytest.raises(ValueError, match=r"b.jsonl.gz has .* bytes; .* ask for 2,100|a.txt has 1,002 bytes"):
        scripts("monobyte").prepared(corpora)


def test_texts_that_models_have_read_are_not_written_over(scripts, corpora, tmp_path):
    monobyte = scripts("monobyte")
    held_out = monobyte.prepared(corpora)
    assert monobyte.prepared(corpora) == held_out  # the same again
    kept = {path: path.read_bytes() for path in (corpora.out / "text").iterdir()}
    assert len(kept) == 8
    (tmp_path / "a.txt").write_text("other words of a language " * 40)
    with pytest.raises(ValueError, match=r"A.train.txt is of another corpus.* choose another --out"):
        monobyte.prepared(corpora)
    assert {path: path.read_bytes() for path in (corpora.out / "text").iterdir()} == kept
    corpora.out = tmp_path / "new"
    assert monobyte.prepared(corpora) != held_out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["A", "A"], "taken by A"),
        (["v1.1", "v1.2"], "taken by v1.1"),  # runs are in folders without a suffix
        (["A", "brackets"], "a control"),
        *((["A", name], "ASCII letters") for name in ("..", ".", "../A", "a b", "Ä", "a\n")),
    ],
)
def test_names_that_no_folder_can_have_are_refused(scripts, names, said):
    scripts("monobyte").check_names(["A", "b-2_c.d", "Python"])
    with pytest.raises(ValueError, match=said):
        scripts("monobyte").check_names(names)


def test_a_figure_that_is_missing_is_an_error(scripts, monkeypatch):
    monobyte = scripts("monobyte")
    monkeypatch.setattr(monobyte.bytelm, "load", lambda folder: None)
    monkeypatch.setattr(
        monobyte, "bits_per_byte", lambda lm, texts: SimpleNamespace(bits_per_byte=2.0 if texts[0] else None)
    )
    run = SimpleNamespace(folder=Path("run"))
    assert monobyte.scored("A", run, {"B": b"text"}) == {"B": 2.0}
    with pytest.raises(ValueError, match="A has no bits per byte of B: 0 bytes"):
        monobyte.scored("A", run, {"B": b""})


def test_equal_bytes_are_equal_steps(scripts, corpora):
    monobyte = scripts("monobyte")
    config = monobyte.config_of(corpora)
    a_step = config.training.rows * config.data.row
    assert monobyte.steps_of(config, 10 * a_step + 5) == (10, 10 * a_step)
    assert monobyte.steps_of(config, 5)[0] == 1
    corpora.config = "bpe"
    with pytest.raises(ValueError, match="a model of tokens"):
        monobyte.steps_of(monobyte.config_of(corpora), 10**6)


# ---- excerpt.py ----------------------------------------------------------------------------------------


def test_an_excerpt_has_the_first_bytes_of_the_first_documents(scripts, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "texts.jsonl", tmp_path / "new" / "text.txt"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one two", "three four", "five")))

    def excerpt(*flags):
        monkeypatch.setattr(sys, "argv", ["excerpt.py", str(path), "--out", str(out), *map(str, flags)])
        scripts("excerpt").main()
        return out.read_text()

    assert excerpt() == "one two\n\nthree four\n\nfive"
    assert excerpt("--bytes", 15) == "one two\n\nthree "
    assert excerpt("--documents", 1) == "one two"
    lines = excerpt("--bytes", 15, "--piece", 6).splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one ", "two\n\nt", "hree "]
    path.write_text('{"other": 1}\n')
    with pytest.raises(SystemExit, match=r"excerpt.py: error: .*text"):
        excerpt()


# ---- exact_bits.py -------------------------------------------------------------------------------------


def test_bits_of_canonical_tokens(scripts):
    """A model whose law of the next token is that of the token before it."""
    law = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]))
    lm = SimpleNamespace(
        bos=0, ends=[0, 1], canonical=SimpleNamespace(source=SimpleNamespace(encode=lambda text: [1, 2])),
        token_lm=SimpleNamespace(params=None, logits=lambda params, tokens_BT: law[tokens_BT] + 3.0),
    )  # fmt: skip
    found = scripts("exact_bits").canonical(lm, [b"x", b"y"])
    assert found == pytest.approx(-2 * math.log(0.25 * 0.1 * (0.7 + 0.2)), rel=1e-5)


# ---- true_answers.py -----------------------------------------------------------------------------------


def test_true_answers_pass_and_wrong_ones_are_named(scripts, tmp_path, monkeypatch, capsys):
    from bytelm.evals import sandbox

    if sandbox.missing():
        pytest.skip(f"no containment here: {sandbox.missing()}")
    record = {
        "entry_point": "one",
        "test": "def check(f):\n    assert f() == 1\n",
        "prompt": "def one():\n    x = 1\n",
        "suffix": "    return x\n",
        "canonical_solution": "    x = x * 1\n",
    }
    names = [f"SingleLineInfilling/HumanEval/0/L{i}" for i in range(2)]
    records = [record | {"task_id": name} for name in names]
    records[1] |= {"canonical_solution": "    x = 2\n"}
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    monkeypatch.setattr(sys, "argv", ["true_answers.py", str(tmp_path / "items.jsonl")])
    scripts("true_answers").main()
    _, counts, failed = capsys.readouterr().out.splitlines()
    assert counts.split() == ["items.jsonl", "2", "1", "2"]  # nothing in the hole leaves x at 1
    assert failed.endswith(f"items.jsonl: {names[1]}: failed")
