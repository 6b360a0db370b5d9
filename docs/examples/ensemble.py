"""Ensembles models whose vocabularies differ: python docs/examples/ensemble.py [MODEL MODEL]

Less than a minute on two cores: without MODELs it trains two, one over words of bytes and one over tokens.
With the folders of two models of stories it takes these, and stories. Run it in the repository's folder; the
`# %%` lines are cells for editors that know them.
"""

# %% [markdown]
# # An ensemble of a byte model and a tokenized one
# Both are a `ByteLM`: the same 257 columns, 256 bytes and end of text. So their laws can be mixed at every
# byte.

# %%
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bytelm
from bytelm.data import Stdlib

STORIES = [
    b"Once upon a time, there was a little girl named Lily. She had a red ball. One day she went to a park.",
    b"Tom had a big dog. The dog liked to run and play. One day, the dog ran away. Tom was very sad.",
]

# %%
names = sys.argv[1:]
if absent := [path for path in names if not Path(path).is_dir()]:
    sys.exit(f"no folder {', '.join(absent)}")
if names:
    texts, prompt = STORIES, b"Once upon a time"
else:
    scratch = tempfile.TemporaryDirectory(prefix="ensemble-")  # gone when this ends
    folder = Path(scratch.name)
    names = [str(folder / "words"), str(folder / "tokens")]
    both = "--data.piece 512 --samples.prompts --evaluation.final-max-bytes 8192 --evaluation.no-marks"
    words = f"default --training.steps 100 --data.row 512 --model.words 160 {both}"
    tokens = f"bpe --training.steps 80 --data.row 256 --data.tokenizer.size 1024 {both}"
    for name, flags in zip(names, (words, tokens), strict=True):
        subprocess.run([sys.executable, "train.py", *flags.split(), "--workdir", name], check=True)
    held_out = Stdlib().open("valid")
    texts = [held_out[i][:400] for i in range(0, len(held_out), len(held_out) // 8)][:8]
    texts, prompt = [t.decode("utf-8", "ignore").encode() for t in texts], b"def "

members = [bytelm.load(name) for name in names]

# %% [markdown]
# ## Bits per byte
# `mean` mixes the laws of the next byte; `bayes` mixes the laws of whole texts, so that the weights follow
# the member that predicted the text so far.

# %%
models = dict(zip((Path(name).name for name in names), members, strict=True))
models |= {rule: bytelm.Ensemble(members, rule=rule) for rule in ("mean", "bayes", "product")}
bits = {
    name: np.array([-score_T[:-1].sum() / np.log(2) for score_T in lm.score(texts)])
    for name, lm in models.items()
}
size = sum(map(len, texts))
print(f"\n{len(texts)} texts of {size:,} bytes in all\nmodel         bits per byte")
for name, bits_N in bits.items():
    print(f"{name:<18} {bits_N.sum() / size:>8.4f}")

first, second = (bits[Path(name).name] for name in names)
assert (bits["bayes"] <= np.minimum(first, second) + 1 + 1e-6).all(), "a text costs one bit more at most"
assert bits["mean"].sum() < max(first.sum(), second.sum()), "the mean beats the worse member"

# %% [markdown]
# ## An ensemble is a ByteLM
# It generates, scores, and may be a member of another ensemble.

# %%
(said,) = bytelm.generate(models["mean"], [prompt], max_bytes=60, temperature=0.8, seed=0)
print("\nit goes on:", prompt + said)
law_V = np.exp(models["mean"].next_logprobs(models["mean"].start([prompt]))[0])
each_KV = [np.exp(lm.next_logprobs(lm.start([prompt]))[0]) for lm in members]
assert np.allclose(law_V, np.mean(each_KV, axis=0), atol=1e-6)
