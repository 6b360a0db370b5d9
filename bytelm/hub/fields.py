"""The fields of a config.json, read strictly, and those that say how positions turn."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from bytelm.models.rotary import Rope

ACTIVATIONS = {
    **{"silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_python": "gelu"},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"},
}
ACTIVATION_NAMES = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}

# Fields that say nothing about the logits: training, numerics of other programs, identity, tokens.
_WORDS = """
architectures model_type _name_or_path transformers_version torch_dtype dtype auto_map
initializer_range use_cache bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id
decoder_start_token_id attention_dropout hidden_dropout embedding_dropout residual_dropout
attn_pdrop embd_pdrop resid_pdrop classifier_dropout summary_activation summary_first_dropout
summary_proj_to_labels summary_type summary_use_proj task_specific_params pretraining_tp
attention_softmax_in_fp32 scale_attention_softmax_in_fp32 reorder_and_upcast_attn n_ctx
cache_implementation _from_model_config id2label label2id problem_type output_attentions
output_hidden_states return_dict chunk_size_feed_forward attn_implementation
_attn_implementation_autoset inference_runner max_batch_size max_sequence_length pad_key_length
runner_max_sequence_length validate_runner_input gradient_checkpointing is_decoder
tensor_parallel_size
tokenizer_class _num_labels n_special predict_special_tokens finetuning_task
"""
_IRRELEVANT = frozenset(_WORDS.split())


class Fields:
    """The fields of a config.json, each to be asked for by name; `where` for the errors."""

    def __init__(self, data: dict[str, Any], where: str):
        self.data, self.where, self.read = data, where, set[str]()

    def get(self, name: str, default: Any = ...) -> Any:
        """The field, or `default` where it is missing or null; without a default it must be there."""
        self.read.add(name)
        value = self.data.get(name)
        if value is None and default is ...:
            raise ValueError(f"{self.where}: no field {name!r}")
        return default if value is None else value

    def must_be(self, name: str, *allowed: Any) -> None:
        """Raises ValueError where the field is there and is none of `allowed`."""
        if (value := self.get(name, allowed[0])) not in allowed:
            raise ValueError(f"{self.where}: {name} = {value!r} is not supported, only {allowed[0]!r}")

    def activation(self, name: str, default: Any = ...) -> Any:
        value = self.get(name, default)
        if value not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"{self.where}: {name} = {value!r} is not supported; supported are {known}")
        return ACTIVATIONS[value]

    def finish(self) -> None:
        """Raises ValueError for a field with a value that nobody has asked for."""
        for name, value in self.data.items():
            if name not in self.read and name not in _IRRELEVANT and value not in (None, False, [], {}):
                raise ValueError(
                    f"{self.where}: field {name!r} ({value!r:.80}) is not known here, so it cannot be said "
                    "whether the logits depend on it; remove it if they do not"
                )


def read_rope(fields: Fields, context: int, *, base: str = "rope_theta", share: str | None = None) -> Rope:
    """Positions from ``rope_parameters`` (transformers 5) or ``rope_scaling`` and the fields beside it."""
    given = dict(fields.get("rope_parameters", None) or {})
    old = dict(fields.get("rope_scaling", None) or {})
    given = {**old, **given}
    theta = given.pop("rope_theta", None) or fields.get(base, 10_000.0)
    part = given.pop("partial_rotary_factor", None)
    part = (fields.get(share, 0.25) if share else 1.0) if part is None else part
    if share is None and part != 1.0:
        raise ValueError(f"{fields.where}: partial_rotary_factor = {part} is not supported in this family")
    kinds = {given.pop(name, None) for name in ("rope_type", "type")} - {None}
    kind: Any = kinds.pop() if kinds else "default"
    inside = Fields(given, f"{fields.where}: rope")
    rope = Rope(base=float(theta), share=float(part), trained=context)
    if kind == "default":
        given.pop("factor", None)
    elif kind in ("linear", "dynamic"):
        # "dynamic" measures a row against max_position_embeddings, whatever else is given.
        inside.get("original_max_position_embeddings", None)
        rope = dataclasses.replace(rope, scaling=kind, factor=float(inside.get("factor")))
    elif kind == "llama3":
        rope = dataclasses.replace(
            rope,
            scaling=kind,
            factor=float(inside.get("factor")),
            trained=inside.get("original_max_position_embeddings"),
            low=float(inside.get("low_freq_factor")),
            high=float(inside.get("high_freq_factor")),
        )
    elif kind == "yarn":
        trained = inside.get("original_max_position_embeddings", context)
        factor = float(inside.get("factor", context / trained))
        rope = dataclasses.replace(
            rope,
            scaling=kind,
            factor=factor,
            trained=trained,
            slow=float(inside.get("beta_slow", 1.0)),
            fast=float(inside.get("beta_fast", 32.0)),
            attention=_yarn_attention(inside, factor),
            truncate=inside.get("truncate", True),
        )
    else:
        raise ValueError(
            f"{fields.where}: rope type {kind!r} is not supported; supported are "
            "default, linear, dynamic, llama3, yarn"
        )
    inside.finish()
    return rope


def _yarn_attention(inside: Fields, factor: float) -> float:
    given, one, all_dim = (inside.get(n, None) for n in ("attention_factor", "mscale", "mscale_all_dim"))

    def grown(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    return given or (grown(one) / grown(all_dim) if one and all_dim else grown(1.0))


def write_rope(rope: Rope) -> dict[str, Any]:
    """The inverse of `read_rope`, in the form that transformers of any version read."""
    fields: dict[str, Any] = {"rope_theta": rope.base, "rope_scaling": None}
    more: dict[str, dict[str, Any]] = {
        "linear": {},
        "dynamic": {},
        "llama3": {
            "original_max_position_embeddings": rope.trained,
            "low_freq_factor": rope.low,
            "high_freq_factor": rope.high,
        },
        "yarn": {
            "original_max_position_embeddings": rope.trained,
            "beta_slow": rope.slow,
            "beta_fast": rope.fast,
            "truncate": rope.truncate,
            "attention_factor": rope.attention,
        },
    }
    if rope.scaling != "none":
        fields["rope_scaling"] = {"rope_type": rope.scaling, "factor": rope.factor, **more[rope.scaling]}
    return fields
