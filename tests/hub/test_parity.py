"""Every family against transformers, or, where it is not installed, against stored logits of it."""

from __future__ import annotations

import json

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, TOKENS_BT

from bytelm import hub, sharding
from bytelm.hub.families import read_config, write_config
from bytelm.parameters import flat

every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_logits_are_those_of_transformers(name, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    expected_BTV = cases.by_transformers(name, tmp_path)
    lm, _ = hub.read(tmp_path, dtype="float32")
    np.testing.assert_allclose(lm.logits(lm.params, TOKENS_BT), expected_BTV, atol=1e-4)
    golden = json.loads(cases.GOLDEN.read_text())[name]
    np.testing.assert_allclose(golden["logits"], cases.stored(expected_BTV), atol=1e-4)
    assert np.std(golden["logits"]) > 0.1


@every_case
def test_logits_are_the_stored_ones(name, tmp_path):
    lm, folder = hub.read(cases.write(name, tmp_path / "model"), dtype="float32")
    found_BTV = np.asarray(lm.logits(lm.params, TOKENS_BT))
    expected = json.loads(cases.GOLDEN.read_text())[name]["logits"]
    np.testing.assert_allclose(cases.stored(found_BTV), expected, atol=1e-4)
    assert (folder.bos, folder.eos) == (1, (2,))


@every_case
def test_round_trip_of_folders(name, tmp_path):
    """Saved from the config alone, in shards, a folder gives the same parameters; like another, too."""
    source = cases.write(name, tmp_path / "model")
    lm, _ = hub.read(source, dtype="float32")
    hub.save(tmp_path / "new", lm.config, lm.params, bos=1, eos=[2], shard=8192)
    hub.save(tmp_path / "like", lm.config, lm.params, like=source)
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 1
    for folder in ("new", "like"):
        again, found = hub.read(tmp_path / folder, dtype="float32")
        assert (found.bos, found.eos) == (1, (2,))
        one, two = flat(lm.params), flat(again.params)
        assert one.keys() == two.keys()
        for path, x in one.items():
            np.testing.assert_array_equal(x, two[path], err_msg=path)
    np.testing.assert_array_equal(again.logits(again.params, TOKENS_BT), lm.logits(lm.params, TOKENS_BT))


def test_transformers_reads_what_is_saved(tmp_path):
    """Of a folder of our own making, with positions of the kind that fields say differently over time."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for name in (
        "llama3",
        "qwen3",
        "gemma2",
        "gpt2",
        "pythia",
        "starcoder",
        "mistral",
        "qwen2",
        "starcoder2",
    ):
        lm, _ = hub.read(cases.write(name, tmp_path / name), dtype="float32")
        hub.save(tmp_path / f"{name}-new", lm.config, lm.params, bos=1, eos=[2])
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / f"{name}-new", attn_implementation="eager"
        )
        with torch.no_grad():
            expected_BTV = model(torch.from_numpy(TOKENS_BT).long()).logits.numpy()
        np.testing.assert_allclose(lm.logits(lm.params, TOKENS_BT), expected_BTV, atol=1e-4, err_msg=name)


@every_case
def test_configs_of_older_programs(name):
    """``rope_scaling`` and ``rope_theta`` say what ``rope_parameters`` says now."""
    data = json.loads(cases.GOLDEN.read_text())[name]["config"]
    _, config = read_config(data, "config.json")
    old = {key: x for key, x in data.items() if key != "rope_parameters"}
    rope = dict(data.get("rope_parameters") or {})
    if rope:
        theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
        share = rope.pop("partial_rotary_factor", 1.0)
        old |= {"rope_theta": theta, "rotary_emb_base": theta, "rotary_pct": share}
        old |= {"rope_scaling": {"type": kind, **rope} if kind != "default" else None}
        unused = ("rope_theta",) if config.rope.share < 1 else ("rotary_emb_base", "rotary_pct")
        old = {key: x for key, x in old.items() if key not in unused}
    assert read_config(old, "config.json")[1] == config
    assert read_config(write_config(config), "config")[0].architecture


def test_bfloat16(tmp_path):
    """Parameters and computation in bfloat16: near, and not the same."""
    source = cases.write("llama", tmp_path / "model")
    full, half = (hub.read(source, dtype=dtype)[0] for dtype in ("float32", "bfloat16"))
    assert {x.dtype for x in flat(half.params).values()} == {jnp.dtype(jnp.bfloat16)}
    a, b = (np.asarray(lm.logits(lm.params, TOKENS_BT)) for lm in (full, half))
    assert b.dtype == np.float32
    assert 1e-4 < np.abs(a - b).max() < 0.3 * np.abs(a).max()


def test_a_folder_without_its_prefix(tmp_path):
    """GPT-2's own folder names its tensors without "transformer.", and has masks among them."""
    from safetensors.numpy import load_file, save_file

    source = cases.write("gpt2", tmp_path / "model")
    expected = hub.read(source, dtype="float32")[0]
    tensors = {k.removeprefix("transformer."): x for k, x in load_file(source / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    save_file(tensors, source / "model.safetensors")
    found = hub.read(source, dtype="float32")[0]
    for path, x in flat(expected.params).items():
        np.testing.assert_array_equal(x, flat(found.params)[path], err_msg=path)
    save_file({k: x for k, x in tensors.items() if k != "wte.weight"}, source / "model.safetensors")
    found = hub.read(source, dtype="float32")[0]  # the head stands for the table that it is tied to
    np.testing.assert_array_equal(found.params["table"], expected.params["table"])
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from the table of tokens"):
        hub.read(source)


def test_a_tied_table_under_the_name_of_the_head(tmp_path):
    from safetensors.numpy import load_file, save_file

    source = cases.write("llama3", tmp_path / "model")
    expected = hub.read(source, dtype="float32")[0]
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, source / "model.safetensors")
    found = hub.read(source, dtype="float32")[0]
    for path, x in flat(expected.params).items():
        np.testing.assert_array_equal(x, flat(found.params)[path], err_msg=path)
    del tensors["lm_head.weight"]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"'model.embed_tokens.weight' is missing"):
        hub.read(source)


@pytest.mark.parametrize("name", ["llama", "gpt2", "pythia"])
def test_sharded_equals_whole(name, tmp_path):
    """Cut over a mesh, each tensor lies in parts and the logits are the same; trees too."""
    source = cases.write(name, tmp_path / "model")
    whole, _ = hub.read(source, dtype="float32")
    mesh = sharding.make_mesh(sharding.MeshShape(1, 4, 2))
    cut, _ = hub.read(source, dtype="float32", mesh=mesh)
    query = cut.params["blocks"]["1"]["query"]
    assert query.addressable_shards[0].data.shape == (8, 2, 8)
    np.testing.assert_allclose(
        cut.logits(cut.params, TOKENS_BT), whole.logits(whole.params, TOKENS_BT), atol=1e-5
    )
    contexts = [[1, 2, 3], [1, 2, 4, 5]]
    np.testing.assert_allclose(
        cut.next_token_logprobs(contexts), whole.next_token_logprobs(contexts), atol=1e-5
    )


def test_a_mesh_that_does_not_fit(tmp_path):
    mesh = sharding.make_mesh(sharding.MeshShape(1, 4, 2))
    with pytest.raises(ValueError, match=r"model.key_heads = 1 cannot be cut in 2 equal parts along tensor"):
        hub.read(cases.write("gemma", tmp_path / "model"), mesh=mesh)
