"""How a run reads its data: as bytes, as tokens, with or without fill-in-the-middle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeAlias

import numpy as np

from bytelm.config import Config
from bytelm.data import ByteCoding, Documents, Fim, LabelCoding, TokenCoding, Tokens, known_labels
from bytelm.data.spellings import spellings
from bytelm.data.tokenizer import make
from bytelm.models import (
    BertConfig,
    Byte2WordConfig,
    ClassifierConfig,
    MaskedByte2WordConfig,
    TokenLMConfig,
    backbone,
)
from bytelm.models.pieces import to_text
from bytelm.training.hosts import leads

AnyCoding: TypeAlias = ByteCoding | TokenCoding | LabelCoding | None


def coding_of(config: Config, folder: Path) -> tuple[Config, AnyCoding]:
    """The coding of a run's data, None for bytes as they are, and the config with what data tell: the size
    of the vocabulary, and the labels of a classifier.

    A model that reads bytes but predicts sub-words gets the spellings of the tokenizer's in its config. The
    tokenizer.json of a run is in its folder: made there from the training documents, or copied. A run that
    has a checkpoint keeps its own. Of several processes the first makes it, before the others come here
    (`hosts.leader_first`). Raises ValueError and FileNotFoundError for bad tokenizers and labels.
    """
    bpe, fim, model = config.data.tokenizer, config.data.fim, config.model
    coding: ByteCoding | TokenCoding | None = ByteCoding(fim) if fim.rate else None
    if bpe is not None:
        begun = any(p.name.isdigit() for p in (folder / "checkpoints").glob("*"))
        keep = begun or not leads()
        path, inner = make(bpe, config.data.source, folder, keep=keep), backbone(model)
        if isinstance(inner, Byte2WordConfig | MaskedByte2WordConfig | BertConfig):
            inner = dataclasses.replace(inner, pieces=to_text(spellings(path, inner.boundaries)))
        else:
            assert isinstance(inner, TokenLMConfig)
            tokens = Tokens(path)
            coding, inner = TokenCoding(tokens, fim), dataclasses.replace(inner, vocab_size=tokens.vocab_size)
        model = dataclasses.replace(model, backbone=inner) if isinstance(model, ClassifierConfig) else inner
    if isinstance(model, ClassifierConfig):
        if not model.labels:
            model = dataclasses.replace(model, labels=known_labels(config.data.source.open("train")))
        labelled = LabelCoding(coding or ByteCoding(Fim()), model.labels)
        return dataclasses.replace(config, model=model), labelled
    return dataclasses.replace(config, model=model), coding


def tokens_of(coding: AnyCoding) -> Tokens | None:
    """The tokenizer of a coding that has one."""
    inner = coding.inner if isinstance(coding, LabelCoding) else coding
    return inner.tokens if isinstance(inner, TokenCoding) else None


def held_out_coding(coding: AnyCoding) -> TokenCoding | LabelCoding | None:
    """The coding of held-out data: nothing is cut for filling in."""
    if isinstance(coding, LabelCoding):
        return coding
    return TokenCoding(coding.tokens) if isinstance(coding, TokenCoding) else None


def bytes_a_target(coding: AnyCoding, documents: Documents) -> float:
    """Mean bytes that a target of training stands for, from some of the documents; 1 for bytes."""
    tokens = tokens_of(coding)
    if tokens is None:
        return 1.0
    some = np.unique(np.linspace(0, len(documents) - 1, 16).astype(int)).tolist()
    found = [ids for ids in tokens.encode([documents[i] for i in some]) if ids is not None]
    if not found:
        return 1.0
    return float(tokens.sizes_V[np.concatenate(found)].mean())
