"""The architectures that offer ``states``, the hidden states that other models are built on."""

from __future__ import annotations

from typing import Any, TypeAlias

from bytelm.models.byte_transformer import ByteTransformer, ByteTransformerConfig
from bytelm.models.token_lm import TokenLMConfig, TokenTransformer
from bytelm.models.word_pooled import WordPooled, WordPooledConfig

BackboneConfig: TypeAlias = ByteTransformerConfig | WordPooledConfig | TokenLMConfig

BACKBONES: dict[type, Any] = {
    ByteTransformerConfig: ByteTransformer,
    WordPooledConfig: WordPooled,
    TokenLMConfig: TokenTransformer,
}
