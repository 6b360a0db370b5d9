"""A trained model of hidden words: texts in, how many of the words hidden in them it finds out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bytelm.data import eval_rows
from bytelm.data.documents import TableBuilder
from bytelm.lm import as_bytes
from bytelm.parameters import Params
from bytelm.training.evaluate import evaluate
from bytelm.training.step import make_eval_step


class MaskedModel:
    """See the module.

    Args:
      model: a model of hidden words, its parameters abstract.
      params: its parameters.
      row: bytes of a row in training.
      rows: of a batch in training's evaluation: which words are hidden depends on the place in it.
    """

    def __init__(self, model: Any, params: Params, row: int, rows: int):
        self.row, self._rows = row, rows
        self._params = params
        self._step = jax.jit(make_eval_step(model))

    def evaluate(self, texts: Sequence[bytes | str]) -> dict[str, float]:
        """What training's evaluation says of these documents (`bytelm.training.evaluate.evaluate`).

        ``word_accuracy`` and its error, ``bits_per_byte`` of hidden bytes, and what they are of. Which words
        are hidden depends on their places in the rows alone. Raises ValueError where no text has a byte.
        """
        table = TableBuilder()
        for text in texts:
            table.add(as_bytes(text))
        documents = table.build("texts", "give one that is not empty")

        def costs_of(batch: Any) -> tuple[Any, ...]:
            return jax.tree.map(np.asarray, self._step(self._params, batch))

        return evaluate(costs_of, eval_rows(documents, rows=self._rows, length=self.row), len(documents))
