"""scripts/noise_curve.py: all runs see the same noise, and what is told of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import repeating

from bytelm import config as configs
from bytelm.config import Config
from bytelm.evals.noise import Noise, noisy


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    yield importlib.import_module("noise_curve")
    del sys.path[0]


@pytest.fixture
def data(tmp_path):
    lines = [
        {"text": text, "label": label} for text, label in (("good film", 1), ("bad film", 0), ("good", 1))
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Spelled:
    """Finds a text good if it spells the word."""

    labels = (0, 1)

    def law(self, texts):
        return np.log([[0.1, 0.9] if b"good" in text else [0.8, 0.2] for text in texts])


def run(script, monkeypatch, tmp_path, data, *flags):
    arguments = ["noise_curve.py", "a", "b", "--data", data, "--out", tmp_path / "out", *flags]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    script.main()
    return json.loads((tmp_path / "out" / "noise.json").read_text())


def test_classifiers(script, monkeypatch, tmp_path, data, capsys):
    monkeypatch.setattr(script, "load_classifier", lambda run: Spelled())
    monkeypatch.setattr(script, "kind_of", lambda runs: script.CLASSIFIER)
    found = run(script, monkeypatch, tmp_path, data, "--kinds", "case", "drop", "--rates", "1")
    assert (found["figure"], found["documents"], found["seed"]) == ("accuracy", 3, 0)
    at = {(p["run"], p["kind"], p["rate"]): p for p in found["points"]}
    assert len(at) == 8
    assert at["a", "case", 0.0]["value"] == 1.0  # clean texts are always there to compare with
    assert at["b", "case", 1.0]["value"] == pytest.approx(1 / 3)
    assert at["a", "drop", 0.0]["nats_per_label"] == pytest.approx(-np.log([0.9, 0.8, 0.9]).mean())
    assert 0 < at["a", "case", 1.0]["low"] < 1 / 3 < at["a", "case", 1.0]["high"] < 1
    text = capsys.readouterr().out
    assert text.rstrip("\n") == (tmp_path / "out" / "noise.md").read_text().rstrip("\n")
    assert "accuracy of 3 documents, 21 bytes" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| a | case"))
    assert "100.0%" in line
    assert line.endswith("[-66.7] |")
    assert (tmp_path / "out" / "noise.png").stat().st_size > 1000


def test_language_models(script, monkeypatch, tmp_path, data):
    monkeypatch.setattr(script.bytelm, "load", lambda run: repeating(b"good film", p=0.9))
    monkeypatch.setattr(script, "kind_of", lambda runs: script.CAUSAL)
    found = run(
        script, monkeypatch, tmp_path, data, "--kinds", "swap", "--rates", "0", "1", "--documents", "1"
    )
    assert (found["figure"], found["documents"]) == ("bits per byte", 1)
    clean, swapped = (p["value"] for p in found["points"] if p["run"] == "a")
    assert clean == pytest.approx(-np.log2(0.9))
    assert swapped > 5  # most bytes are slips


def test_all_runs_see_the_same_texts(script):
    seen = {"one": [], "two": []}

    def measure(name):
        return lambda texts: seen[name].append(list(texts)) or (0.0, 0.0, 0.0, None)

    texts, noises = [b"abc", b"abc"], [Noise("swap", 0.0), Noise("swap", 0.5), Noise("drop", 0.0)]
    points = script.curve({name: measure(name) for name in seen}, texts, noises, seed=3)
    assert len(points) == 6
    assert seen["one"] == seen["two"]
    assert seen["one"] == [texts, [noisy(b"abc", noises[1:2], seed=3, index=i) for i in (0, 1)]]


def test_what_cannot_be_compared(script, monkeypatch, tmp_path, data):
    classifier = configs.from_dict(json.loads(json.dumps(CLASSIFIER)))
    for name, config in {"a": Config(), "b": classifier}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(configs.to_dict(config)))
    runs = [tmp_path / "a", tmp_path / "b"]
    assert [script.kind_of([run]) for run in (*runs, tmp_path)] == [
        script.CAUSAL, script.CLASSIFIER, script.CAUSAL,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"a is a language model, .*b is a classifier"):
        script.kind_of(runs)
    monkeypatch.setattr(script, "load_classifier", lambda run: Spelled())
    monkeypatch.setattr(script, "kind_of", lambda runs: script.CLASSIFIER)
    data.write_text('{"text": "a", "label": 3}\n')
    with pytest.raises(SystemExit, match=r"reviews\.jsonl, line 1: the label 3 is not one"):
        run(script, monkeypatch, tmp_path, data)
    with pytest.raises(SystemExit, match="share in"):
        run(script, monkeypatch, tmp_path, data, "--rates", "2")
    with pytest.raises(SystemExit, match="2"):  # -1 would leave out the last
        run(script, monkeypatch, tmp_path, data, "--documents", "-1")


CLASSIFIER = {
    "type": "Config",
    "model": {"type": "ClassifierConfig", "labels": ["a", "b"]},
    "data": {"type": "Data", "source": {"type": "Files", "train": ["x.jsonl"], "label": "label"}},
    "samples": {"type": "Samples", "prompts": []},
}
