"""Bits per byte of held-out stories under every rule of an ensemble, against each of its members.

    python scripts/ensemble_stories.py MODEL MODEL [...] --out DIR [--stories FILE] [--count 40] [--bytes 600]

Texts are the paragraphs of --stories that are long enough and that all members find possible or, without it,
stories written by the members in turns, at temperature 1, cut where another finds a byte impossible. One half
(every other text) is for fitting: weights of `mean` by expectation and maximisation, which the other mixtures
take for their prior, exponents of `product`, and the rate of `switch`, the best of a grid. The other half is
measured. Writes ensembles.md, .json and .png to --out; stories.json there keeps the texts written, and is
read again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bytelm
from bytelm.ensemble import Ensemble
from bytelm.evals.weights import fit_mean, fit_product, going_on
from bytelm.lm import ByteLM

RATES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
OUTSIDE = "Lily said: “Let’s meet at the café” (she was très happy)."


class Once:
    """A member that is asked once for each list of texts, however many ensembles it is in."""

    def __init__(self, lm: ByteLM):
        self.lm, self.found = lm, {}

    def score(self, texts: Sequence[bytes], prompts=None) -> list[np.ndarray]:
        return self._once("score", texts)

    def laws(self, texts: Sequence[bytes], prompts=None) -> list[np.ndarray]:
        return self._once("laws", texts)

    def _once(self, what: str, texts: Sequence[bytes]) -> list[np.ndarray]:
        key = (what, *texts)
        if key not in self.found:
            self.found[key] = getattr(self.lm, what)(texts)
        return self.found[key]


def written(lms: Sequence[ByteLM], names: Sequence[str], count: int, length: int) -> list[tuple[str, bytes]]:
    """Stories of each model in turn, (origin, text), cut to what every member gives a probability."""
    found = []
    for k, lm in enumerate(lms):
        for i, text in enumerate(bytelm.generate(lm, [b""] * count, max_bytes=length, seed=k)):
            cuts = [np.isneginf(other.score([text])[0][:-1]) for other in lms]
            lost = np.flatnonzero(np.logical_or.reduce(cuts)) if text else [0]
            text = text[: lost[0]] if len(lost) else text
            if len(text) >= length // 4:
                found.append((f"{names[k]} {i}", text))
    return found


def paragraphs(lms: Sequence[ByteLM], path: Path, count: int, length: int) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for part in path.read_bytes().split(b"\n\n"):
        text = b" ".join(part.split())[:length]
        if len(text) < length // 4 or not text.isascii():
            continue
        if all(np.isfinite(lm.score([text])[0][:-1]).all() for lm in lms):
            found.append((path.name, text))
        if len(found) == count:
            break
    return found


def bits(lm: ByteLM, texts: Sequence[bytes]) -> np.ndarray:
    """Bits [N] of the bytes of each text, its end left out."""
    return np.array([-score_T[:-1].sum() / math.log(2) for score_T in lm.score(texts)])


def joined(lms: Sequence[ByteLM], texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    scores = [[score_T[:-1] for score_T in lm.score(texts)] for lm in lms]
    return np.stack([np.concatenate(s) for s in scores]), np.stack([going_on(s) for s in scores])


def fitted(lms: Sequence[ByteLM], texts: Sequence[bytes]) -> tuple[list[tuple[str, Ensemble]], np.ndarray]:
    """Ensembles by name, with what the texts chose for them; and the weights of the mixtures."""
    weights = fit_mean(*joined(lms, texts))
    laws = [lm.laws(texts) for lm in lms]
    law_KNV = np.stack([np.concatenate([law_TV[:-1] for law_TV in of_lm]) for of_lm in laws])
    exponents = fit_product(law_KNV, [symbol for text in texts for symbol in text])
    trials = [(bits(Ensemble(lms, "switch", weights, rate=rate), texts).sum(), rate) for rate in RATES]
    rate = min(trials)[1]
    shown = ", ".join(f"{w:.2f}" for w in weights)
    return [
        ("mean, alike", Ensemble(lms, "mean")),
        (f"mean, {shown}", Ensemble(lms, "mean", weights)),
        (f"bayes, {shown}", Ensemble(lms, "bayes", weights)),
        (f"switch, {shown}, rate {rate:g}", Ensemble(lms, "switch", weights, rate=rate)),
        ("product, alike", Ensemble(lms, "product")),
        (f"product, {', '.join(f'{w:.2f}' for w in exponents)}", Ensemble(lms, "product", exponents)),
    ], weights


def figures(rows: Sequence[tuple[str, np.ndarray]], sizes: np.ndarray, K: int) -> list[dict[str, Any]]:
    """Bits per byte, and the difference to the best member with its standard error over texts."""
    best = min(rows[:K], key=lambda row: row[1].sum())[1]
    found = []
    for name, bits_N in rows:
        gain_N, N = best - bits_N, len(sizes)
        gain = float(gain_N.sum() / sizes.sum())
        residual = gain_N - gain * sizes
        error = math.sqrt(N / (N - 1) * (residual**2).sum()) / float(sizes.sum())
        bits_ = float(bits_N.sum() / sizes.sum())
        found.append({"model": name, "bits_per_byte": bits_, "gain": gain, "error": error})
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    head = "| model | bits per byte | less than the best member, ± standard error |\n|---|---|---|"
    rows = [
        f"| {f['model']} | {f['bits_per_byte']:.4f} | {f['gain']:+.4f} ± {f['error']:.4f} |" for f in found
    ]
    return "\n".join([head, *rows])


def plot(path: Path, lms: Sequence[ByteLM], names: Sequence[str], texts: Sequence[bytes], weights) -> None:
    """The curve of `mean` against the first member's weight, the others in their fitted proportion."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    score_KN, _ = joined(lms, texts)
    rest = weights[1:] / weights[1:].sum() if weights[1:].sum() else np.full(len(lms) - 1, 1 / (len(lms) - 1))
    share = np.linspace(0, 1, 41)
    mixed = [np.array([s, *((1 - s) * rest)]) @ np.exp(score_KN) for s in share]
    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    axes.plot(share, [-np.log2(m).mean() for m in mixed], color="#0072B2", label="mean")
    axes.axvline(
        weights[0], color="#D55E00", linestyle="--", label=f"fitted on other texts: {weights[0]:.2f}"
    )
    axes.set_xlabel(f"weight of {names[0]}")
    axes.set_ylabel("bits per byte of held-out texts")
    axes.set_title("The mean of models whose vocabularies differ")
    axes.grid(alpha=0.3)
    axes.legend()
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--count", type=int, default=40, help="texts of each origin")
    parser.add_argument("--bytes", type=int, default=600, help="of a text at most")
    options = parser.parse_args()
    names, lms = [Path(path).name for path in options.models], [bytelm.load(path) for path in options.models]
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "stories.json"
    if options.stories is not None:
        texts = paragraphs(lms, options.stories, options.count, options.bytes)
    elif kept.is_file():
        texts = [(origin, text.encode("latin-1")) for origin, text in json.loads(kept.read_text())]
    else:
        texts = written(lms, names, options.count, options.bytes)
        kept.write_text(json.dumps([(origin, text.decode("latin-1")) for origin, text in texts], indent=1))
    lms = [Once(lm) for lm in lms]
    fit, held = [text for _, text in texts[::2]], [text for _, text in texts[1::2]]
    origin_N = np.array([origin.split()[0] for origin, _ in texts[1::2]])
    ensembles, weights = fitted(lms, fit)
    sizes = np.array([len(text) for text in held])
    rows = [(name, bits(lm, held)) for name, lm in [*zip(names, lms, strict=True), *ensembles]]
    parts = [
        f"{len(fit)} texts of {sum(map(len, fit)):,} bytes to fit, {len(held)} of {sizes.sum():,} held out."
    ]
    record = {
        "fitted": len(fit),
        "texts": len(held),
        "bytes": int(sizes.sum()),
        "held_out": figures(rows, sizes, len(lms)),
    }
    parts.append(table(record["held_out"]))
    origins = list(dict.fromkeys(origin_N.tolist()))
    for origin in origins if len(origins) > 1 else []:
        of_N = origin_N == origin
        parts.append(f"Of these, from {origin} ({of_N.sum()} texts, {sizes[of_N].sum():,} bytes):")
        parts.append(table(figures([(name, bits_N[of_N]) for name, bits_N in rows], sizes[of_N], len(lms))))
    outside = OUTSIDE.encode()
    parts.append(f"Outside some alphabets: {OUTSIDE}")
    lines = ["| model | bits per byte | first impossible byte |", "|---|---|---|"]
    for name, lm in [*zip(names, lms, strict=True), *ensembles]:
        score_T = lm.score([outside])[0]
        lost = np.flatnonzero(np.isneginf(score_T[:-1]))
        at = f"{lost[0]} ({outside[: lost[0] + 3].decode('utf-8', 'ignore')[-1]})" if len(lost) else "none"
        lines.append(f"| {name} | {-score_T[:-1].sum() / math.log(2) / len(outside):.4f} | {at} |")
    parts.append("\n".join(lines))
    report = "\n\n".join(parts) + "\n"
    (options.out / "ensembles.md").write_text(report)
    (options.out / "ensembles.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(options.out / "ensembles.png", lms, names, held, weights)
    print(report)


if __name__ == "__main__":
    main()
