"""`bytelm fim` and `bytelm fim-compare`, over fakes and small converted models, with the real sandbox."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from fakes import hashed

from bytelm.evals import sandbox

ROOT = Path(__file__).parents[2]
RECORD = {
    "entry_point": "one",
    "prompt": "def one():\n    x = 1\n",
    "suffix": "    return x\n",
    "canonical_solution": "    x = x\n",
    "test": "def check(f):\n    assert f() == 1\n",
}


@pytest.fixture
def run(capsysbinary):
    def run(*args):
        code, out, err = commands.bytelm(capsysbinary, *args)
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def load(monkeypatch):
    """`load(lm)`: every MODEL is `lm`."""

    def use(lm):
        monkeypatch.setattr(importlib.import_module("bytelm.load"), "load", lambda path: lm)

    return use


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "items.jsonl"
    records = [{"task_id": f"SingleLineInfilling/HumanEval/{i}/L0", **RECORD} for i in range(11)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tokenized(seed=0):
    """A random tokenized model with StarCoder's special tokens; its texts are Python, of sorts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from bytelm.exact import convert
    from bytelm.exact.canonical.canonical import canonical_of

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([RECORD["prompt"] + RECORD["suffix"]] * 3, trainer)

    class LM:
        context, vocab_size = 400, made.get_vocab_size()

        def next_token_logprobs(self, contexts):
            logits = np.zeros((len(contexts), self.vocab_size))
            for row, context in zip(logits, contexts, strict=True):
                row[:] = np.random.default_rng([seed, len(context), context[-1]]).normal(size=self.vocab_size)
                row[:5] = -5, *[-50] * 4
            return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    return convert(LM(), canonical_of(made), bos=0, eos=0)


def test_all_methods_of_a_tokenized_model(run, load, data, tmp_path):
    """A folder each, a table; a second time nothing is done again; compared, with a picture."""
    load(tokenized())
    args = [
        "fim",
        "m",
        "--data",
        data,
        "--out",
        tmp_path / "o",
        "--max-bytes",
        8,
        "--order",
        "spm",
        "--unsafe",
    ]
    code, out, err = run(*args)
    assert code == 0, err
    assert sandbox.missing() or err == ""
    names = ["token", "healing", "exact", "exact-bytes"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == names
    lines = {name: (tmp_path / "o" / name / "results.jsonl").read_bytes() for name in names}
    for name in names:
        settings = json.loads((tmp_path / "o" / name / "settings.json").read_text())
        assert (settings["method"], settings["format"], settings["order"]) == (name, "starcoder", "spm")
        said = json.loads((tmp_path / "o" / name / "summary.json").read_text())["single-line"]
        assert said["items"] == 11
        assert said["tokens a byte"] > 0
        assert set(said["verdicts"]) <= {"passed", "failed"}
    assert run(*args)[0] == 0
    assert all((tmp_path / "o" / name / "results.jsonl").read_bytes() == lines[name] for name in names)
    code, _, err = run(*args, "--seed", 3)
    assert code == 2
    assert "holds a run with seed 0, not 3; choose another --out" in err

    folders = [tmp_path / "o" / "token", tmp_path / "o" / "exact"]
    code, out, _ = run("fim-compare", *folders, "--plot", tmp_path / "p.png")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["single-line", measure] for measure in ("pass@1", "exact", "similarity")
    ]
    assert (tmp_path / "p.png").stat().st_size > 5000
    code, out, _ = run("fim-compare", *folders, "--json")
    assert json.loads(out)["single-line"]["items"] == 11


def test_byte_models_and_ensembles(run, load, data, tmp_path):
    load(hashed(among=b"ab \n"))
    args = ["fim", "m", "--data", data, "--max-bytes", 4, "--unsafe"]
    code, out, err = run(*args, "--out", tmp_path / "a")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["bytes"]
    args[1:2] = ["m", "m"]
    sampled = ["--n", 2, "--temperature", 0.8, "--top-p", 0.9, "--limit", 3]
    code, _, err = run(*args, "--out", tmp_path / "b", *sampled)
    assert code == 0, err
    assert len((tmp_path / "b" / "bytes" / "results.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n", "2"], "at --temperature 0 all completions of an item are the same"),
        (["--limit", "0"], "--n and --limit are 1 or more"),
        (["--format", "gpt"], "--format gpt: known are starcoder, santacoder"),
        (["--format", "deepseek", "--order", "spm"], "deepseek publishes no spm form"),
        (["--method", "healing"], "--method healing: this model has bytes"),
        (["--top-p", "2"], "top_p"),
        (["--workers", "0"], "workers"),
        (["--seconds", "0"], "the seconds of a program must be a finite number above 0, not 0"),
        (["--seconds", "inf"], "the seconds of a program must be a finite number above 0, not inf"),
        (["--suffix-share", "2"], "share"),
    ],
)
def test_bad_usage(run, load, data, tmp_path, flags, message):
    load(hashed())
    code, out, err = run("fim", "m", "--data", data, "--out", tmp_path / "o", "--unsafe", *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_bad_files(run, load, data, tmp_path):
    load(hashed())
    assert run("fim", "m", "--data", tmp_path / "none", "--out", tmp_path / "o")[0] == 2
    data.write_text(data.read_text() + "{}\n")
    code, _, err = run("fim", "m", "--data", data, "--out", tmp_path / "o")
    assert code == 2
    assert f"{data}, line 12: no benchmark has these fields" in err
    code, _, err = run("fim-compare", tmp_path, tmp_path)
    assert code == 2
    assert "name the folder of a method" in err


def test_the_same_items_twice(run, load, data, tmp_path):
    """Figures would count them twice."""
    load(hashed())
    other = tmp_path / "other" / data.name
    other.parent.mkdir()
    other.write_text(data.read_text())
    for paths in ((data, data), (data, other)):
        code, _, err = run("fim", "m", "--data", *paths, "--out", tmp_path / "o", "--unsafe")
        assert code == 2
        assert "give each once" in err


def test_a_run_that_was_trained_further(run, load, data, tmp_path):
    """The figures of its older parameters are not given for those of the new ones."""
    load(hashed())
    (tmp_path / "m" / "checkpoints" / "3" / "params").mkdir(parents=True)
    args = ["fim", tmp_path / "m", "--data", data, "--out", tmp_path / "o", "--max-bytes", "2", "--unsafe"]
    assert run(*args)[0] == 0
    assert run(*args)[0] == 0
    (tmp_path / "m" / "checkpoints" / "3").rename(tmp_path / "m" / "checkpoints" / "9")
    code, _, err = run(*args)
    assert code == 2
    assert "holds a run with steps [3], not [9]; choose another --out" in err


def test_top_p_is_no_setting_of_exact(run, load, data, tmp_path):
    load(tokenized())
    flags = ["--temperature", 1, "--top-p", 0.5, "--limit", 1, "--max-bytes", 2, "--unsafe"]
    code, _, err = run("fim", "m", "--data", data, "--out", tmp_path / "o", *flags, "--method", "exact")
    assert code == 2
    assert "use --method exact-bytes" in err
    code, out, _ = run("fim", "m", "--data", data, "--out", tmp_path / "o", *flags)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["token", "healing", "exact-bytes"]


def test_it_refuses_without_containment(run, load, data, tmp_path, monkeypatch):
    load(hashed(among=b"ab"))
    monkeypatch.setattr(sandbox, "missing", lambda: "the commands unshare")
    args = ["fim", "m", "--data", data, "--out", tmp_path / "o", "--limit", 1, "--max-bytes", 2]
    code, _, err = run(*args)
    assert code == 2
    assert "the commands unshare; use --unsafe" in err
    code, _, err = run(*args, "--unsafe")
    assert code == 0
    assert "without containment: the commands unshare" in err


def test_killed_for_real(data, tmp_path):
    """SIGKILL in the midst of a run, and the same command again."""
    if sandbox.missing():
        pytest.skip(f"no containment here: {sandbox.missing()}")
    code = f"""
import importlib, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from fakes import hashed
lm = hashed(among=b"ab ")
push = lm.push
def slow(*args):
    time.sleep(float(sys.argv[1]))
    return push(*args)
lm.push = slow
importlib.import_module("bytelm.load").load = lambda path: lm
from bytelm.cli import main
sys.exit(main(["fim", "m", "--data", {str(data)!r}, "--out", sys.argv[2], "--max-bytes", "9"]))
"""

    def start(seconds, out):
        command = [sys.executable, "-c", code, str(seconds), str(tmp_path / out)]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def lines(out):
        path = tmp_path / out / "bytes" / "results.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for line in found:
            for sample in line["samples"]:
                del sample["seconds"]
        return found

    assert start(0, "whole").wait(60) == 0
    process = start(0.1, "cut")
    deadline = time.monotonic() + 60
    while not lines("cut") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(lines("cut")) < 11
    assert start(0, "cut").wait(60) == 0
    assert lines("cut") == lines("whole")
    assert len(lines("whole")) == 11
