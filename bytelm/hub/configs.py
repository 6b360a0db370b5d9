"""The config.json of each family as a `TokenLMConfig`, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bytelm.hub.fields import ACTIVATION_NAMES, Fields, read_rope, write_rope
from bytelm.models.token_lm_config import TokenLMConfig


def _sizes(f: Fields) -> dict[str, Any]:
    """What the Llama-like families say alike."""
    heads, context = f.get("num_attention_heads"), f.get("max_position_embeddings")
    return {
        "vocab_size": f.get("vocab_size"),
        "layers": f.get("num_hidden_layers"),
        "width": f.get("hidden_size"),
        "heads": heads,
        "key_heads": f.get("num_key_value_heads", heads),
        "head_width": f.get("head_dim", f.get("hidden_size") // heads),
        "mlp_width": f.get("intermediate_size"),
        "context": context,
        "rope": read_rope(f, context),
        "qk_norm": False,
    }


def _write_sizes(c: TokenLMConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.layers,
        "hidden_size": c.width,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.K,
        "head_dim": c.H,
        "intermediate_size": c.F,
        "max_position_embeddings": c.context,
        "tie_word_embeddings": c.tied,
        **(write_rope(c.rope) if c.rope is not None else {}),
    }


def _windows(f: Fields, c: dict[str, Any], sliding: Callable[[int], bool]) -> dict[str, Any]:
    """The window and the layers without it, from ``layer_types`` or the family's rule."""
    window, layers = f.get("sliding_window", None), range(c["layers"])
    kinds = f.get("layer_types", None)
    if kinds is not None:
        if len(kinds) != len(layers) or set(kinds) - {"full_attention", "sliding_attention"}:
            raise ValueError(f"{f.where}: layer_types {kinds} is not supported")
        full = tuple(i for i in layers if kinds[i] == "full_attention")
    else:
        full = tuple(i for i in layers if not sliding(i))
    if window is None or len(full) == len(layers):
        return {"window": None, "full_layers": ()}
    return {"window": window, "full_layers": full}


def _write_windows(c: TokenLMConfig) -> dict[str, Any]:
    kinds = ["full_attention" if c.window_of(i) is None else "sliding_attention" for i in range(c.layers)]
    return {"sliding_window": c.window, "layer_types": kinds}


def read_llama(f: Fields) -> TokenLMConfig:
    bias = f.get("attention_bias", False)
    return TokenLMConfig(
        **_sizes(f),
        norm_epsilon=f.get("rms_norm_eps", 1e-6),
        activation=f.activation("hidden_act", "silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=f.get("mlp_bias", False),
        tied=f.get("tie_word_embeddings", False),
    )


def write_llama(c: TokenLMConfig) -> dict[str, Any]:
    return {
        **_write_sizes(c),
        "rms_norm_eps": c.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
    }


def read_mistral(f: Fields) -> TokenLMConfig:
    sizes = _sizes(f)
    return TokenLMConfig(
        **sizes,
        **_windows(f, sizes, lambda i: True),
        norm_epsilon=f.get("rms_norm_eps", 1e-6),
        activation=f.activation("hidden_act", "silu"),
        tied=f.get("tie_word_embeddings", False),
    )


def write_mistral(c: TokenLMConfig) -> dict[str, Any]:
    return {
        **_write_sizes(c),
        "sliding_window": c.window,
        "rms_norm_eps": c.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[c.activation],
    }


def read_qwen(f: Fields, three: bool) -> TokenLMConfig:
    sizes, first = _sizes(f), f.get("max_window_layers", 28)
    windows = _windows(f, sizes, lambda i: i >= first)
    if not f.get("use_sliding_window", False):
        windows = {"window": None, "full_layers": ()}
    bias = f.get("attention_bias", False) if three else False
    return TokenLMConfig(
        **sizes | {"qk_norm": three},
        **windows,
        norm_epsilon=f.get("rms_norm_eps", 1e-6),
        activation=f.activation("hidden_act", "silu"),
        qkv_bias=bias if three else True,
        out_bias=bias,
        tied=f.get("tie_word_embeddings", False),
    )


def write_qwen(c: TokenLMConfig) -> dict[str, Any]:
    return {
        **_write_sizes(c),
        **_write_windows(c),
        "use_sliding_window": c.window is not None,
        "max_window_layers": c.layers,
        "rms_norm_eps": c.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        **({"attention_bias": c.qkv_bias} if c.qk_norm else {}),
    }


def read_gemma(f: Fields) -> TokenLMConfig:
    f.must_be("use_bidirectional_attention", False)
    # The first releases say "gelu" and mean its approximation by tanh.
    act, old = f.activation("hidden_activation", "gelu_pytorch_tanh"), f.get("hidden_act", "gelu")
    sizes, bias = _sizes(f), f.get("attention_bias", False)
    if old != "gelu" and f.data.get("hidden_activation") is None:
        act = f.activation("hidden_act")
    return TokenLMConfig(
        **sizes,
        norm="rms_plus_one",
        norm_epsilon=f.get("rms_norm_eps", 1e-6),
        activation=act,
        qkv_bias=bias,
        out_bias=bias,
        embedding_scale=sizes["width"] ** 0.5,
        tied=f.get("tie_word_embeddings", True),
    )


def write_gemma(c: TokenLMConfig) -> dict[str, Any]:
    return {
        **_write_sizes(c),
        "rms_norm_eps": c.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        "hidden_activation": ACTIVATION_NAMES[c.activation],
        "attention_bias": c.qkv_bias,
    }


def read_gemma2(f: Fields) -> TokenLMConfig:
    base = read_gemma(f)
    f.get("sliding_window_size", None)  # an older name, beside the newer
    windows = _windows(f, {"layers": base.layers}, lambda i: i % 2 == 0)
    return dataclasses.replace(
        base,
        **windows,
        post_norms=True,
        query_scale=f.get("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=f.get("attn_logit_softcapping", None),
        logit_softcap=f.get("final_logit_softcapping", None),
    )


def write_gemma2(c: TokenLMConfig) -> dict[str, Any]:
    scalar = c.scale**-2
    return {
        **write_gemma(c),
        **_write_windows(c),
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
        "attn_logit_softcapping": c.attention_softcap,
        "final_logit_softcapping": c.logit_softcap,
    }


def read_starcoder2(f: Fields) -> TokenLMConfig:
    f.must_be("norm_type", "layer_norm")
    f.must_be("mlp_type", "default")
    sizes, bias = _sizes(f), f.get("use_bias", True)
    for name in ("rms_norm_eps", "activation_function"):  # in published files, and read by no program
        f.get(name, None)
    return TokenLMConfig(
        **sizes,
        **_windows(f, sizes, lambda i: True),
        norm="layer",
        norm_epsilon=f.get("norm_epsilon", 1e-5),
        activation=f.activation("hidden_act", "gelu_pytorch_tanh"),
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied=f.get("tie_word_embeddings", True),
    )


def write_starcoder2(c: TokenLMConfig) -> dict[str, Any]:
    return {
        **_write_sizes(c),
        "sliding_window": c.window,
        "norm_epsilon": c.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        "use_bias": c.qkv_bias,
    }


def read_gpt2(f: Fields) -> TokenLMConfig:
    f.must_be("scale_attn_weights", True)
    f.must_be("scale_attn_by_inverse_layer_idx", False)
    f.must_be("add_cross_attention", False)
    big = f.data.get("model_type") == "gpt_bigcode"
    width, heads = f.get("n_embd"), f.get("n_head")
    multi = big and f.get("multi_query", True)
    f.get("num_key_value_heads", None)  # says the same as multi_query
    return TokenLMConfig(
        vocab_size=f.get("vocab_size"),
        layers=f.get("n_layer"),
        width=width,
        heads=heads,
        key_heads=1 if multi else heads,
        head_width=width // heads,
        mlp_width=f.get("n_inner", 4 * width),
        context=f.get("n_positions"),
        rope=None,
        norm="layer",
        norm_epsilon=f.get("layer_norm_epsilon", 1e-5),
        qk_norm=False,
        activation=f.activation("activation_function", "gelu_pytorch_tanh" if big else "gelu_new"),
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=f.get("tie_word_embeddings", True),
    )


def write_gpt2(c: TokenLMConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_layer": c.layers,
        "n_embd": c.width,
        "n_head": c.heads,
        "n_inner": c.F,
        "n_positions": c.context,
        "layer_norm_epsilon": c.norm_epsilon,
        "activation_function": ACTIVATION_NAMES[c.activation],
        "tie_word_embeddings": c.tied,
    }


def write_bigcode(c: TokenLMConfig) -> dict[str, Any]:
    return {**write_gpt2(c), "multi_query": c.K == 1}


def read_neox(f: Fields) -> TokenLMConfig:
    heads, width, context = (
        f.get("num_attention_heads"),
        f.get("hidden_size"),
        f.get("max_position_embeddings"),
    )
    bias = f.get("attention_bias", True)
    return TokenLMConfig(
        vocab_size=f.get("vocab_size"),
        layers=f.get("num_hidden_layers"),
        width=width,
        heads=heads,
        key_heads=heads,
        head_width=width // heads,
        mlp_width=f.get("intermediate_size"),
        context=context,
        rope=read_rope(f, context, base="rotary_emb_base", share="rotary_pct"),
        norm="layer",
        norm_epsilon=f.get("layer_norm_eps", 1e-5),
        parallel=f.get("use_parallel_residual", True),
        qk_norm=False,
        activation=f.activation("hidden_act", "gelu"),
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        tied=f.get("tie_word_embeddings", False),
    )


def write_neox(c: TokenLMConfig) -> dict[str, Any]:
    rope = write_rope(c.rope) if c.rope is not None else {"rope_theta": 1.0}
    sizes = _write_sizes(c)
    drop = ("num_key_value_heads", "head_dim", "rope_theta", "rope_scaling")
    return {
        **{name: value for name, value in sizes.items() if name not in drop},
        "rotary_emb_base": rope["rope_theta"],
        "rotary_pct": c.rope.share if c.rope is not None else 1.0,
        **({"rope_scaling": rope["rope_scaling"]} if rope.get("rope_scaling") else {}),
        "layer_norm_eps": c.norm_epsilon,
        "use_parallel_residual": c.parallel,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        "attention_bias": c.qkv_bias,
    }
