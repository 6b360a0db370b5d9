"""Converts a tokenized model exactly, and shows what bias goes away: python docs/examples/exact_conversion.py

Less than a minute on two cores, nothing to download: it trains a small tokenizer and a small model first. Run
it in the repository's folder; the `# %%` lines are cells for editors that know them.
"""

# %% [markdown]
# # A model over tokens as a model over bytes
# Encode a prompt, ask for the next token: that is biased wherever the prompt ends inside a token of the text
# as a whole. After `impor` a tokenized model gives the `t` nearly nothing, for in training `import` was one
# token. Exact conversion sums over all tokens that may lie over the end of the prompt.

# %%
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bytelm
from bytelm.lm import END, LAW

# %% [markdown]
# ## A tokenizer and a model of its tokens

# %%
scratch = tempfile.TemporaryDirectory(prefix="exact_conversion-")  # gone when this ends
folder = Path(scratch.name)
small = "--data.tokenizer.size 1024 --training.steps 80 --data.row 256 --data.piece 512 --samples.prompts"
small += " --evaluation.every 80 --evaluation.final-max-bytes 16384 --evaluation.no-marks"
subprocess.run([sys.executable, "train.py", "bpe", "--workdir", folder, *small.split()], check=True)
lm = bytelm.load(folder)  # a ByteLM: 256 bytes and end of text, at every byte

# %% [markdown]
# ## Naive and exact, after every cut


# %%
def naive(text: bytes) -> np.ndarray:
    """The law [257] of the first byte of the next token after the encoding of the prompt."""
    tokens = [lm.bos, *lm.canonical.source.encode(text.decode())]
    law = np.zeros(LAW)
    for p, data in zip(
        np.exp(lm.token_lm.next_token_logprobs([tokens])[0]), lm.canonical.vocabulary.data, strict=False
    ):
        law[data[0] if data else END] += p
    return law / law.sum()


text = b"import os\n\n\nclass Reader:\n    def __init__(self, name):\n        self.name = name\n"
data = lm.canonical.vocabulary.data
tokens = lm.canonical.source.encode(text.decode())
ends = np.cumsum([len(data[token]) for token in tokens])
print("\ntokens:", [data[token].decode() for token in tokens])

laws_TV = np.exp(lm.laws([text])[0])
print("\nprompt ends with     next   p, naive   p, exact   distance")
gap: dict[bool, list[float]] = {False: [], True: []}
for at in range(1, len(text)):
    plain, exact, byte = naive(text[:at]), laws_TV[at], text[at]
    inside = at not in ends
    gap[inside].append(np.log2(exact[byte] / plain[byte]))
    if 44 <= at <= 60:
        distance = abs(exact - plain).sum() / 2
        print(f"{text[:at][-12:].decode()!r:<20} {chr(byte)!r:<6} {plain[byte]:>8.4f} {exact[byte]:>10.4f}"
              f" {distance:>10.3f}  {'inside a token' if inside else ''}")  # fmt: skip
print("\nbits that the naive law loses on the next byte:")
for where, lost in (("inside tokens", gap[True]), ("between tokens", gap[False])):
    print(f"  {where:<15} {np.mean(lost):>5.2f}, mean of {len(lost)} cuts")
assert np.mean(gap[True]) > 1, "inside a token the naive law should lose more than a bit"
assert np.mean(gap[True]) > 2 * np.mean(gap[False]), "and much more than between tokens"

# %% [markdown]
# ## It is one law
# A score is the sum of the next-byte laws, whatever way they are asked for; each law sums to one.

# %%
score = lm.score([text])[0]
stepwise = np.log([law[byte] for law, byte in zip(laws_TV, text, strict=False)])
state, pushed = lm.start([b""]), []
for byte in text[:20]:
    pushed.append(lm.next_logprobs(state)[0, byte])
    state = lm.push(state, [byte])
print(f"\nlog p of the text: {score[:-1].sum():.4f} nats in one pass, {stepwise.sum():.4f} by its laws")
print(f"of its first 20 bytes: {score[:20].sum():.4f}, and byte by byte {sum(pushed):.4f}")
assert np.allclose(score[:-1], stepwise, atol=1e-3)
assert np.allclose(score[:20], pushed, atol=1e-3)
assert np.allclose(laws_TV.sum(axis=1), 1, atol=1e-4)
