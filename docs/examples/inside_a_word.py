"""Trains a tiny word-pooled model and looks inside its words: python docs/examples/inside_a_word.py

Less than a minute on two cores, nothing to download. Run it in the repository's folder; the `# %%` lines are
cells for editors that know them.
"""

# %% [markdown]
# # Inside a word
# A word-pooled model reads words: a wide Transformer makes one step a word, and a narrow one spells the word
# byte by byte. Where words end is decided from the bytes alone, by a rule, so nothing is lost on the way.

# %%
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bytelm
from bytelm import words
from bytelm.data import Stdlib

RULE = words.rule("closing")
line = b"for key, value in sorted(table.items()):\n    print(key)\n"
print("words of the rule `closing`:", RULE.cut(line))
assert b"".join(RULE.cut(line)) == line  # the words joined are the text

# %% [markdown]
# ## Train
# The default config, made smaller: 120 steps of 1,024 bytes of Python's own standard library.

# %%
scratch = tempfile.TemporaryDirectory(prefix="inside_a_word-")  # gone when this ends
folder = Path(scratch.name)
small = "--training.steps 120 --data.row 512 --data.piece 512 --model.words 160 --samples.prompts"
small += " --evaluation.every 120 --evaluation.final-max-bytes 16384 --evaluation.no-marks"
subprocess.run([sys.executable, "train.py", "default", "--workdir", folder, *small.split()], check=True)
lm = bytelm.load(folder)

# %% [markdown]
# ## Bits by place in a word
# `score` gives log p of every byte of held-out files, in nats. A word's first byte says which word it is, and
# costs most; what follows is spelling.

# %%
held_out = Stdlib().open("valid")
texts = [held_out[i][:2000] for i in range(0, len(held_out), len(held_out) // 12)][:12]
bits = np.concatenate([-score_T[:-1] / np.log(2) for score_T in lm.score(texts)])
starts = np.concatenate([RULE.ended_before(text) | (np.arange(len(text)) == 0) for text in texts])
place = np.arange(len(starts)) - np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
print(f"\n{len(bits):,} bytes in {starts.sum():,} words, {bits.mean():.3f} bits per byte")
print("byte of a word   bytes   bits")
for k in range(8):
    print(f"{k + 1:>14}  {(place == k).sum():>6}  {bits[place == k].mean():>5.2f}")
assert bits.mean() < 8, "worse than knowing nothing"
assert bits[place == 0].mean() > bits[place >= 3].mean(), "a first byte should cost more than a fourth"

# %% [markdown]
# ## What single words cost

# %%
score_T = -lm.score([line])[0][:-1] / np.log(2)
ends = np.cumsum([len(word) for word in RULE.cut(line)])
print("\nword              bits   a byte")
for word, part in zip(RULE.cut(line), np.split(score_T, ends[:-1]), strict=True):
    print(f"{word.decode()!r:<16} {part.sum():>5.1f}   " + " ".join(f"{b:.1f}" for b in part))
assert np.isclose(sum(part.sum() for part in np.split(score_T, ends[:-1])), score_T.sum())
