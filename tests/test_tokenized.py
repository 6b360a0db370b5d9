"""Real models against stored logits, folders as byte models, and token models that are not ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from real_data import real

import bytelm
from bytelm import hub
from bytelm.cli import main
from bytelm.foreign import FunctionLM, TorchLM
from bytelm.lm import TokenLM, TreeLM
from bytelm.load import describe
from bytelm.parameters import flat, params_of

MODELS = ("stories260K", "TinyStories-656K")


@pytest.mark.parametrize("name", MODELS)
def test_real_logits_and_greedy_text(name, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    folder = real("models", name)
    fixture = np.load(folder / "logits_fixture.npz")
    lm, _ = hub.read(folder, dtype="float32")
    for i in range(3):
        tokens_BT = fixture[f"ids_{i}"][None].astype(np.int32)
        found_TV = np.asarray(lm.logits(lm.params, tokens_BT))[0]
        np.testing.assert_allclose(found_TV, fixture[f"logits_{i}"], atol=1e-4)
    greedy = fixture["greedy_ids"].astype(np.int32)
    first_BV, cache = lm.open(lm.params, greedy[None, :1], np.array([1]), slots=len(greedy), nodes=0)
    said = [int(np.argmax(first_BV[0]))]
    while len(said) < len(greedy) - 1:
        logits_BNV, cache = lm.extend(lm.params, cache, np.array([[said[-1]]], np.int32), np.array([1]))
        said.append(int(np.argmax(logits_BNV[0, 0])))
    assert said == greedy[1:].tolist()
    with capsys.disabled():
        text = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).decode(said)
        print(f"\n{name}, greedy: {text!r}")


def test_a_real_folder_is_a_byte_model():
    """Loaded and scored; the law of the first byte sums to one."""
    lm = bytelm.load(real("models", "stories260K"), dtype="float32")
    assert isinstance(lm, bytelm.ByteLM)
    text = b"Once upon a time"
    (score_T,) = lm.score([text])
    assert -30 < score_T[:-1].sum() < 0
    np.testing.assert_allclose(np.logaddexp.reduce(lm.next_logprobs(lm.start([text]))[0]), 0, atol=1e-4)
    facts = describe(real("models", "stories260K"))
    assert facts["parameters"] == 260_032
    assert facts["family"] == "LlamaForCausalLM"
    assert facts["text ends with"] == "1, 2"


@pytest.fixture
def folder(tmp_path):
    """A random model of GPT-2's architecture without a tokenizer."""
    import jax
    import jax.numpy as jnp

    from bytelm.models.token_lm_config import TokenLMConfig
    from bytelm.tokenized import abstract

    parts = {"rope": None, "norm": "layer", "norm_epsilon": 1e-5, "qk_norm": False, "gated": False}
    biases = {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "tied": True, "activation": "gelu_tanh"}
    config = TokenLMConfig(11, layers=1, width=8, heads=2, mlp_width=32, context=16, **parts, **biases)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape), "float32"), params_of(abstract(config))
    )
    hub.save(tmp_path / "model", config, params, bos=1, eos=[2])
    return tmp_path / "model"


def test_info(folder, capsys):
    assert main(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    for words in ("GPT2LMHeadModel", "16 tokens", "no tokenizer.json: needs a tokenizer"):
        assert words in out
    assert f"{sum(x.size for x in flat(hub.read(folder)[0].params).values()):,}" in out


def test_what_cannot_be_loaded(folder, capsys):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json in it"):
        bytelm.load(folder)
    with pytest.raises(ValueError, match="has no checkpoints, so no step 3"):
        bytelm.load(folder, step=3)
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | {"model_type": "rwkv"}))
    assert main(["info", str(folder)]) == 2
    assert "model_type 'rwkv'" in capsys.readouterr().err


# ---- foreign models ------------------------------------------------------------------------------------


def test_ours_is_a_tree_lm_and_theirs_a_token_lm(folder):
    lm, _ = hub.read(folder)
    assert isinstance(lm, TreeLM)
    theirs = FunctionLM(lambda contexts: np.zeros((len(contexts), 3)), 3)
    assert isinstance(theirs, TokenLM)
    assert not isinstance(theirs, TreeLM)


def test_a_transformers_model_gives_the_same_laws(folder):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    lm, theirs = hub.read(folder, dtype="float32")[0], TorchLM(str(folder), rows=2)
    contexts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [1]]
    np.testing.assert_allclose(
        theirs.next_token_logprobs(contexts), lm.next_token_logprobs(contexts), atol=1e-4
    )
    assert (theirs.vocab_size, theirs.context) == (11, 16)
    with pytest.raises(ValueError, match="context 0 has 17 tokens; the model sees 16"):
        theirs.next_token_logprobs([[1] * 17])


@pytest.mark.parametrize(
    ("contexts", "law", "message"),
    [
        ([[]], lambda c: np.zeros((1, 3)), "context 0 is empty"),
        ([[3]], lambda c: np.zeros((1, 3)), "context 0: the model's tokens are 0..2"),
        ([[1] * 5], lambda c: np.zeros((1, 3)), "context 0 has 5 tokens; the model sees 4"),
        ([[1]], lambda c: np.zeros(3), r"the function gave \(3,\) for 1 contexts over 3 tokens"),
        ([[1]], lambda c: np.full((1, 3), np.nan), "the function gave NaN"),
    ],
)
def test_a_function_that_is_no_law(contexts, law, message):
    with pytest.raises(ValueError, match=message):
        FunctionLM(law, 3, context=4).next_token_logprobs(contexts)
