"""Tokenization bias, measured: bits of the true rest and what comes next, by where a text is cut in a token.

    python scripts/fim_bias.py MODEL --texts FILE [FILE ...] [--order spm|psm] [--cuts 40] [--json OUT]

Texts are cut at every offset of tokens drawn from their own encodings: offset 0 is a token boundary, offset
k lies k bytes into a token. Left to right the model is given what is before the cut; with --order the text
after a middle of --middle bytes is the suffix of a fill-in-the-middle prompt. For each cut and each of the
methods `token`, `healing` and `exact` it takes the bits of the true continuation and its end (left to right
the rest of the text), and whether the next --next bytes that the method says (greedily) are the true ones.
Means with 95 % intervals over cuts, by offset; differences are paired. Where --texts is left out --made N
stories are sampled from --from MODEL.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bytelm
from bytelm.evals.prompts import family_of
from bytelm.evals.similarity import mean_interval
from bytelm.exact.prompted import complete, encoded, nats

METHODS = ("token", "healing", "exact")
LAST = 6  # offsets from here on are one row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--texts", nargs="*", default=[], help="files; each is one text")
    parser.add_argument("--from", dest="source", help="the model that stories are sampled from")
    parser.add_argument("--made", type=int, default=8)
    parser.add_argument("--order", choices=("psm", "spm"), help="fill in the middle (default: left to right)")
    parser.add_argument("--cuts", type=int, default=40, help="tokens that are cut, each at all its offsets")
    parser.add_argument("--middle", type=int, default=40)
    parser.add_argument("--before", type=int, default=400, help="bytes before the cut, and after the middle")
    parser.add_argument("--next", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    lm = bytelm.load(args.model)
    if not hasattr(lm, "canonical"):
        parser.error(f"{args.model}: reads bytes; the bias is one of tokens")
    texts = [Path(path).read_bytes() for path in args.texts] or made(args)
    cuts = cut(lm, texts, args)
    found = measured(lm, cuts, args)
    print(report(found, args))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def made(args: argparse.Namespace) -> list[bytes]:
    """Stories sampled from the other model, cut at their last sentence."""
    source = bytelm.load(args.source or args.model)
    stories = bytelm.generate(
        source, [b"Once upon a time"] * args.made, max_bytes=400, mode="boundary", seed=args.seed
    )
    return [b"Once upon a time" + story[: story.rfind(b".") + 1] for story in stories]


# ---- cuts ----------------------------------------------------------------------------------------------


def cut(lm: Any, texts: Sequence[bytes], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prompts and true continuations, at every offset of tokens of two bytes or more."""
    data = lm.canonical.vocabulary.data
    family = None if args.order is None else family_of(lm.canonical.vocabulary.special)
    random, places = np.random.default_rng(args.seed), []
    for number, text in enumerate(texts):
        before = encoded(lm, [text])
        lead, at = int(lm.canonical.source.dummy), 0
        for token in before.tokens[before.open_ :]:
            size = len(data[token])
            start, at = at, at + size
            # Between characters only: a prompt is text.
            inside = all(text[start - lead + k] & 0xC0 != 0x80 for k in range(size) if start - lead + k >= 0)
            if size >= 2 and inside and start - lead >= 16 and at + 16 <= len(text):
                places.append((number, start - lead, size))
    if not places:
        raise SystemExit("the texts have no token to cut: they are too short")
    chosen = random.permutation(len(places))[: args.cuts]
    found = []
    for number, start, size in (places[i] for i in chosen):
        for offset in range(size):
            here, text = start + offset, texts[number]
            before = _whole(text[max(0, here - args.before) : here])
            if family is None:
                prompt, rest = [before], text[here:]
            else:
                rest = _whole(text[here : here + args.middle])
                suffix = _whole(text[here + len(rest) : here + len(rest) + args.before])
                prompt = family.prompt(before, suffix, args.order)
            found.append(
                {
                    "cluster": f"{number}:{start}",
                    "offset": offset,
                    "size": size,
                    "prompt": prompt,
                    "rest": rest,
                }
            )
    return found


def _whole(text: bytes) -> bytes:
    """Without the end of a character at its start."""
    return text.decode("utf-8", "ignore").encode()


def measured(lm: Any, cuts: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Bits and hits of every cut and method."""
    prompts = [c["prompt"] for c in cuts]
    bits = {
        method: [nats(lm, c["prompt"], c["rest"], method) for c in cuts] for method in ("token", "healing")
    }
    bits["exact"] = []
    for first in range(0, len(cuts), 32):
        part = cuts[first : first + 32]
        scores = lm.score([c["rest"] for c in part], [c["prompt"] for c in part])
        bits["exact"] += [-float(score.sum()) for score in scores]
    said = {}
    for method in ("token", "healing"):
        settings = {"max_bytes": [args.next] * len(cuts), "seeds": [0] * len(cuts)}
        said[method] = [text for text, _ in complete(lm, prompts, method, **settings)]
    said["exact"] = bytelm.generate(lm, prompts, max_bytes=args.next, mode="boundary", token_temperature=0)
    return [
        {
            **{name: c[name] for name in ("cluster", "offset", "size")},
            "bytes": len(c["rest"]),
            **{f"bits {m}": bits[m][i] / np.log(2) for m in METHODS},
            **{f"hit {m}": said[m][i] == c["rest"][: args.next] for m in METHODS},
        }
        for i, c in enumerate(cuts)
    ]


# ---- the table -----------------------------------------------------------------------------------------


def report(found: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    rows = [
        (
            "cut",
            *(f"{m}, bits" for m in METHODS),
            "token - exact",
            "healing - exact",
            *(f"{m}, %" for m in METHODS),
        )
    ]
    groups: list[tuple[str, list[dict[str, Any]]]] = [
        (f"{k} bytes in" if k else "between tokens", [f for f in found if f["offset"] == k])
        for k in range(LAST)
    ]
    groups.append((f"{LAST} or more in", [f for f in found if f["offset"] >= LAST]))
    groups.append(("inside a token", [f for f in found if f["offset"]]))
    groups.append(("all offsets", list(found)))
    for name, some in groups:
        if some:
            rows.append((f"{name} ({len(some)})", *_row(some)))
    lost = sum(np.isinf(f[f"bits {m}"]) for f in found for m in METHODS)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    kind = "left to right" if args.order is None else args.order
    lines.append(
        f"{kind}; bits of the true continuation of {np.mean([f['bytes'] for f in found]):.0f} bytes and"
    )
    lines.append(f"its end; per cent of the next {args.next} bytes exactly right, greedily; 95 % intervals")
    if lost:
        lines.append(f"impossible under a method, and left out of its bits: {lost}")
    return "\n".join(lines)


def _row(some: Sequence[dict[str, Any]]) -> list[str]:
    def shown(values: Sequence[float], clusters: Sequence[str], share: bool = False) -> str:
        if not values:
            return "-"
        mean, low, high = mean_interval(values, clusters, share)
        scale = 100 if share else 1
        if not np.isfinite(low):  # one cluster has no interval
            return f"{scale * mean:.1f}"
        return f"{scale * mean:.1f} [{scale * low:.1f}, {scale * high:.1f}]"

    def of(value: Any) -> str:
        kept = [(v, f["cluster"]) for f in some if np.isfinite(v := value(f))]
        return shown([v for v, _ in kept], [c for _, c in kept])

    return [
        *(of(lambda f, m=m: f[f"bits {m}"]) for m in METHODS),
        of(lambda f: f["bits token"] - f["bits exact"]),
        of(lambda f: f["bits healing"] - f["bits exact"]),
        *(shown([float(f[f"hit {m}"]) for f in some], [f["cluster"] for f in some], True) for m in METHODS),
    ]


if __name__ == "__main__":
    main()
