"""How a run reads its data: as bytes, as tokens, with or without fill-in-the-middle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from bytelm.config import Config
from bytelm.data import ByteCoding, Documents, TokenCoding, Tokens
from bytelm.data.spellings import spellings
from bytelm.data.tokenizer import make
from bytelm.models import BertConfig, Byte2WordConfig, MaskedByte2WordConfig, TokenLMConfig
from bytelm.models.pieces import to_text


def coding_of(config: Config, folder: Path) -> tuple[Config, ByteCoding | TokenCoding | None]:
    """The coding of a run's data, None for bytes as they are, and the config with the vocabulary's size.

    A model that reads bytes but predicts sub-words gets the spellings of the tokenizer's in its config. The
    tokenizer.json of a run is in its folder: made there from the training documents, or copied.
    A run that has a checkpoint keeps its own. Raises ValueError and FileNotFoundError for a bad tokenizer.
    """
    bpe, fim = config.data.tokenizer, config.data.fim
    if bpe is None:
        return config, ByteCoding(fim) if fim.rate else None
    begun = any(p.name.isdigit() for p in (folder / "checkpoints").glob("*"))
    path = make(bpe, config.data.source, folder, keep=begun)
    if isinstance(config.model, Byte2WordConfig | MaskedByte2WordConfig | BertConfig):
        pieces = to_text(spellings(path, config.model.boundaries))
        reading_bytes = dataclasses.replace(config.model, pieces=pieces)
        return dataclasses.replace(config, model=reading_bytes), ByteCoding(fim) if fim.rate else None
    assert isinstance(config.model, TokenLMConfig)
    tokens = Tokens(path)
    model = dataclasses.replace(config.model, vocab_size=tokens.vocab_size)
    return dataclasses.replace(config, model=model), TokenCoding(tokens, fim)


def bytes_a_target(coding: ByteCoding | TokenCoding | None, documents: Documents) -> float:
    """Mean bytes that a target of training stands for, from some of the documents; 1 for bytes."""
    if not isinstance(coding, TokenCoding):
        return 1.0
    some = np.unique(np.linspace(0, len(documents) - 1, 16).astype(int)).tolist()
    found = [ids for ids in coding.tokens.encode([documents[i] for i in some]) if ids is not None]
    if not found:
        return 1.0
    return float(coding.sizes_V[np.concatenate(found)].mean())
