"""What noise does to runs: accuracy of classifiers or of models of hidden words, or bits per byte of language
models, by kind and rate.

    python scripts/noise_curve.py RUN [RUN ...] --data FILE [FILE ...] [--rates 0 0.05 0.1 0.2] [--out noise]

RUNs are all of one kind: classifiers, and the files JSON lines with a text and a label; models of hidden
words (byte2word_mlm, bert_bpe), whose hidden words noise changes as it does the others; or language models,
anything that `bytelm.load` reads. For the last two the files are any text. All see the same noisy texts
(bytelm/evals/noise.py). Writes OUT/noise.md, .json, .png and .svg, and prints the first: what
noise leaves of the clean figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common.drawing import curves
from tqdm import tqdm

import bytelm
from bytelm import config as configs
from bytelm.data import ByteCoding, Files, Fim, LabelCoding
from bytelm.evals.bits import bits_per_byte
from bytelm.evals.classify import classified
from bytelm.evals.noise import KINDS, Noise, noisy
from bytelm.load import load_classifier, load_masked
from bytelm.models import ClassifierConfig, is_causal


@dataclass(frozen=True)
class Point:
    """One figure of a run under one noise, with its 95 % interval."""

    run: str
    kind: str
    rate: float
    value: float
    low: float
    high: float
    nats_per_label: float | None = None


CLASSIFIER, MASKED, CAUSAL = "a classifier", "a model of hidden words", "a language model"
FIGURES = {
    CLASSIFIER: "accuracy",
    MASKED: "accuracy on hidden words",
    CAUSAL: "bits per byte",
}  # fmt: skip

Measure = Callable[[Sequence[bytes]], tuple[float, float, float, float | None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--field", default="text", help="of a JSON line: the text")
    parser.add_argument("--label", default="label", help="of a JSON line: the label, for classifiers")
    parser.add_argument("--documents", type=int, help="the first so many only")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=Path("noise"))
    args = parser.parse_args()
    if args.documents is not None and args.documents < 1:
        parser.error(f"--documents must be 1 or more, not {args.documents}")
    try:
        noises = [Noise(kind, rate) for kind in args.kinds for rate in sorted({0.0, *args.rates})]
        kind = kind_of(args.runs)
        label = args.label if kind == CLASSIFIER else None
        source = Files(train=tuple(args.data), field=args.field, label=label)
        documents = source.open("train")
        texts = [documents[i] for i in range(len(documents))][: args.documents]
        measures = {str(run): measure_of(run, documents, kind) for run in args.runs}
        points = curve(measures, texts, noises, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        sys.exit(f"noise_curve.py: error: {error}")
    figure = FIGURES[kind]
    about = {"figure": figure, "data": args.data, "documents": len(texts), "seed": args.seed}
    record = {**about, "points": [asdict(point) for point in points]}
    (args.out / "noise.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(points, figure, len(texts), sum(map(len, texts)))
    (args.out / "noise.md").write_text(text)
    plot(points, figure, args.out / "noise.png")
    print(text)


def kind_of(runs: Sequence[Path]) -> str:
    """What the runs are, of `FIGURES`. Raises ValueError where they are not all one."""
    found = []
    for run in runs:
        path = run / "config.json"
        described: Any = json.loads(path.read_text()) if path.is_file() else {}
        ours = isinstance(described, dict) and described.get("type") == "Config"
        model = configs.read(path).model if ours else None
        if isinstance(model, ClassifierConfig):
            found.append(CLASSIFIER)
        else:
            found.append(CAUSAL if model is None or is_causal(model) else MASKED)
    for run, kind in zip(runs, found, strict=True):
        if kind != found[0]:
            raise ValueError(f"{runs[0]} is {found[0]}, {run} is {kind}")
    return found[0]


def measure_of(run: Path, documents: Any, kind: str) -> Measure:
    """What a run makes of noisy texts of `documents`: a figure, its interval, and nats a label."""
    if kind == CLASSIFIER:
        classifier = load_classifier(run)
        LabelCoding(ByteCoding(Fim()), classifier.labels).check(documents)
        number = {label: i for i, label in enumerate(classifier.labels)}
        labels_N = np.array([number[label.value] for label in documents.labels])

        def accuracy(texts: Sequence[bytes]) -> tuple[float, float, float, float | None]:
            found = classified(classifier.law(texts), labels_N[: len(texts)])
            return found.accuracy, *found.interval, found.nats_per_label

        return accuracy
    if kind == MASKED:
        masked = load_masked(run)

        def found_out(texts: Sequence[bytes]) -> tuple[float, float, float, float | None]:
            found = masked.evaluate(texts)
            value, half = found["word_accuracy"], 1.96 * found["word_accuracy_error"]
            if not half >= 0:  # NaN
                raise ValueError(f"{found['words']} words hidden in fewer than two rows; give more text")
            return value, max(0.0, value - half), min(1.0, value + half), None

        return found_out
    lm = bytelm.load(run)

    def bits(texts: Sequence[bytes]) -> tuple[float, float, float, float | None]:
        found = bits_per_byte(lm, texts)
        value = found.bits_per_byte
        if value is None:
            raise ValueError("the noise leaves no byte to score; choose lower rates")
        half = 1.96 * (found.standard_error or 0.0)
        return value, value - half, value + half, None

    return bits


def curve(
    measures: dict[str, Measure], texts: Sequence[bytes], noises: Sequence[Noise], seed: int
) -> list[Point]:
    """Every run under every noise; all see the same texts, and the clean ones are measured once."""
    points, clean = [], {}
    # disable=None: no bar unless standard error is a terminal.
    for noise in tqdm(noises, disable=None):
        changed = [noisy(text, [noise], seed=seed, index=i) for i, text in enumerate(texts)]
        for run, measure in measures.items():
            if noise.rate == 0.0 and run not in clean:
                clean[run] = measure(texts)
            found = clean[run] if noise.rate == 0.0 else measure(changed)
            points.append(Point(run, noise.kind, noise.rate, *found))
    return points


def table(points: Sequence[Point], figure: str, documents: int, size: int) -> str:
    """Markdown: a line a run and kind, a column a rate; in brackets the difference from the clean texts."""
    rates = sorted({point.rate for point in points})
    at = {(point.run, point.kind, point.rate): point for point in points}
    head = ["run", "noise", *(f"{rate:.0%}" for rate in rates)]
    lines = [head, ["---"] * len(head)]
    for run, kind in dict.fromkeys((point.run, point.kind) for point in points):
        clean = at[run, kind, 0.0]
        lines.append([run, kind, *(_cell(at[run, kind, rate], clean, figure) for rate in rates)])
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{figure} of {documents:,} documents, {size:,} bytes, with 95 % intervals\n\n{rows}\n"


def share(figure: str) -> bool:
    """Whether a figure is one, and no number of bits."""
    return figure != FIGURES[CAUSAL]


def _cell(point: Point, clean: Point, figure: str) -> str:
    shown = (lambda x: f"{x:.1%}") if share(figure) else (lambda x: f"{x:.3f}")
    text = f"{shown(point.value)} ({shown(point.low)} to {shown(point.high)})"
    if point.rate:
        costs = point.value - clean.value
        text += f" [{100 * costs:+.1f}]" if share(figure) else f" [{costs:+.3f}]"
    return text


def plot(points: Sequence[Point], figure: str, path: Path) -> None:
    """A panel a kind, a line a run; .png and .svg."""
    panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    runs = dict.fromkeys(p.run for p in points)
    short = {run: Path(run).name for run in runs}
    names = short if len(set(short.values())) == len(runs) else {run: run for run in runs}
    for p in points:
        line = panels.setdefault(p.kind, {}).setdefault(names[p.run], [])
        line.append((100 * p.rate, p.value, p.low, p.high))
    drawn = curves(
        f"{figure.capitalize()} under noise, with 95 % intervals", "% of characters", figure, panels
    )
    for suffix in (".png", ".svg"):
        drawn.savefig(path.with_suffix(suffix), dpi=120)


if __name__ == "__main__":
    main()
