"""A ByteLM inside lm-evaluation-harness itself; skipped where that is not installed."""

from __future__ import annotations

import importlib
import json

import fakes
import numpy as np
import pytest
from real_data import real

from bytelm.cli import main
from bytelm.evals.bits import bits_per_byte

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
TEXTS = ["Once upon a time, there was a little girl.", " Tom had a big red ball. ", "She ran."]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def data(tmp_path):
    """A folder with the texts, a rolling task, a multiple choice and a generation on them."""
    rows = [{"text": text, "choices": ["no", "yes"], "answer": 1} for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "dataset_path: json\ndataset_kwargs: {data_files: {test: texts.jsonl}}\ntest_split: test\n"
    metric = "metric_list: [{metric: %s, aggregation: %s, higher_is_better: true}]\n"
    kinds = {
        "rolling": 'doc_to_text: ""\ndoc_to_target: text\noutput_type: loglikelihood_rolling\n'
        + metric % ("bits_per_byte", "bits_per_byte"),
        "choice": "doc_to_text: text\ndoc_to_choice: choices\ndoc_to_target: answer\n"
        "output_type: multiple_choice\n" + metric % ("acc", "mean"),
        "written": 'doc_to_text: text\ndoc_to_target: " yes"\noutput_type: generate_until\n'
        'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\n' + metric % ("exact_match", "mean"),
    }
    for name, text in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{common}{text}")
    return tmp_path


def run(lm, data, *names, **kwargs):
    from bytelm.evals import harness

    return harness.run(lm, [str(data / f"{name}.yaml") for name in names], data, **kwargs)["results"]


@pytest.mark.parametrize(("end", "bits"), [(False, 8.0), (True, np.log2(257))])
def test_a_uniform_model(data, end, bits):
    """8 bits a byte where only bytes are possible; log2(257) where end of text is as likely as a byte."""
    law_V = np.full(257, -np.log(257)) if end else np.append(np.full(256, -np.log(256)), -np.inf)
    found = run(fakes.HistoryLM(lambda row: law_V), data, "rolling")
    assert abs(found["rolling"]["bits_per_byte,none"] - bits) < 1e-12


def test_choice_and_generation(data):
    def law(row):
        said = bytes(row).rpartition(b".")[2].lstrip(b" ")
        law_V = np.full(257, np.log(0.001))
        law_V[[*b"yes", 256][len(said) % 4]] = np.log(1 - 0.256)
        return law_V

    found = run(fakes.HistoryLM(law), data, "choice", "written")
    assert found["choice"]["acc,none"] > 0.6
    assert found["written"]["exact_match,none"] == 0
    assert run(fakes.HistoryLM(law), data, "choice", limit=1)["choice"]["acc,none"] in (0, 1)


def test_the_command(data, monkeypatch, capsys):
    monkeypatch.setattr(
        importlib.import_module("bytelm.load"), "load", lambda path: fakes.hashed(seed=ord(path))
    )
    task = str(data / "rolling.yaml")
    flags = ["--tasks", task, "--data-dir", str(data), "--out", str(data / "out.json"), "--weights", "3", "1"]
    assert main(["eval", "a", "b", *flags]) == 0
    from bytelm.ensemble import Ensemble

    both = Ensemble([fakes.hashed(seed=97), fakes.hashed(seed=98)], "mean", [3, 1])
    expected = bits_per_byte(both, TEXTS).bits_per_byte
    (value, _), items = json.loads((data / "out.json").read_text())["results"]["rolling"]["bits_per_byte"], 3
    assert abs(value - expected) < 1e-9
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:3] == ["rolling", "bits_per_byte", f"{expected:.4f}"]
    assert line[-1] == str(items)


@pytest.mark.parametrize(
    ("tasks", "code", "said"),
    [(["no_such_task"], 2, "no task 'no_such_task'"), (["wikitext"], 2, "not on this machine")],
)
def test_what_cannot_be_run(data, monkeypatch, capsys, tasks, code, said):
    monkeypatch.setattr(importlib.import_module("bytelm.load"), "load", lambda path: fakes.uniform())
    assert main(["eval", "a", "--tasks", *tasks, "--data-dir", str(data)]) == code
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]


def test_model_args():
    from lm_eval.api.registry import get_model

    from bytelm.evals.harness import Harness

    assert get_model("bytelm") is Harness
    for args, said in [
        ({}, "give the model"),
        ({"lm": fakes.uniform(), "batch_size": "auto"}, "batch_size must be"),
    ]:
        with pytest.raises(ValueError, match=said):
            Harness(**args)


def test_stories_agree_with_score(data):
    """Through the harness, and through `bytelm score`: the same bits per byte."""
    import bytelm

    lm = bytelm.load(real("models", "stories260K"))
    found = run(lm, data, "rolling")["rolling"]["bits_per_byte,none"]
    assert abs(found - bits_per_byte(lm, TEXTS).bits_per_byte) < 1e-4
    assert found < 2.0


def test_trailing_spaces_of_a_converted_model():
    import bytelm
    from bytelm.evals.answers import documents, loglikelihoods

    lm, whole = (
        bytelm.load(real("models", "stories260K")),
        "Once upon a time, there was a little girl named Lily.",
    )
    for cut in (13, 14, 4, 30):  # before a space, after it, inside words
        ((nats, _),) = loglikelihoods(lm, [(whole[:cut], whole[cut:])])
        together, before = documents(lm, [whole, whole[:cut]])
        assert abs(nats - (together - before)) < 1e-3
