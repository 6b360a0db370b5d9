"""A trained classifier: texts in, the probabilities of its labels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bytelm.data import Tokens
from bytelm.lm import END, as_bytes
from bytelm.parameters import Params, with_params

_SMALLEST = 32  # symbols that a row is padded to at least
_SYMBOLS_AT_ONCE = 16_384  # of a batch


class TextClassifier:
    """See the module.

    Args:
      model: a `bytelm.models.classifier.Classifier`, its parameters abstract.
      params: its parameters.
      row: symbols of a row in training: what a longer text has after them is not read.
      tokens: of a tokenized backbone; None: symbols are bytes.
    """

    def __init__(self, model: Any, params: Params, row: int, tokens: Tokens | None = None):
        self.labels: tuple[str | int, ...] = model.config.labels
        self.row = row
        self._params, self._tokens = params, tokens

        def law(params: Params, symbols_BT: jax.Array, documents_BT: jax.Array) -> jax.Array:
            logits_BTC = with_params(model, params)(symbols_BT, documents_BT)
            return jax.nn.log_softmax(logits_BTC[:, 0])  # at each symbol they are those of the document

        self._law = jax.jit(law)

    def law(self, texts: Sequence[bytes | str]) -> np.ndarray:
        """log p of each label, float64 [N, labels], in the order of `labels`.

        Raises ValueError for a text that the tokenizer of a tokenized model cannot read.
        """
        rows = [symbols[: self.row] for symbols in self._symbols([as_bytes(text) for text in texts])]
        law_NC = np.zeros((len(rows), len(self.labels)))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            longest = len(rows[order[-1]])
            length = min(self.row, max(_SMALLEST, 1 << (longest - 1).bit_length()))
            count = max(1, _SYMBOLS_AT_ONCE // length)
            order, batch = order[:-count], order[-count:]
            symbols_BT, documents_BT = np.zeros((2, count, length), np.int32)
            for b, i in enumerate(batch):
                symbols_BT[b, : len(rows[i])] = rows[i]
                documents_BT[b, : len(rows[i])] = 1
            law_NC[batch] = np.asarray(self._law(self._params, symbols_BT, documents_BT))[: len(batch)]
        return law_NC

    def _symbols(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """Each text's, after the symbol before it."""
        if self._tokens is None:
            return [np.append([END], np.frombuffer(text, np.uint8)) for text in texts]
        found = []
        for i, ids in enumerate(self._tokens.encode(texts)):
            if ids is None:
                raise ValueError(f"text {i} is not UTF-8, and a tokenized model reads nothing else")
            found.append(np.append([self._tokens.end], ids))
        return found
