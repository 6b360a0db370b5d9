"""Token models that are not ours: any causal model of `transformers`, and any function.

Both are the least that `bytelm.exact.convert` asks for, a `TokenLM`: one law for each context, nothing
cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class FunctionLM:
    """A `TokenLM` around ``law(contexts) -> [N, V]``, log probabilities of the token after each context.

    `context` is the most tokens that the function takes, None for any number.
    """

    def __init__(
        self,
        law: Callable[[Sequence[Sequence[int]]], Any],
        vocab_size: int,
        context: int | None = None,
    ):
        self.law, self.vocab_size, self.context = law, vocab_size, context

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """`[N, V]`. Raises ValueError for a context that cannot be, or what is no law."""
        _check(contexts, self.vocab_size, self.context)
        found_NV = np.asarray(self.law(contexts))
        if found_NV.shape != (len(contexts), self.vocab_size):
            raise ValueError(
                f"the function gave {found_NV.shape} for {len(contexts)} contexts over "
                f"{self.vocab_size} tokens, not {(len(contexts), self.vocab_size)}"
            )
        if np.isnan(found_NV).any():
            raise ValueError("the function gave NaN")
        return found_NV


class TorchLM:
    """A `TokenLM` around a causal model of `transformers` (the ``torch`` extra), for families not ours.

    Args:
      model: an instance, or a folder or name for ``AutoModelForCausalLM.from_pretrained``; of a folder
        only safetensors are read and no code in it is run.
      rows: contexts in one batch.
    """

    def __init__(self, model: Any, rows: int = 16):
        import torch

        if isinstance(model, str) or hasattr(model, "__fspath__"):
            import transformers

            model = transformers.AutoModelForCausalLM.from_pretrained(
                model, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        self.model, self.rows = model.eval(), rows
        config = model.config.get_text_config()
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.context: int | None = getattr(config, "max_position_embeddings", None)

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 `[N, V]`. Raises ValueError for a context that cannot be."""
        import torch

        _check(contexts, self.vocab_size, self.context)
        found_NV = np.zeros((len(contexts), self.vocab_size), np.float32)
        order = sorted(range(len(contexts)), key=lambda n: len(contexts[n]))
        device = next(self.model.parameters()).device
        for first in range(0, len(order), self.rows):
            chosen = order[first : first + self.rows]
            longest = max(len(contexts[n]) for n in chosen)
            tokens_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
            for b, n in enumerate(chosen):  # padded at the end: a causal model does not look there
                tokens_BT[b, : len(contexts[n])] = torch.as_tensor(contexts[n])
            with torch.inference_mode():
                logits_BTV = self.model(tokens_BT.to(device), use_cache=False).logits
                last_B = torch.tensor([len(contexts[n]) - 1 for n in chosen], device=device)
                logits_BV = logits_BTV[torch.arange(len(chosen), device=device), last_B].float()
                found_NV[chosen] = torch.log_softmax(logits_BV, dim=-1).cpu().numpy()
        return found_NV


def _check(contexts: Sequence[Sequence[int]], vocab_size: int, most: int | None) -> None:
    for n, context in enumerate(contexts):
        if not len(context):
            raise ValueError(f"context {n} is empty: begin it with the model's first token")
        if most is not None and len(context) > most:
            raise ValueError(f"context {n} has {len(context)} tokens; the model sees {most}")
        if not 0 <= min(context) <= max(context) < vocab_size:
            raise ValueError(f"context {n}: the model's tokens are 0..{vocab_size - 1}")
