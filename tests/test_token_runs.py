"""A run on tokens from end to end: its tokenizer, resuming, as a ByteLM, exported; byte models exported."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bytelm
from bytelm import hub, saved
from bytelm.cli import main as command
from bytelm.data import Tokens
from bytelm.export import export
from bytelm.load import describe, parameters
from bytelm.models.token_lm import unstack
from bytelm.tokenized import TransformerLM

ROOT = Path(__file__).parents[1]
CONFIG = """
from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Bpe, Files, Fim
from bytelm.models import ByteTransformerConfig, TokenLMConfig

config = Config(
    model={model},
    data=Data(source=Files(train=({train!r},), valid=({valid!r},)), row=32, piece=64, {tokenizer}
              fim=Fim(rate=0.5)),
    optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=1, schedule="constant"),
    training=Training(steps=4, rows=8, log_every=1),
    evaluation=Evaluation(every=100, rows=8),
    samples=Samples(prompts=("", "al"), max_bytes=12),
    checkpoints=Checkpoints(every=2),
)
"""
TOKENS = {
    "model": "TokenLMConfig(layers=1, width=16, heads=2, mlp_width=16, window=8, context=256)",
    "tokenizer": "tokenizer=Bpe(size=275),",
}
BYTES = {"model": "ByteTransformerConfig(layers=1, width=16, heads=2, mlp_width=16)", "tokenizer": ""}
TEXTS = [b"alpha beta", "\u00e9 gamma".encode(), b""]


class Place:
    def __init__(self, folder):
        self.folder = folder
        random = np.random.default_rng(0)
        for name, size in (("train", 3000), ("valid", 200)):
            documents = [
                " ".join(random.choice(["alpha", "beta", "gamma é", "delta"], size // 10)) for _ in range(10)
            ]
            lines = [json.dumps({"text": document}) for document in documents]
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
        self.valid = sum(len(document.encode()) for document in documents)
        paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "valid")}
        (folder / "tokens.py").write_text(CONFIG.format(**paths, **TOKENS))
        (folder / "bytes.py").write_text(CONFIG.format(**paths, **BYTES))

    def train(self, config, run, *flags):
        spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.MonkeyPatch.context() as patch:
            arguments = [self.folder / f"{config}.py", "--workdir", self.folder / run, *flags]
            patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
            module.main()
        return self.folder / run

    def last(self, run):
        return json.loads((self.folder / run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("token_runs"))


@pytest.fixture(scope="module")
def run(place):
    return place.train("tokens", "tokens")


@pytest.fixture(scope="module")
def byte_run(place):
    return place.train("bytes", "bytes")


def test_a_run_leaves_its_tokenizer_and_bits_of_the_same_bytes(place, run, byte_run):
    assert Tokens(run / "tokenizer.json").vocab_size == 275
    config, params = parameters(run)
    assert config.model.vocab_size == 275
    assert params["table"].shape == (275, 16)
    ours, theirs = place.last("tokens"), place.last("bytes")
    assert ours["eval/bytes"] == theirs["eval/bytes"] == place.valid
    assert ours["eval/canonical_tokens_bits_per_byte"] == ours["eval/bits_per_byte"] > 0
    assert "eval/canonical_tokens_bits_per_byte" not in theirs
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [x["prompt"] for x in samples] == ["", "al"]
    assert all(len(x["text"].encode("utf-8", "ignore")) <= 36 for x in samples)
    assert describe(run)["tokenizer"] == "byte-level BPE of 275 tokens"


def test_gone_on_with_it_is_the_same_to_the_bit(place, run):
    place.train("tokens", "cut", "--training.steps", 2)
    place.train("tokens", "cut")
    jax.tree.map(np.testing.assert_array_equal, parameters(place.folder / "cut")[1], parameters(run)[1])
    other = parameters(run, 2)[1]
    assert np.abs(other["table"] - parameters(run)[1]["table"]).max() > 0  # control


def test_it_is_a_byte_model(run):
    lm = bytelm.load(run)
    config, params = parameters(run)
    tokens = Tokens(run / "tokenizer.json")
    token_lm = TransformerLM(config.model, unstack(params))
    for text, score, law in zip(TEXTS, lm.score(TEXTS), lm.laws(TEXTS), strict=True):
        np.testing.assert_allclose(np.exp(law).sum(-1), 1.0, atol=1e-5)
        ids = [tokens.end, *tokens.encode([text])[0].tolist(), tokens.end]
        laws = token_lm.next_token_logprobs([ids[: i + 1] for i in range(len(ids) - 1)])
        canonical = sum(law[t] for law, t in zip(laws, ids[1:], strict=True))
        assert score.sum() >= canonical - 1e-4  # what other sequences have is not lost
    assert len(bytelm.generate(lm, ["al"], max_bytes=4, seed=1)[0]) <= 4


def test_exported_for_transformers(run, tmp_path):
    folder = tmp_path / "hf"
    assert "Hugging Face" in export(run, folder)
    assert {path.name for path in folder.iterdir()} >= {
        *("config.json", "model.safetensors", "tokenizer.json", "generation_config.json")
    }
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
    config, params = parameters(run)
    row_BT = np.random.default_rng(0).integers(0, 275, (2, 24))
    ours = np.asarray(TransformerLM(config.model, unstack(params)).logits(unstack(params), row_BT))
    back, _ = hub.read(folder)
    np.testing.assert_array_equal(np.asarray(back.logits(back.params, row_BT)), ours)
    texts = ["alpha beta"]
    np.testing.assert_allclose(
        bytelm.load(folder).score(texts)[0], bytelm.load(run).score(texts)[0], atol=1e-5
    )
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = theirs(torch.from_numpy(row_BT)).logits.numpy()
    np.testing.assert_allclose(found, ours, atol=1e-4)
    assert np.abs(found - ours[::-1]).max() > 1e-3  # control
    assert theirs.generation_config.eos_token_id in (0, [0])


def test_a_byte_model_is_exported_and_loads_again(byte_run, tmp_path, capsys):
    folder = tmp_path / "out"
    assert command(["export", str(byte_run), str(folder)]) == 0
    assert "safetensors" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    for ours, theirs in zip(
        bytelm.load(folder).score(TEXTS), bytelm.load(byte_run).score(TEXTS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert describe(folder)["checkpoint"] == "exported"
    assert command(["export", str(byte_run), str(folder)]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert command(["export", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2
    weights = folder / saved.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        bytelm.load(folder)
    from safetensors.numpy import load, save_file

    arrays = load(whole)
    for wrong, message in [
        ({k: x for k, x in arrays.items() if k != "head"}, "no tensor 'head'"),
        ({**arrays, "more": arrays["head"]}, "tensor 'more'"),
        ({**arrays, "head": arrays["head"][:-1]}, "head is float32"),
    ]:
        save_file({k: np.ascontiguousarray(x) for k, x in wrong.items()}, weights)
        with pytest.raises(ValueError, match=message):
            bytelm.load(folder)


def test_models_and_tokenizers_belong_together(place):
    from bytelm.config import Config, Data
    from bytelm.data import Bpe
    from bytelm.models import TokenLMConfig

    with pytest.raises(ValueError, match="a TokenLMConfig reads tokens"):
        Config(model=TokenLMConfig())
    with pytest.raises(ValueError, match="all others bytes"):
        Config(data=Data(tokenizer=Bpe()))
    with pytest.raises(ValueError, match=r"data\.row 64 is longer than model\.context 32"):
        Config(model=TokenLMConfig(context=32), data=Data(row=64, tokenizer=Bpe()))
    with pytest.raises(SystemExit) as exit:
        place.train("tokens", "bad", "--data.tokenizer.path", "nowhere.json")
    assert exit.value.code == 2
