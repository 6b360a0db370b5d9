"""Runs of Byte2Word and of BERT from end to end, as shipped but short: trained, loaded, refused."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import bytelm
from bytelm import config as configs
from bytelm.load import describe, load_masked

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--data.row", "128", "--training.steps", "2", "--training.log-every", "1", "--samples.max-bytes", "8"),
    *("--evaluation.max-bytes", "2000", "--evaluation.final-max-bytes", "2000", "--evaluation.rows", "16"),
    *("--training.rows", "8"),
    *("--model.layers", "1", "--model.width", "32", "--evaluation.no-marks"),
)
RUNS = {
    "bytes": ("byte2word",),
    "pieces": ("byte2word_bpe", "--data.tokenizer.size", "300", "--model.cap", "8"),
    "hidden bytes": ("byte2word_mlm",),
    "hidden pieces": ("byte2word_mlm_bpe", "--data.tokenizer.size", "300", "--model.mixed"),
    "bert": ("bert_bpe", "--data.tokenizer.size", "300"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "source").mkdir()
    random = np.random.default_rng(0)
    for name in ("train", "valid"):
        text = " ".join(random.choice(["alpha", "beta", "gamma é", "delta"], 600))
        (folder / f"{name}.txt").write_bytes(text.encode()[: 2000 if name == "valid" else None])
    name, *flags = RUNS[request.param]
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"]
    files = configs.Files(train=(str(folder / "train.txt"),), valid=(str(folder / "valid.txt"),))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=files))
    (folder / "config.json").write_text(json.dumps(configs.to_dict(config)))
    (folder / "it.py").write_text(
        "from pathlib import Path\nfrom bytelm import config as c\n"
        f"config = c.read(Path({str(folder / 'config.json')!r}))\n"
    )
    argv = ["train.py", str(folder / "it.py"), "--workdir", str(folder / "run"), *flags, *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        runpy.run_path(str(ROOT / "train.py"), run_name="train")["main"]()
    return request.param, folder / "run"


def test_run(run):
    name, folder = run
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval/bits_per_byte" in line][-1]
    assert 0 < last["eval/bits_per_byte"] < 12
    assert last["eval/lost_share"] == 0.0
    causal = name in ("bytes", "pieces")
    assert ("eval/word_accuracy" in last) != causal
    assert describe(folder)["parameters"] > 1000
    if not causal:
        assert 0.1 < last["eval/bytes"] / 2000 < 0.2
        with pytest.raises(ValueError, match="predicts hidden words and gives no law of texts"):
            bytelm.load(folder)
        masked, text = load_masked(folder), (folder.parent / "valid.txt").read_bytes()
        found = masked.evaluate([b"", text])
        assert found["words"] > 0
        assert found == pytest.approx(masked.evaluate([text]), rel=0, abs=0, nan_ok=True)
        assert 0 < found["bits_per_byte"] < 12
        for figure in ("words", "word_accuracy", "bytes", "bits_per_byte"):  # as the run's own evaluation
            assert found[figure] == pytest.approx(last[f"eval/{figure}"], rel=1e-5)
        with pytest.raises(ValueError, match="no document"):
            masked.evaluate([b""])
        return
    with pytest.raises(ValueError, match="predicts no hidden words"):
        load_masked(folder)
    lm = bytelm.load(folder)
    (score,) = lm.score([b"alpha beta"])
    assert score.shape == (11,)
    assert np.isfinite(score).all()
    bound = sum(-s for s in lm.score([(folder.parent / "valid.txt").read_bytes()[:200]])[0][:-1])
    assert bound / 200 / np.log(2) < last["eval/bits_per_byte"] + 0.5
    assert len(bytelm.generate(lm, [b"al"], max_bytes=4, seed=0)[0]) <= 4
    assert ("tokenizer.json" in {path.name for path in folder.iterdir()}) == (name == "pieces")
