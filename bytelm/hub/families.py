"""The families of Hugging Face folders: how each names and lays out its tensors.

A family is read strictly: every field of ``config.json`` must be one that is understood, or one that
cannot change the logits; a value that promises something that the model lacks is an error naming it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bytelm.hub import configs
from bytelm.hub.fields import Fields
from bytelm.models.rotary import Rope
from bytelm.models.token_lm_config import TokenLMConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one of our parameters comes from.

    name: of their tensor. form: how theirs lies: "linear" [out, in], "conv" [in, out], "plain" as ours.
    part: of a fused tensor of queries, keys and values, which (0, 1, 2), in "blocks" one after the other
    or "heads" beside each other; None for a tensor of its own.
    """

    name: str
    form: str
    part: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture: its config read and written, and the names of its tensors by ours."""

    architecture: str
    read: Callable[[Fields], TokenLMConfig]
    write: Callable[[TokenLMConfig], dict[str, Any]]
    names: dict[str, str]  # outside layers
    block: str  # what precedes the names of a layer's, with {}
    of_block: dict[str, str]
    prefix: str = "model."  # that tensors lack where a folder was saved without its head
    form: str = "linear"  # of matrices
    fused: str | None = None  # how queries, keys and values are fused, if they are

    def source(self, path: str, config: TokenLMConfig) -> Source:
        """Of our parameter `path`, as in ``blocks/3/mlp/up``. KeyError where the family has no such."""
        kind = path.rsplit("/", 1)[-1]
        plain = kind in ("scale", "bias", "table", "positions") or kind.endswith("_bias")
        form = "plain" if plain else self.form
        if not path.startswith("blocks/"):
            return Source(self.names[path], "linear" if path == "head" else form)
        _, layer, name = path.split("/", 2)
        part = None
        if self.fused and name.split("_")[0] in ("query", "key", "value"):
            # One key head is never interleaved: there is nothing to interleave it with.
            fused = "blocks" if config.K == 1 and config.heads > 1 else self.fused
            part = (fused, ("query", "key", "value").index(name.split("_")[0]))
        return Source(self.block.format(layer) + self.of_block[name], form, part)


_WEIGHTS = (("", "weight"), ("_bias", "bias"))
_ATTENTION = {
    f"{ours}{b}": f"self_attn.{theirs}_proj.{w}"
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
    for b, w in _WEIGHTS
}
_GATED = {f"mlp/{ours}{b}": f"mlp.{ours}_proj.{w}" for ours in ("gate", "up", "down") for b, w in _WEIGHTS}
_NORMS = {
    f"{ours}/{w}": f"{theirs}.{name}"
    for ours, theirs in (("norm_attention", "input_layernorm"), ("norm_mlp", "post_attention_layernorm"))
    for w, name in (("scale", "weight"), ("bias", "bias"))
}
_LLAMA_NAMES = {
    **{"table": "model.embed_tokens.weight", "head": "lm_head.weight"},
    **{"norm/scale": "model.norm.weight", "norm/bias": "model.norm.bias"},
}
_LLAMA_BLOCK = {**_ATTENTION, **_GATED, **_NORMS}
_QK_NORMS = {"norm_query/scale": "self_attn.q_norm.weight", "norm_key/scale": "self_attn.k_norm.weight"}


_GPT2_NAMES = {
    **{"table": "transformer.wte.weight", "positions": "transformer.wpe.weight", "head": "lm_head.weight"},
    **{"norm/scale": "transformer.ln_f.weight", "norm/bias": "transformer.ln_f.bias"},
}
_GPT2_BLOCK = {
    f"{ours}{b}": f"{theirs}.{w}"
    for ours, theirs in {
        **{"query": "attn.c_attn", "key": "attn.c_attn", "value": "attn.c_attn", "out": "attn.c_proj"},
        **{"mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"},
    }.items()
    for b, w in _WEIGHTS
} | {
    f"{ours}/{w}": f"{theirs}.{name}"
    for ours, theirs in (("norm_attention", "ln_1"), ("norm_mlp", "ln_2"))
    for w, name in (("scale", "weight"), ("bias", "bias"))
}
_NEOX_BLOCK = {
    f"{ours}{b}": f"{theirs}.{w}"
    for ours, theirs in {
        **dict.fromkeys(("query", "key", "value"), "attention.query_key_value"),
        **{"out": "attention.dense", "mlp/up": "mlp.dense_h_to_4h", "mlp/down": "mlp.dense_4h_to_h"},
    }.items()
    for b, w in _WEIGHTS
} | _NORMS
_GEMMA2_BLOCK = _LLAMA_BLOCK | {
    "post_attention/scale": "post_attention_layernorm.weight",
    "norm_mlp/scale": "pre_feedforward_layernorm.weight",
    "post_mlp/scale": "post_feedforward_layernorm.weight",
}
_STARCODER2_BLOCK = _LLAMA_BLOCK | {
    f"mlp/{ours}{b}": f"mlp.{theirs}.{w}"
    for ours, theirs in (("up", "c_fc"), ("down", "c_proj"))
    for b, w in _WEIGHTS
}


def _llama_like(architecture: str, read: Any, write: Any, block: dict[str, str] = _LLAMA_BLOCK) -> Family:
    return Family(architecture, read, write, _LLAMA_NAMES, "model.layers.{}.", block)


FAMILIES: dict[str, Family] = {
    "llama": _llama_like("LlamaForCausalLM", configs.read_llama, configs.write_llama),
    "mistral": _llama_like("MistralForCausalLM", configs.read_mistral, configs.write_mistral),
    "qwen2": _llama_like("Qwen2ForCausalLM", lambda f: configs.read_qwen(f, False), configs.write_qwen),
    "qwen3": _llama_like(
        "Qwen3ForCausalLM", lambda f: configs.read_qwen(f, True), configs.write_qwen, _LLAMA_BLOCK | _QK_NORMS
    ),
    "gemma": _llama_like("GemmaForCausalLM", configs.read_gemma, configs.write_gemma),
    "gemma2": _llama_like("Gemma2ForCausalLM", configs.read_gemma2, configs.write_gemma2, _GEMMA2_BLOCK),
    "starcoder2": _llama_like(
        "Starcoder2ForCausalLM", configs.read_starcoder2, configs.write_starcoder2, _STARCODER2_BLOCK
    ),
    "gpt2": Family(
        *("GPT2LMHeadModel", configs.read_gpt2, configs.write_gpt2),
        *(_GPT2_NAMES, "transformer.h.{}.", _GPT2_BLOCK),
        prefix="transformer.",
        form="conv",
        fused="blocks",
    ),
    "gpt_bigcode": Family(
        *("GPTBigCodeForCausalLM", configs.read_gpt2, configs.write_bigcode),
        *(_GPT2_NAMES, "transformer.h.{}.", _GPT2_BLOCK),
        prefix="transformer.",
        fused="heads",
    ),
    "gpt_neox": Family(
        *("GPTNeoXForCausalLM", configs.read_neox, configs.write_neox),
        {
            **{"table": "gpt_neox.embed_in.weight", "head": "embed_out.weight"},
            **{"norm/scale": "gpt_neox.final_layer_norm.weight"},
            **{"norm/bias": "gpt_neox.final_layer_norm.bias"},
        },
        *("gpt_neox.layers.{}.", _NEOX_BLOCK),
        prefix="gpt_neox.",
        fused="heads",
    ),
}  # fmt: skip


def family_of(data: dict[str, Any], where: str) -> Family:
    """The family of a config.json. Raises ValueError naming an architecture that is not here."""
    kind, architectures = data.get("model_type"), data.get("architectures") or []
    family = FAMILIES.get(str(kind))
    if family is None or (architectures and family.architecture not in architectures):
        known = ", ".join(sorted(f.architecture for f in FAMILIES.values()))
        raise ValueError(
            f"{where}: model_type {kind!r}, architecture {', '.join(architectures) or 'not named'}, is not "
            f"supported; supported are {known}. bytelm.foreign runs others through transformers"
        )
    return family


def read_config(data: dict[str, Any], where: str) -> tuple[Family, TokenLMConfig]:
    """A family and our config from a config.json. Raises ValueError for what is not supported."""
    family, fields = family_of(data, where), Fields(data, where)
    if data.get("quantization_config"):
        raise ValueError(f"{where}: quantization_config: quantised weights are not supported")
    config = family.read(fields)
    fields.finish()
    return family, config


def write_config(config: TokenLMConfig) -> dict[str, Any]:
    """A config.json for our config, of the first family that can say all of it.

    Raises ValueError where none can. What belongs to training (dropout, remat, documents) is left out.
    """
    base = TokenLMConfig()
    free = ("isolate_documents", "dropout", "remat", "dtype")
    plain: dict[str, Any] = {"key_heads": config.K, "head_width": config.H, "mlp_width": config.F}
    plain |= {name: getattr(base, name) for name in free}
    wanted = dataclasses.replace(config, **plain)
    for kind, family in FAMILIES.items():
        data = {"model_type": kind, "architectures": [family.architecture], **family.write(wanted)}
        try:
            if _alike(read_config(data, "config")[1], wanted):
                return data
        except (ValueError, KeyError):
            continue
    raise ValueError(f"no Hugging Face architecture has all that this model has: {config}")


def _alike(a: TokenLMConfig, b: TokenLMConfig) -> bool:
    """Whether two configs are of one model: what positions were trained on matters to a scaling only."""

    def plain(c: TokenLMConfig) -> TokenLMConfig:
        rope = c.rope
        if rope is not None and rope.scaling in ("none", "linear"):
            rope = dataclasses.replace(Rope(rope.base, rope.share, rope.scaling, rope.factor))
        same_scale = abs(c.scale * c.H**0.5 - 1) < 1e-6
        return dataclasses.replace(c, rope=rope, query_scale=None if same_scale else round(c.scale, 9))

    return plain(a) == plain(b)
