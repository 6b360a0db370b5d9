"""Architectures, one file each, and the one place that knows them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from bytelm import sharding
from bytelm.models.backbones import BACKBONES, BackboneConfig
from bytelm.models.bert import BertConfig
from bytelm.models.byte2word import Byte2WordConfig
from bytelm.models.byte2word_masked import MaskedByte2WordConfig
from bytelm.models.byte_transformer import ByteTransformerConfig
from bytelm.models.classifier import Classifier, ClassifierConfig
from bytelm.models.learn_your_tokens import LearnYourTokens, LearnYourTokensConfig
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.models.word_pooled_config import WordPooledConfig

__all__ = [
    "BACKBONES",
    "CONSTRUCTORS",
    "BackboneConfig",
    "BertConfig",
    "Byte2WordConfig",
    "ByteTransformerConfig",
    "ClassifierConfig",
    "LearnYourTokensConfig",
    "MaskedByte2WordConfig",
    "ModelConfig",
    "TokenLMConfig",
    "WordPooledConfig",
    "backbone",
    "build",
    "check_mesh",
    "flops",
    "is_causal",
]

ModelConfig: TypeAlias = BackboneConfig | LearnYourTokensConfig | ClassifierConfig

CONSTRUCTORS: dict[type, Any] = {
    **BACKBONES,
    LearnYourTokensConfig: LearnYourTokens,
    ClassifierConfig: Classifier,
}


def backbone(config: ModelConfig) -> BackboneConfig | LearnYourTokensConfig:
    """The language model that a model is, or is built on."""
    return config.backbone if isinstance(config, ClassifierConfig) else config


def build(config: ModelConfig, key: jax.Array) -> Any:
    """A new model with parameters from `key`."""
    return CONSTRUCTORS[type(config)](config, key)


def flops(config: ModelConfig, length: int) -> float:
    """Operations of the forward pass, a symbol (byte or token), in rows of `length` of them."""
    return CONSTRUCTORS[type(config)].flops(config, length)


def is_causal(config: ModelConfig) -> bool:
    """Whether the model gives a law of what comes next; others predict words that are hidden from them."""
    return hasattr(CONSTRUCTORS[type(config)], "decode") or isinstance(config, TokenLMConfig)


def check_mesh(config: ModelConfig, mesh: jax.sharding.Mesh, rows: Mapping[str, int]) -> None:
    """Raises ValueError where the model, or `rows` of batches, by name, cannot be cut evenly over `mesh`."""
    cuts = CONSTRUCTORS[type(config)].cuts(config)
    sharding.check_fits(
        mesh,
        {
            **{name: ("batch", count) for name, count in rows.items()},
            **{f"model.{name}": cut for name, cut in cuts.items()},
        },
    )
