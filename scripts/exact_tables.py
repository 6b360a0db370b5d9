"""The tables of docs/exact.md: how the definitions differ on real models, and live segmentations.

    python scripts/exact_tables.py --models DIR [DIR ...] --tokenizers PATH [PATH ...] [--text FILE] \
        [--json OUT]

MODELS are Hugging Face folders. The story is written here; its words are those of the small story models.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bytelm import hub
from bytelm.exact import Unsupported, canonical_of, convert
from bytelm.exact.tree import Tree
from bytelm.lm import END, LAW

STORY = (
    b"Once upon a time, there was a little girl named Lily. She had a red ball. One day, Lily went to the "
    b"park with her mom. She saw a big dog. The dog wanted to play with the ball. Lily threw the ball and "
    b'the dog ran after it. "Thank you," said the dog. Lily was very happy.'
)
PROMPT = b"Once upon a time, there was a little girl named Lily. She loved to play"
MIXED = (
    "def f(x):\n    return   x[10]  # it's 1234567 or 12 345 678 901\n\n\n        if  a:\n\t\tb  \n"
    "naïve café, "
    "中文字 한국어 हिन्दी العربية 😀👩‍👩‍👧 e\u0301   \u00a0 we've  'll 'LL 1st 2nd 99999999\r\n\r\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--tokenizers", nargs="*", default=[])
    parser.add_argument("--text", help="a text file for live segmentations, beside the lines that are here")
    parser.add_argument("--K", type=int, default=32)
    parser.add_argument("--eps", type=float, default=1e-4)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found: dict[str, Any] = {"bytes": len(STORY), "models": {}, "tokenizers": {}}
    for path in options.models:
        lm, folder = hub.read(path)
        if folder.bos is None:
            raise ValueError(f"{path}: no token begins a text")
        figures = definitions(path, lm, folder, options)
        found["models"][Path(path).name] = {"definitions": figures, "cuts": cuts(path, lm, folder)}
    if options.tokenizers:
        print("\n| tokenizer | tokens | nodes a byte | nodes a byte, awkward text | most at one byte |")
        print("|---|---|---|---|---|")
    for path in options.tokenizers:
        found["tokenizers"][path] = segmentations(path, options.text)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def definitions(path: str, lm: Any, folder: Any, options: argparse.Namespace) -> dict[str, float]:
    """Bits per byte of the story, without its end, by definition; what does not leak; bounds and estimate."""

    def converted(**how: Any) -> Any:
        return convert(lm, str(folder.tokenizer), bos=folder.bos, eos=folder.eos, **how)

    def bits(nats: float) -> float:
        return -float(nats) / len(STORY) / math.log(2)

    local, joint = converted(), converted(normalise="joint")
    every = converted(support="all", K=options.K, eps=options.eps)
    scores = {
        name: model.score([STORY])[0][:-1].sum() for name, model in (("local", local), ("joint", joint))
    }
    leak = leaked(joint, STORY)
    (found,) = every.bounds([STORY], samples=options.samples)
    no_end = convert(lm, str(folder.tokenizer), bos=folder.bos, support="all", K=options.K, eps=options.eps)
    (sampled,) = no_end.bounds([STORY], samples=options.samples)
    error = sampled.error / len(STORY) / math.log(2)
    figures = {
        **{"local": bits(scores["local"]), "joint": bits(scores["joint"])},
        **{"as it is": bits(scores["joint"] + leak), "kept": math.exp(leak)},
        **{"all, at least": bits(found.upper[-2]), "all, at most": bits(found.lower[-2])},
        **{"all, estimated": bits(sampled.estimate), "error": float(error)},
    }
    print(f"\n{Path(path).name}: {len(STORY)} bytes\n\n| definition | bits per byte |\n|---|---|")
    print(f"| canonical, local | {figures['local']:.4f} |")
    print(f"| canonical, joint, laws divided by their sums | {figures['joint']:.4f} |")
    print(f"| canonical, joint, as it is ({figures['kept']:.3g} of it kept) | {figures['as it is']:.4f} |")
    certain = f"{figures['all, at least']:.4f} to {figures['all, at most']:.4f}"
    print(f"| all, certified (K = {options.K}, eps = {options.eps:g}) | {certain} |")
    print(f"| all, estimated ({options.samples} samples) | {figures['all, estimated']:.4f} ± {error:.4f} |")
    return figures


def leaked(lm: Any, text: bytes) -> float:
    """The sum over the bytes of a text of log(1 - leak): what dividing laws by their sums gave away."""
    state, total = lm.start([b""]), 0.0
    for byte in text:
        total += float(np.log1p(-lm.leak(state)[0]))
        state = lm.push(state, [byte])
    return total


def naive(lm: Any, canonical: Any, folder: Any, text: bytes) -> np.ndarray:
    """The law `[257]` of the first byte of the next token, after the encoding of the text."""
    p = np.exp(
        np.asarray(lm.next_token_logprobs([[folder.bos, *canonical.source.encode(text.decode())]]), float)[0]
    )
    law = np.zeros(LAW)
    data = canonical.vocabulary.data
    for token, share in enumerate(p):
        law[data[token][0] if token < len(data) and data[token] else END] += share
    return law / law.sum()


def cuts(path: str, lm: Any, folder: Any) -> list[dict[str, Any]]:
    """The law of the next byte after every cut of the prompt's last words: exact, and naive."""
    canonical = canonical_of(str(folder.tokenizer))
    models = [
        convert(lm, canonical, bos=folder.bos, eos=folder.eos, normalise=normalise)
        for normalise in ("local", "joint")
    ]
    start = len(PROMPT) - len(b" loved to play")
    print(f"\n{Path(path).name}: next byte\n")
    print("| prompt ends with | next | exact, local | exact, joint | naive | naive's likeliest | distance |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for at in range(start, len(PROMPT)):
        text, byte = PROMPT[:at], PROMPT[at]
        local, joint = (np.exp(m.next_logprobs(m.start([text]))[0]) for m in models)
        plain = naive(lm, canonical, folder, text)
        top = int(plain.argmax())
        shown = "end" if top == END else repr(chr(top))
        exact = f"{local[byte]:.4f} | {joint[byte]:.4f}"
        distance = float(abs(local - plain).sum() / 2)
        print(
            f"| `{text[-8:].decode()}` | {chr(byte)!r} | {exact} | {plain[byte]:.4f} "
            f"| {shown} {plain[top]:.2f} | {distance:.3f} |"
        )
        said = {
            "text": text[-8:].decode(),
            "next": chr(byte),
            "likeliest, naive": shown,
            "distance": distance,
        }
        found.append(
            {**said, **{k: float(x[byte]) for k, x in (("exact", local), ("joint", joint), ("naive", plain))}}
        )
    return found


def segmentations(path: str, text: str | None) -> dict[str, Any]:
    """Nodes a byte, and the most at one byte, of ordinary and of awkward text."""
    name = Path(path).parent.name if Path(path).suffix == ".json" else Path(path).name
    try:
        canonical = canonical_of(path)
    except Unsupported as error:
        print(f"| {name} | refused: {error} | | | |")
        return {"name": name, "refused": str(error)}
    whole = Path(text).read_text(encoding="utf-8")[:20_000] if text else STORY.decode()
    shares, most = [], 0
    for sample in (whole, MIXED * 3):
        tree = Tree(canonical)
        # What the tokenizer cannot spell ends a tree; lines are trees of their own.
        nodes = size = 0
        for line in sample.splitlines(keepends=True) if canonical.source.dummy else [sample]:
            tree = Tree(canonical)
            tree.extend(line.encode())
            alive = [len(at) for at in tree.at[1 + tree.lead :]]
            nodes, size, most = nodes + sum(alive), size + len(alive), max(most, *alive)
        shares.append(nodes / size)
    tokens = len(canonical.vocabulary.rows)
    print(f"| {name} | {tokens:,} | {shares[0]:.3f} | {shares[1]:.3f} | {most} |")
    return {"name": name, "tokens": tokens, "nodes": shares[0], "nodes, awkward": shares[1], "most": most}


if __name__ == "__main__":
    main()
