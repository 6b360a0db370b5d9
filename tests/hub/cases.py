"""Small models of every family, with what its published configs switch on, and deterministic weights.

``python tests/hub/cases.py`` (with torch and transformers) writes golden.json: for each case its
config.json, the shapes of its tensors, and some logits, so that a machine without torch can check the same.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden.json"
V, T = 61, 24
TOKENS_BT = np.random.default_rng(0).integers(0, V, (2, T)).astype(np.int32)
AT = ((0, 3), (1, 11), (0, T - 1))  # rows and positions whose logits are stored
COLUMNS = (0, 7, 23, 60)

_SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_NEOX = {name: x for name, x in _SIZES.items() if name != "num_key_value_heads"}
_GPT2 = {
    **{"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
_ROPE = {"rope_theta": 10_000.0}
_LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
_YARN = {
    **{"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "llama",
        {**_SIZES, "rms_norm_eps": 1e-5, "rope_parameters": {**_ROPE, "rope_type": "default"}},
    ),
    "llama3": ("llama", {**_SIZES, "rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "codellama": ("llama", {**_SIZES, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    "deepseek-coder": (
        "llama",
        {**_SIZES, "rope_parameters": {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0}},
    ),
    "llama-dynamic": (
        "llama",
        {
            **_SIZES,
            "max_position_embeddings": 16,
            "rope_parameters": {**_ROPE, "rope_type": "dynamic", "factor": 2.0},
        },
    ),
    "llama-yarn": ("llama", {**_SIZES, "rope_parameters": {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0}}),
    "llama-bias": (
        "llama",
        {**_SIZES, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "head_dim": 12},
    ),
    "mistral": ("mistral", {**_SIZES, "sliding_window": 5}),
    "qwen2": (
        "qwen2",
        {
            **{**_SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
            **{"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        },
    ),
    "qwen2-yarn": ("qwen2", {**_SIZES, "rope_parameters": _YARN}),
    "qwen3": ("qwen3", {**_SIZES, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("gemma", {**_SIZES, "head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            **{**_SIZES, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 20},
            **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        },
    ),
    "starcoder2": ("starcoder2", {**_SIZES, "sliding_window": 5, "use_bias": True}),
    "starcoder": ("gpt_bigcode", {**_GPT2, "multi_query": True}),
    "bigcode-heads": ("gpt_bigcode", {**_GPT2, "multi_query": False}),
    "gpt2": ("gpt2", _GPT2),
    "pythia": ("gpt_neox", _NEOX),
    "neox-in-turn": ("gpt_neox", {**_NEOX, "use_parallel_residual": False}),
}


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a name: random, and the same everywhere, whatever the head is called."""
    name = name.replace("embed_out", "lm_head")
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.25
    return (x + (len(shape) == 1 and name.endswith("weight"))).astype(np.float32)  # norms are about 1


def stored(logits_BTV: np.ndarray) -> list[list[float]]:
    return [[round(float(logits_BTV[b, t, v]), 6) for v in COLUMNS] for b, t in AT]


def write(name: str, folder: Path) -> Path:
    """The folder of a case, from golden.json alone."""
    from safetensors.numpy import save_file

    golden = json.loads(GOLDEN.read_text())[name]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(golden["config"]))
    tensors = {tensor: weights(tensor, tuple(shape)) for tensor, shape in golden["tensors"].items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def by_transformers(name: str, folder: Path, **changes: Any) -> np.ndarray:
    """Logits of torch, float32 [B, T, V], of a case that is also saved to `folder`."""
    import torch
    import transformers

    kind, fields = CASES[name]
    config = transformers.AutoConfig.for_model(kind, **fields | changes)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for tensor, x in model.named_parameters():
            x.copy_(torch.from_numpy(weights(tensor, tuple(x.shape))))
        logits_BTV = model(torch.from_numpy(TOKENS_BT).long(), use_cache=False).logits.numpy()
    model.save_pretrained(folder, safe_serialization=True)
    return logits_BTV


def main() -> None:
    import tempfile

    from safetensors import safe_open

    golden = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            logits_BTV = by_transformers(name, Path(folder))
            data = json.loads((Path(folder) / "config.json").read_text())
            with safe_open(Path(folder) / "model.safetensors", "np") as file:
                shapes = {tensor: file.get_slice(tensor).get_shape() for tensor in file.keys()}  # noqa: SIM118
            golden[name] = {"config": data, "tensors": shapes, "logits": stored(logits_BTV)}
    lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
