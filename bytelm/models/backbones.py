"""The architectures that offer ``states``, the hidden states that other models are built on."""

from __future__ import annotations

from typing import Any, TypeAlias

from bytelm.models.bert import Bert, BertConfig
from bytelm.models.byte2word import Byte2Word, Byte2WordConfig
from bytelm.models.byte2word_masked import MaskedByte2Word, MaskedByte2WordConfig
from bytelm.models.byte_transformer import ByteTransformer, ByteTransformerConfig
from bytelm.models.token_lm import TokenTransformer
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.models.word_pooled import WordPooled
from bytelm.models.word_pooled_config import WordPooledConfig

BackboneConfig: TypeAlias = (
    ByteTransformerConfig
    | WordPooledConfig
    | Byte2WordConfig
    | MaskedByte2WordConfig
    | BertConfig
    | TokenLMConfig
)

BACKBONES: dict[type, Any] = {
    ByteTransformerConfig: ByteTransformer,
    WordPooledConfig: WordPooled,
    Byte2WordConfig: Byte2Word,
    MaskedByte2WordConfig: MaskedByte2Word,
    BertConfig: Bert,
    TokenLMConfig: TokenTransformer,
}
