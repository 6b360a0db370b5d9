"""Folders that are wrong, or that promise what is not there: an error that names it, never a guess."""

from __future__ import annotations

import json

import cases
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bytelm import hub
from bytelm.hub.families import write_config
from bytelm.models.token_lm_config import TokenLMConfig


@pytest.fixture
def folder(tmp_path):
    return cases.write("llama", tmp_path / "model")


def change(folder, **fields):
    data = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "'mamba', architecture MambaForC"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification, is not supp",
        ),
        ({"hidden_act": "mish"}, "hidden_act = 'mish' is not supported; supported are silu"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "rope type 'longrope' is not supp",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope: no field 'factor'"),
        ({"rope_parameters": {"rope_type": "default", "wobble": 2}}, "field 'wobble'"),
        ({"alibi": True}, r"field 'alibi' \(True\) is not known here"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
        ({"vocab_size": None}, "no field 'vocab_size'"),
        ({"vocab_size": 77}, r"'lm_head.weight' has shape \[61, 32\], config.json says \[77, 32\]"),
        ({"num_hidden_layers": 3}, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 1}, "tensor 'model.layers.1.input_layernorm.weight' has no place"),
        ({"attention_bias": True}, "tensor 'model.layers.0.self_attn.k_proj.bias' is missing"),
        ({"tie_word_embeddings": True}, "'lm_head.weight' differs from the table"),
        ({"bos_token_id": 61}, "bos_token_id 61: the model's tokens are 0..60"),
        ({"eos_token_id": [2, -1]}, "eos_token_id -1"),
    ],
)
def test_what_the_config_says(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(ValueError, match=message):
        hub.read(folder)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"hidden_size": "32"}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"hidden_act": ["silu"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"0": {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
    ],
    ids=str,
)
def test_values_that_make_no_sense(folder, file, fields):
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))
    with pytest.raises(ValueError, match=r"model: config\.json or one of the two"):
        hub.read(folder)


def rewrite(folder, name, make):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = make(tensors[name])
    save_file(tensors, folder / "model.safetensors")


def nan(x):
    x[1] = np.nan
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[:-1], r"has shape \[31\], config.json says \[32\]"),
        (nan, "holds numbers that are not finite"),
        (lambda x: x.astype(np.int8), "is of type I8; F64, F32, F16, BF16 are read"),
    ],
)
def test_what_a_tensor_holds(folder, make, message):
    rewrite(folder, "model.norm.weight", make)
    with pytest.raises(ValueError, match=f"model.safetensors: tensor 'model.norm.weight' {message}"):
        hub.read(folder)


def test_other_float_types_are_read(folder):
    exact = hub.read(folder, dtype="float32")[0].params["norm"]["scale"]
    rewrite(folder, "model.norm.weight", lambda x: x.astype(np.float16))
    half = hub.read(folder, dtype="float32")[0].params["norm"]["scale"]
    np.testing.assert_allclose(half, exact, rtol=1e-3)


def test_files(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(ValueError, match=r"model.safetensors: not a whole safetensors file"):
        hub.read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors and no model.safetensors.index.json"):
        hub.read(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle"):
        hub.read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not JSON"):
        hub.read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        hub.read(folder)


def test_shards(folder, tmp_path):
    lm, _ = hub.read(folder, dtype="float32")
    new = tmp_path / "new"
    hub.save(new, lm.config, lm.params, shard=8192)
    index = new / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    missing = dict(listed["weight_map"])
    dropped = missing.pop("model.norm.weight")
    index.write_text(json.dumps({"weight_map": missing}))
    with pytest.raises(ValueError, match=r"is in the file or in the index, but not in"):
        hub.read(new)
    index.write_text(json.dumps({"weight_map": {**missing, "model.norm.weight": "../elsewhere"}}))
    with pytest.raises(ValueError, match="no weight_map of file names in this folder"):
        hub.read(new)
    index.write_text(json.dumps(listed))
    (new / dropped).unlink()
    with pytest.raises(FileNotFoundError, match=f"names {dropped}, which is not there"):
        hub.read(new)


def test_saving_what_no_family_has(folder, tmp_path):
    lm, _ = hub.read(folder)
    with pytest.raises(ValueError, match=r"there is a config.json already"):
        hub.save(folder, lm.config, lm.params)
    with pytest.raises(ValueError, match="no Hugging Face architecture has all"):
        write_config(TokenLMConfig(rope=None, qk_norm=True))
    assert write_config(TokenLMConfig())["architectures"] == ["Qwen3ForCausalLM"]
    assert write_config(TokenLMConfig(qk_norm=False))["architectures"] == ["LlamaForCausalLM"]


def test_tokens_of_generation(folder):
    """What generation_config.json says goes before config.json; several tokens may end a text."""
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 5, "eos_token_id": [1, 2]}))
    _, found = hub.read(folder)
    assert (found.bos, found.eos) == (5, (1, 2))
    change(folder, bos_token_id=None, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    token = {"content": "<s>", "special": True}
    about = {"bos_token": "<s>", "eos_token": token, "added_tokens_decoder": {"9": token}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    _, found = hub.read(folder)
    assert (found.bos, found.eos) == (9, (9,))
