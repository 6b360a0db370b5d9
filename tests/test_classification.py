"""train.py with labels: learns, says what came out, begins from a language model, goes on to the bit."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bytelm
from bytelm.parameters import flat
from bytelm.training.metrics import TIMINGS

ROOT = Path(__file__).parents[1]
MODEL = "ByteTransformerConfig(layers=1, width=16, heads=2, mlp_width=16)"
LM = f"""
from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import ByteTransformerConfig, ClassifierConfig

lm = Config(
    model={MODEL},
    data=Data(source=Files(train=("train.jsonl",), valid=("valid.jsonl",)), row=32),
    optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=0, schedule="constant"),
    training=Training(steps=2, rows=8, log_every=1),
    evaluation=Evaluation(every=100, max_bytes=256, rows=8),
    samples=Samples(prompts=()),
    checkpoints=Checkpoints(every=100),
)
"""
TELL = """
import dataclasses

config = dataclasses.replace(
    lm,
    model=ClassifierConfig(backbone=lm.model, gain=20.0, centring=0.3),
    data=Data(source=Files(train=("{train}.jsonl",), valid=("valid.jsonl",), label="label"), row=32),
    training=Training(steps=24, rows=16, log_every=1),
    evaluation=Evaluation(every=12, rows=8),
)
"""


def documents(count, seed, shuffled=False):
    """Runs of x and y among other letters tell labels apart; some are longer than a row."""
    random = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        letters = random.choice(list("abc " + "xy"[i % 2] * 3), random.integers(6, 40))
        lines.append({"text": "".join(letters), "label": ["no", 7][i % 2]})
    if shuffled:
        for line, label in zip(lines, random.permutation([line["label"] for line in lines]), strict=True):
            line["label"] = int(label) if label == "7" else str(label)
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    for name, text in {
        "train.jsonl": documents(160, 0), "valid.jsonl": documents(60, 1),
        "shuffled.jsonl": documents(160, 0, shuffled=True),
        "strange.jsonl": documents(3, 2) + '{"text": "a", "label": "7"}\n',
        "one.jsonl": '{"text": "a", "label": 1}\n' * 4,
        "lm.py": LM + "config = lm\n",
        "tell.py": LM + TELL.format(train="train"), "shuffled.py": LM + TELL.format(train="shuffled"),
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def train(folder):
    """train.py called from here: (exit status, standard output, standard error)."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(config, run, *flags):
        import contextlib
        import io

        out, error, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["train.py", f"{config}.py", "--workdir", run, *map(str, flags)])
            with contextlib.redirect_stderr(error):
                try:
                    module.main()
                except SystemExit as exit:
                    status = exit.code
        return status, out.getvalue(), error.getvalue()

    return call


@pytest.fixture(scope="module")
def lm(train):
    status, _, error = train("lm", "lm")
    assert status == 0, error


@pytest.fixture(scope="module")
def whole(train, lm):
    status, out, error = train("tell", "whole", "--init-from", "lm")
    assert status == 0, error
    return out, error


def lines(folder, run):
    found = [json.loads(x) for x in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: x for k, x in line.items() if k not in TIMINGS} for line in found]


def classifier(folder, run):
    return importlib.import_module("bytelm.load").load_classifier(folder / run)


def test_learns_and_says_what_came_out(folder, whole):
    out, error = whole
    found = lines(folder, "whole")
    assert [line["step"] for line in found if "eval/accuracy" in line] == [12, 24]
    first, last = found[0], found[-1]
    assert first["train/nats_per_label"] == pytest.approx(np.log(2), rel=1e-6)
    assert last["train/nats_per_label"] < 0.3
    assert last["eval/accuracy"] >= 0.9
    assert last["eval/accuracy_low"] < last["eval/accuracy"] <= last["eval/accuracy_high"] <= 1
    texts = [json.loads(line)["text"] for line in (folder / "valid.jsonl").read_text().splitlines()]
    assert last["eval/documents"] == len(texts)
    longer = np.mean([len(text) + 1 > 32 for text in texts])
    assert last["eval/cut_share"] == pytest.approx(longer)
    assert 0 < longer < 1
    assert last["cut_share"] > 0
    low, high = last["eval/accuracy_low"], last["eval/accuracy_high"]
    assert f"accuracy {last['eval/accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on 60 held-out" in out
    assert "nats per label" in error
    assert "of documents cut" in error
    assert "train: 160 documents; 80 'no', 80 7\n" in error
    assert "bits per byte" not in out + error
    assert (folder / "whole" / "curve.png").stat().st_size > 1000
    config = json.loads((folder / "whole" / "config.json").read_text())
    assert config["model"]["labels"] == [7, "no"]


def test_control_shuffled_labels_are_not_learned(folder, train, lm):
    status, _, error = train("shuffled", "shuffled", "--init-from", "lm")
    assert status == 0, error
    last = lines(folder, "shuffled")[-1]
    assert last["eval/accuracy_low"] < 0.5 + 0.15
    assert last["eval/accuracy"] < 0.8


def test_the_classifier_that_is_loaded_is_the_one_evaluated(folder, whole):
    from bytelm.evals.classify import classified

    model = classifier(folder, "whole")
    assert model.labels == (7, "no")
    records = [json.loads(line) for line in (folder / "valid.jsonl").read_text().splitlines()]
    law_NC = model.law([record["text"] for record in records])
    np.testing.assert_allclose(np.exp(law_NC).sum(axis=1), 1.0, rtol=1e-5)
    found = classified(law_NC, np.array([model.labels.index(record["label"]) for record in records]))
    last = lines(folder, "whole")[-1]
    assert found.accuracy == last["eval/accuracy"]
    assert found.nats_per_label == pytest.approx(last["eval/nats_per_label"], rel=1e-4)
    order = model.law([record["text"] for record in records[::-1]])[::-1]
    np.testing.assert_allclose(order, law_NC, atol=1e-5)
    assert np.isfinite(model.law([b"", b"\xff"])).all()


def test_begins_with_the_states_of_the_run_it_begins_from(folder, train, lm, whole):
    """At a rate of zero nothing moves: its backbone is the language model, its head is new."""
    status, _, error = train(
        "tell", "still", "--init-from", "lm", "--training.steps", 1, "--optimizer.learning-rate", 0
    )
    assert status == 0, error
    assert "starting from lm" in error
    params, source = (run._params for run in (classifier(folder, "still"), bytelm.load(folder / "lm")))
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], source)
    assert not np.asarray(params["head"]).any()
    moved = flat(classifier(folder, "whole")._params["backbone"])  # the rate is what kept it
    assert any((np.asarray(x) != np.asarray(moved[name])).any() for name, x in flat(source).items())


@pytest.mark.slow
def test_goes_on_to_the_bit(folder, train, whole):
    for steps in (11, 24):
        status, _, error = train("tell", "parts", "--init-from", "lm", "--training.steps", steps)
        assert status == 0, error
    assert "going on from step 11" in error
    kept = [line for line in lines(folder, "parts") if line["step"] != 11]  # evaluated there, as last
    assert kept == [line for line in lines(folder, "whole") if line["step"] != 11]
    one, two = (classifier(folder, run)._params for run in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.source.valid", "strange.jsonl"], "strange.jsonl, line 4: the label '7' is not one"),
        (["--data.source.train", "one.jsonl"], "one label only, 1"),
        (["--data.source.train", "none.jsonl"], "no file or folder 'none.jsonl'"),
        (["--data.source.label", "kind"], "no field 'kind'"),
        (["--model.backbone.width", 8, "--init-from", "lm"], "model.backbone.width = 16, this run has 8"),
        (["--data.piece", 16], "data.piece must be None"),
    ],
)
def test_bad_usage(train, lm, flags, said):
    status, _, error = train("tell", "bad", *flags)
    assert status == 2, error
    assert said in re.sub(r"[\s│]+", " ", error)


def test_a_classifier_is_no_language_model(folder, whole, lm):
    with pytest.raises(ValueError, match="a classifier, no law over bytes"):
        bytelm.load(folder / "whole")
    with pytest.raises(ValueError, match="a language model, no classifier"):
        classifier(folder, "lm")
    described = importlib.import_module("bytelm.load").describe(folder / "whole")
    assert described["family"] == "Classifier"


# ---- other runs -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("lm")
def test_on_a_mesh(folder, train, whole):
    mesh = ["--mesh.data", 2, "--mesh.fsdp", 2, "--mesh.tensor", 2]
    status, _, error = train("tell", "mesh", "--init-from", "lm", "--training.steps", 12, *mesh)
    assert status == 0, error
    for line, expected in zip(lines(folder, "mesh"), lines(folder, "whole"), strict=False):
        assert line["train/nats_per_label"] == pytest.approx(
            expected["train/nats_per_label"], rel=1e-3, abs=1e-5
        )
    assert line["eval/accuracy"] == pytest.approx(expected["eval/accuracy"], abs=0.04)


TOKENS = """
from bytelm.data import Bpe
from bytelm.models import TokenLMConfig

model = TokenLMConfig(layers=1, width=16, heads=2, mlp_width=16, context=32)
lm = dataclasses.replace(lm, model=model, data=dataclasses.replace(lm.data, tokenizer=Bpe(size=300)))
tell = dataclasses.replace(
    config,
    model=ClassifierConfig(backbone=model),
    data=dataclasses.replace(config.data, tokenizer=Bpe(size=300, path="tokens")),
)
"""


@pytest.mark.slow
def test_tokens(folder, train):
    text = LM + TELL.format(train="train") + TOKENS
    (folder / "tokens.py").write_text(text + "config = lm\n")
    (folder / "tell_tokens.py").write_text(text + "config = tell\n")
    status, _, error = train("tokens", "tokens")
    assert status == 0, error
    status, out, error = train("tell_tokens", "of_tokens", "--init-from", "tokens")
    assert status == 0, error
    last = lines(folder, "of_tokens")[-1]
    assert last["eval/accuracy"] >= 0.9
    assert "accuracy" in out
    model = classifier(folder, "of_tokens")
    texts = [json.loads(line)["text"] for line in (folder / "valid.jsonl").read_text().splitlines()]
    labels_N = np.array([0 if i % 2 else 1 for i in range(len(texts))])
    assert (model.law(texts).argmax(axis=1) == labels_N).mean() == last["eval/accuracy"]
    with pytest.raises(ValueError, match="text 1 is not UTF-8"):
        model.law([b"a", b"\xff"])
    importlib.import_module("bytelm.export").export(folder / "of_tokens", folder / "exported")
    np.testing.assert_array_equal(classifier(folder, "exported").law(texts), model.law(texts))
    tokenizer = folder / "tokens" / "tokenizer.json"
    (folder / "others.json").write_text(tokenizer.read_text() + "\n")
    status, _, error = train(
        "tell_tokens", "others", "--init-from", "tokens", "--data.tokenizer.path", "others.json"
    )
    assert status == 2
    assert "its tokens are not those of tokens; set data.tokenizer.path to tokens" in error
