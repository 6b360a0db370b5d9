"""The command line: outputs, messages, exit codes."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import ROOT, python
from fakes import hashed, repeating, uniform

import bytelm
from bytelm.cli import common, main
from bytelm.cli.common import Together, UsageError
from bytelm.cli.generate import unescaped
from bytelm.ensemble import Ensemble


@pytest.fixture
def model(monkeypatch):
    """`model(lm)` makes every path load `lm`."""
    # `bytelm.load` is the function; its module is found only where modules are kept.
    module = importlib.import_module("bytelm.load")

    def use(lm):
        def load(path):
            if path == "nowhere":
                raise FileNotFoundError(f"{path}: no such folder")
            if path == "strange":
                raise ValueError(f"{path}: neither a run\nnor a Hugging Face folder")
            return lm

        monkeypatch.setattr(module, "load", load)

    use(uniform())
    return use


@pytest.fixture
def run(capsysbinary):
    """`run(*args)` -> exit code, standard output as bytes, standard error as str."""

    def run(*args):
        code, out, err = commands.bytelm(capsysbinary, *args)
        return code, out, err.decode()

    return run


# ---- generate --------------------------------------------------------------------------------------


def test_generate_writes_the_bytes_of_the_completion_alone(model, run):
    model(repeating(b"say \xff\x00!\r\n"))
    assert run("generate", "m", "--prompt", "say ") == (0, b"\xff\x00!\r\n", "")


def test_generate_passes_its_settings_on(model, run, monkeypatch):
    given = {"max_bytes": 30, "temperature": 0.9, "top_k": 90, "top_p": 0.8, "min_p": 0.001, "seed": 4}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()] + [
        "--utf8",
        "--stop",
        "a",
    ]
    given |= {"utf8": True, "stop": [b"a"]}
    module, seen = importlib.import_module("bytelm.generate"), []

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return [b"completion"]

    monkeypatch.setattr(module, "stream", lambda *args, **kwargs: [spy(**kwargs)[0].decode()])
    assert run("generate", "m", "--prompt", "a", *flags, "--stream") == (0, b"completion", "")
    assert seen.pop() == given
    monkeypatch.setattr(module, "generate", spy)
    assert run("generate", "m", "--prompt", "a", *flags) == (0, b"completion", "")
    assert seen.pop() == {**given, "mode": "byte", "token_temperature": None}
    run("generate", "m", "--prompt", "a", "--mode", "boundary", "--token-temperature", "0.5")
    assert (seen[-1]["mode"], seen[-1]["token_temperature"]) == ("boundary", 0.5)


def test_a_stream_is_the_completion(model, run):
    model(hashed())
    args = ["generate", "m", "--prompt", "a", "--utf8", "--seed", "3", "--stop", "e"]
    code, out, err = run(*args, "--stream")
    assert (code, out, err) == run(*args)
    assert (code, len(out) > 3, err) == (0, True, "")


def test_the_prompt_may_come_from_a_file(model, run, tmp_path):
    (tmp_path / "p").write_bytes(b"\xff\n")
    model(repeating(b"\xff\nyes"))
    assert run("generate", "m", "--prompt-file", tmp_path / "p") == (0, b"yes", "")
    assert run("generate", "m", "--prompt", os.fsdecode(b"\xff\n")) == (0, b"yes", "")
    model(repeating(b"None, really"))
    assert run("generate", "m", "--prompt", "None") == (0, b", really", "")


def test_the_prompt_may_come_from_standard_input():
    code = "from bytelm.cli import main; main(['generate', 'm', '--prompt-file', '-'])"
    assert (
        python(
            with_fake("repeating(b'\\xff\\n yes')", code), input="\udcff\n", errors="surrogateescape"
        ).stdout
        == " yes"
    )


@pytest.mark.parametrize(
    ("stop", "expected"), [([r"\n\n"], b"one\ntwo"), ([r"\x74w", "three"], b"one\n"), (["o"], b"")]
)
def test_stop_understands_escapes(model, run, stop, expected):
    model(repeating(b"one\ntwo\n\nthree"))
    assert run("generate", "m", "--stop", *stop, "--prompt", "") == (0, expected, "")


def test_unescaped():
    assert unescaped(r"a\n\r\t\0\\n\x00\xfFé") == b"a\n\r\t\0\\n\x00\xff\xc3\xa9"
    for bad in (r"\q", "\\", r"\x1", r"\xgg", r"\é"):
        with pytest.raises(UsageError, match="must be followed by"):
            unescaped(bad)


# ---- score -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for name, data in {"a.txt": b"abcabc", "b.txt": "é\n".encode(), "empty.txt": b""}.items():
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in ("a.txt", "b.txt", "empty.txt")]


def test_score_prints_a_table(run, model, files):
    code, out, err = run("score", "m", "--data", *files)
    lines = out.decode().splitlines()
    assert (code, err) == (0, "")
    assert re.split(r" {2,}", lines[0]) == ["file", "bytes", "bits per byte", "end of text, bits"]
    bits = f"{np.log2(257):.4f}"
    assert [line.split() for line in lines[1:5]] == [
        [files[0], "6", bits, "8.01"],
        [files[1], "3", bits, "8.01"],
        [files[2], "0", "-", "8.01"],
        ["all", "9", bits, f"{3 * np.log2(257):.2f}"],
    ]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5:] == ["standard error of all, over files: 0.0000 bits per byte"]


def test_score_prints_json(run, model, files):
    model(repeating(b"abcabc"))
    code, out, err = run("score", "m", "--data", *files, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert {key: found[key] for key in ("models", "bytes", "bits_per_byte", "context", "overlap")} == {
        "models": ["m"],
        "bytes": 9,
        "bits_per_byte": None,
        "context": None,
        "overlap": None,
    }
    a, b, empty = found["files"]
    assert (a["file"], a["bytes"], a["bits_per_byte"], a["end_bits"], a["impossible"]) == (
        files[0],
        6,
        0,
        0,
        None,
    )
    assert (b["bits_per_byte"], b["end_bits"], b["impossible"]) == (None, None, 0)
    assert (empty["bytes"], empty["bits_per_byte"], empty["impossible"]) == (0, None, None)


def test_score_says_where_a_byte_is_impossible(run, model, files):
    model(repeating(b"abcaXX"))
    code, out, _ = run("score", "m", "--data", files[0])
    assert code == 0
    assert f"{files[0]}: byte 0x62 at offset 4 is impossible under this model" in out.decode()


def test_score_states_context_and_overlap_only_where_they_mattered(run, model, files):
    lm = uniform()
    lm.context, lm.overlap = 5, 2
    model(lm)
    said = "longer than the context of 5 symbols, so scored in windows that share 2: "
    assert f"{said}{files[0]}\n" in run("score", "m", "--data", *files)[1].decode()
    assert "longer than" not in run("score", "m", "--data", *files[1:])[1].decode()
    found = json.loads(run("score", "m", "--data", *files, "--json")[1])
    assert (found["context"], found["overlap"]) == (5, 2)
    assert [file["windowed"] for file in found["files"]] == [True, False, False]


def test_score_under_noise(run, model, files):
    """Each byte of a model that knows the text costs nothing, and noise makes bytes that it rules out."""
    model(repeating(b"abcabc", p=0.9))
    plain = json.loads(run("score", "m", "--data", files[0], "--json")[1])
    code, out, err = run("score", "m", "--data", files[0], "--noise", "drop:0", "swap:1", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["noise"], found["noise_seed"]) == (["drop:0", "swap:1"], 0)
    assert found["clean_bits_per_byte"] == plain["bits_per_byte"] < 0.2
    assert found["bits_per_byte"] == pytest.approx(-np.log2(0.1 / 256))  # baaccb in place of abcabc
    said = run("score", "m", "--data", *files, "--noise", "drop:0")[1].decode().splitlines()[-1]
    assert said.startswith("noise drop:0 costs 0.0000 bits per byte: ")
    assert said.endswith(" of the 9 clean ones")
    gone = run("score", "m", "--data", files[0], "--noise", "drop:1")[1].decode()
    assert gone.endswith("noise drop:1: no bytes to compare\n")


def test_score_writes_a_page(run, model, files, tmp_path):
    code, out, err = run("score", "m<1>", "--data", *files, "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert b"bits per byte" in out
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<section") == 3
    assert "m&lt;1&gt;" in text


# ---- info and prepare ------------------------------------------------------------------------------


def test_info_prints_what_a_model_is(run, monkeypatch):
    facts = {"family": "words", "parameters": 1234567, "trained": True}
    monkeypatch.setattr(
        importlib.import_module("bytelm.load"), "describe", lambda path: {**facts, "path": path}
    )
    expected = b"family      words\nparameters  1,234,567\ntrained     True\npath        here\n"
    assert run("info", "here") == (0, expected, "")
    code, out, err = run("info", "here", "there")
    lines = out.decode().splitlines()
    assert (code, err, lines[0], lines[5]) == (0, "", "here", "there")
    assert lines[10:] == [
        "together: an ensemble of 2",
        "  parameters       2,469,134",
        "  memory, float32  9.9 MB",
    ]


def test_prepare_writes_a_data_set(run, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "d.jsonl").write_text("".join(f'{{"body": "document {i}"}}\n' for i in range(50)))
    flags = ["--out", tmp_path / "out", "--name", "mine", "--field", "body", "--valid-fraction", "0.3"]
    code, out, _ = run("prepare", tmp_path / "d.jsonl", *flags, "--test-fraction", "0")
    assert code == 0
    header, *rows = (line.split() for line in out.decode().splitlines())
    assert header == ["split", "documents", "bytes"]
    assert [row[0] for row in rows] == ["train", "valid"]
    assert sum(int(row[1]) for row in rows) == 50
    assert (tmp_path / "out" / "mine").is_dir()
    code, _, err = run("prepare", tmp_path / "d.jsonl", *flags, "--test-fraction", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert "is there already" in err


# ---- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["generate", "--prompt", "x"], "no MODEL given"),
        (["generate", "m", "n", "--prompt", "x", "--weights", "1"], "1 for 2 members"),
        (["generate", "nowhere", "--prompt", "x"], "nowhere: no such folder"),
        (["generate", "strange", "--prompt", "x"], "strange: neither a run nor a Hugging Face folder"),
        (["generate", "m"], "one of --prompt and --prompt-file"),
        (["generate", "m", "--prompt", "x", "--prompt-file", "f"], "one of --prompt and --prompt-file"),
        (["generate", "m", "--prompt-file", "/no/such/file"], "/no/such/file"),
        (["generate", "nowhere", "--prompt", "x", "--temperature", "-1"], "temperature must be"),
        (["generate", "nowhere", "--prompt", "x", "--max-bytes", "-1"], "max_bytes must be"),
        (["generate", "nowhere", "--prompt", "x", "--stop", ""], "stop string is empty"),
        (["generate", "m", "--prompt", "x", "--stop", r"\q"], r"--stop \q: a \ must"),
        (["generate", "m", "--prompt", "x", "--mode", "boundary"], "needs a converted tokenized model"),
        (["generate", "m", "--prompt", "x", "--mode", "boundary", "--stream"], "--stream goes byte by byte"),
        (["score", "m", "--data", "/no/such/file"], "/no/such/file"),
        (["score", "m", "--data", "/"], "/"),
        (["score", "m", "--data"], "--data names no file"),
        (["score", "m", "n", "--data", "/no/such/file", "--rule", "proxy"], "takes three members"),
        (["score", "m", "--data", __file__, "--batch", "0"], "--batch must be 1"),
        (["score", "m", "--data", __file__, "--html", "/no/such/folder/x"], "/no/such/folder/x"),
        (["score", "m", "--data", __file__, "--noise", "drop"], "noise is KIND:RATE"),
        (["score", "m", "--data", __file__, "--noise", "drop:2"], "a share in [0, 1], not 2.0"),
        (["score", "m", "--data", __file__, "--noise", "drop:1", "--noise-seed", "-1"], "not -1"),
        (["generate", "m", "--prompt", "x", "--rate", "0.5"], "--rate and --alpha are for several"),
        (["eval", "m", "--tasks"], "--tasks names no task"),
        (["eval", "m", "--tasks", "t", "--limit", "0"], "must be 1 or more"),
        (["eval", "m", "--tasks", "t", "--data-dir", "/no/such"], "no such folder"),
        (["prepare", "--out", "o", "--name", "n"], "give one source"),
        (["prepare", "p", "--stdlib", "--out", "o", "--name", "n"], "give one source"),
        (
            ["prepare", "--tfds", "t", "--test-fraction", "0", "--out", "o", "--name", "n"],
            "splits of its own",
        ),
    ],
)
def test_bad_usage_is_one_line_and_2(run, model, args, said):
    code, out, err = run(*args)
    assert (code, out) == (2, b"")
    assert err.startswith(f"bytelm {args[0]}: error: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["score", "m"],
        ["generate", "m", "--prmpt", "x"],
        ["generate", "m", "--prompt", "x", "--max-bytes", "many"],
        ["generate", "m", "--prompt", "x", "--mode", "word"],
    ],
)
def test_bad_flags_are_2(run, model, args):
    code, out, err = run(*args)
    assert (code, out) == (2, b"")
    assert err


def test_failures_at_run_time_are_1(run, model, monkeypatch):
    lm = uniform()
    lm.next_logprobs = lambda state: np.full((1, 257), np.nan)
    model(lm)
    code, out, err = run("generate", "m", "--prompt", "x")
    assert (code, out) == (1, b"")
    assert err == "bytelm generate: error: generate: row 0, byte 0 of its completion: nan is in the law\n"
    monkeypatch.setenv("BYTELM_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["generate", "m", "--prompt", "x"])


def test_a_fault_of_the_program_keeps_its_traceback(run, model):
    lm = uniform()
    lm.next_logprobs = lambda state: {}["gone"]
    model(lm)
    with pytest.raises(KeyError, match="gone"):
        run("generate", "m", "--prompt", "x")


def test_ctrl_c_is_130(run, model):
    lm = uniform()

    def interrupted(state):
        raise KeyboardInterrupt

    lm.next_logprobs = interrupted
    model(lm)
    assert run("generate", "m", "--prompt", "x") == (130, b"", "bytelm generate: interrupted\n")


def with_fake(lm, code):
    """Code for a process of its own, in which every path loads the fake."""
    return (
        "import importlib, sys; sys.path.insert(0, 'tests'); from fakes import *\n"
        f"importlib.import_module('bytelm.load').load = lambda path: {lm}\n{code}"
    )


def test_a_reader_that_goes_away_is_no_traceback():
    code = "from bytelm.cli import main; sys.exit(main(['generate', 'm', '--prompt', 'x', '--stream']))"
    process = subprocess.Popen(
        [sys.executable, "-c", with_fake("uniform()", code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


# ---- several models --------------------------------------------------------------------------------


def test_the_number_of_models_is_checked_before_anything_is_loaded():
    with pytest.raises(UsageError, match="no MODEL"):
        common.model([])
    with pytest.raises(UsageError, match="1 for 2 members"):
        common.model(["nowhere", "nowhere"], Together(weights=(1.0,)))
    with pytest.raises(UsageError, match="several MODELs"):
        common.model(["nowhere"], Together(rule="bayes"))


@pytest.fixture
def two(monkeypatch):
    parts = {"a": hashed(order=1, seed=1), "b": hashed(order=1, seed=2)}
    monkeypatch.setattr(importlib.import_module("bytelm.load"), "load", parts.get)
    return parts


def test_several_models_are_an_ensemble(run, two, files):
    code, out, err = run(
        "score", "a", "b", "--data", files[0], "--rule", "bayes", "--weights", "3", "1", "--json"
    )
    assert (code, err) == (0, "")
    both = Ensemble([two["a"], two["b"]], "bayes", [0.75, 0.25])
    expected = -both.score([Path(files[0]).read_bytes()])[0][:-1].sum() / np.log(2) / 6
    assert abs(json.loads(out)["bits_per_byte"] - expected) < 1e-9
    completion = bytelm.generate(both, [b"x"], seed=1, max_bytes=5)[0]
    flags = ["--rule", "bayes", "--weights", "3", "1", "--seed", "1", "--max-bytes", "5", "--prompt", "x"]
    assert run("generate", "a", "b", *flags) == (0, completion, "")


@pytest.mark.parametrize("rule", ["mean", "product"])
def test_weights_are_fitted(run, two, tmp_path, rule):
    text = bytelm.generate(two["a"], [b""], max_bytes=60, seed=5)[0]
    (tmp_path / "text").write_bytes(text)
    plot = ["--plot", tmp_path / "plot.svg"]
    code, out, err = run("weights", "a", "b", "--data", tmp_path / "text", "--rule", rule, *plot)
    assert (code, err) == (0, "")
    lines = out.decode().splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["a", "b", "all", "fitted"]
    weights = [float(w) for w in lines[-1].split()[1:]]
    assert weights[0] > 3 * weights[1]  # the text is from the first
    assert float(lines[4].split()[-1]) <= min(float(line.split()[-1]) for line in lines[1:4])
    assert (tmp_path / "plot.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a", "--data", "f"], "two MODELs or more"),
        (["a", "b", "c", "--data", "f", "--plot", "x.png"], "takes two MODELs"),
        (["a", "b", "--data", "f"], "are empty"),
    ],
)
def test_weights_used_wrongly(run, two, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    Path("f").write_bytes(b"")
    code, _, err = run("weights", *args)
    assert code == 2
    assert message in err
