"""Configs against each other at equal seconds and at equal FLOPs."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from common.drawing import COLOURS, DASHES, MARKERS, decades, figure, interval, table
from reporting.plan import Command, Found, Section, Settings, excerpt, script

# As deep and wide as the word level of the default. Its steps are dear, and at these budgets their number is
# what it learns by: twice as many of half the rows are better, other rates of learning are not.
FLAT = "flat --model.width 192 --model.heads 3 --model.window None --training.rows 1"
WINDOWED = "flat"
HEADLINE = {
    FLAT: "flat",
    WINDOWED: "windowed flat",
    "default": "word-pooled",
    "byte2word": "Byte2Word, causal",
    "bpe": "BPE, 8,192",
    "paper_small": "Learn Your Tokens",
}
FLATS = ("flat", "windowed flat")  # what the word-pooled model is held against
BOUNDED = ("BPE, 8,192", "Learn Your Tokens")  # whose bits per byte are bounds
CORPORA = {"books": "English books", "python": "Python"}
BOOKS = ("text/books/train.jsonl.gz", "text/books/test.jsonl.gz")
SECONDS, FLOPS = (300.0, 4.0), (1e13, 4e10)  # of a run: full, quick
EVAL_BYTES, WORD_BYTES = (131_072, 8192), (32_768, 1024)  # held out
PART = 4096  # of a held-out book, before the next book's turn
QUICK = "--data.row 256 --data.piece 256 --evaluation.rows 4"
# In rows of 256 bytes the models of words need fewer of them.
SMALL = {
    "default": " --model.words 96",
    "byte2word": " --model.words 96",
    "paper_small": " --model.words 128",
}


def spec(config: str, settings: Settings) -> str:
    return config + SMALL.get(config.split()[0], "") if settings.quick else config


def source(corpus: str, settings: Settings) -> str:
    """The documents of a comparison, as compare.py takes them."""
    if settings.quick:
        return f"files --data.source.paths {settings.work / corpus / 'text.txt'} --data.source.split tail"
    if corpus == "python":
        return "default"
    held_out = settings.work / corpus / "held_out.jsonl"
    return f"files --data.source.train {settings.at(BOOKS[0])} --data.source.valid {held_out}"


def text(corpus: str, settings: Settings) -> list[Command]:
    """What writes the documents of a comparison, where they are not read as they are.

    For a quick one a little text: of more, tokenizers would take longest. Of the held-out books parts in
    turn: the first bytes alone would be of three books.
    """
    folder = settings.work / corpus
    if settings.quick:
        origin = "stdlib" if corpus == "python" else settings.at(BOOKS[0])
        return [excerpt("text", origin, folder / "text.txt", 400_000)]
    return (
        []
        if corpus == "python"
        else [held_out(folder / "held_out.jsonl", EVAL_BYTES[0], settings, piece=PART)]
    )


def held_out(out: Path, size: int, settings: Settings, **piece: int) -> Command:
    """What writes parts of all held-out books: documents of at most `piece` bytes, or one text without."""
    return excerpt("held_out", settings.at(BOOKS[1]), out, size, in_turn=PART, **piece)


def compare(
    name: str, out: Path, configs: list[str], corpus: str, settings: Settings, **options: object
) -> Command:
    flags = [
        part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", *_several(value))
    ]
    if settings.quick:
        flags += ["--flags", QUICK]
    return script(
        name, "compare.py", *(spec(config, settings) for config in configs), "--source",
        source(corpus, settings), *flags, "--jobs", settings.jobs, "--out", out,
    )  # fmt: skip


def _several(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text())


def run_folder(settings: Settings, config: str, corpus: str = "books") -> str:
    """The run of `config` with the first seed of the comparison at equal seconds."""
    from comparison.runs import slug

    name = f"{slug(spec(config, settings))}-{settings.of(*SECONDS):g}-seed0"
    return str(settings.work / corpus / "seconds" / "runs" / name)


# ---- the headline --------------------------------------------------------------------------------------


def headline(corpus: str, settings: Settings) -> list[Command]:
    folder, configs = settings.work / corpus, list(HEADLINE)
    seeds = settings.of([0, 1, 2], [0])
    same = {
        "points": settings.of(5, 2),
        "eval_bytes": settings.of(*EVAL_BYTES),
        "word_bytes": settings.of(*WORD_BYTES),
        "timings": settings.of(3, 1),
    }
    by_seconds = compare("seconds", folder / "seconds", configs, corpus, settings,
                         seconds=settings.of(*SECONDS), seeds=seeds, **same)  # fmt: skip
    by_flops = compare("flops", folder / "flops", configs, corpus, settings, flops=settings.of(*FLOPS),
                       seeds=seeds if corpus == "books" else [0], **{**same, "word_bytes": 0})  # fmt: skip
    return [*text(corpus, settings), by_seconds, by_flops]


def gather_headline(corpus: str, settings: Settings) -> Found:
    names = {spec(config, settings): name for config, name in HEADLINE.items()}
    at = {unit: read(settings.work / corpus / unit) for unit in ("seconds", "flops")}
    summed = {unit: {names[s["config"]]: s for s in found["summary"]} for unit, found in at.items()}
    rows = [
        [
            *(name, f"`{s['config']}`", f"{s['row']:,}", f"{s['parameters']:,}"),
            *(f"{s['flops_a_byte'] / 1e6:.2f} M", f"{s['bytes_per_second']:,.0f}"),
            *_came_to(s),
            *_came_to(summed["flops"][name]),
        ]
        for name, s in summed["seconds"].items()
    ]
    seconds, flops = (at[unit]["summary"][0]["budget"] for unit in ("seconds", "flops"))
    head = ["model", "config", "row", "parameters", "training FLOPs a byte", "bytes/s"]
    for budget in (f"{seconds:g} s", f"{flops:.0e} FLOPs"):
        head += [f"steps, {budget}", "read", "bits per byte"]
    parts = [table(head, rows), _explained(at)]
    if words := _words(summed["seconds"]):
        unit = next(s["next_word"][0]["unit"] for s in summed["seconds"].values() if s["next_word"])
        said = "by how often a word occurs in the whole training split, of which the models have read a part"
        parts += [f"Next words right, %, after {seconds:g} s, {said} (95 % intervals, {unit} drawn):", words]
    kinds = ("budget", "no room", "not of the same")
    if notes := [note for one in at.values() for note in one["notes"] if any(kind in note for kind in kinds)]:
        parts.append("\n".join(f"* {note}" for note in notes))
    figures: dict[str, Any] = {"names": names, **{unit: {"summary": at[unit]["summary"]} for unit in at}}
    figures["curves"] = {
        unit: [{k: r[k] for k in ("config", "seed", "curve")} for r in at[unit]["runs"]] for unit in at
    }
    figures["cheaper"] = {
        flat: {x: cheaper(figures, "word-pooled", flat, x) for x in ("seconds", "flops")} for flat in FLATS
    }
    return Found("\n\n".join(parts), figures, {corpus: partial(draw, figures, CORPORA[corpus])})


def _came_to(summary: dict[str, Any]) -> tuple[str, str, str]:
    """Steps, bytes, and bits per byte with their error over seeds."""
    error = summary["standard_error_seeds"]
    bits = f"{summary['bits_per_byte']:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    return f"{summary['steps']:,}", f"{summary['bytes'] / 1e6:.2f} MB", bits


def _explained(at: dict[str, Any]) -> str:
    """What the figures of the table are of."""
    one = at["seconds"]["summary"][0]
    documents = max(run["eval_documents"] for run in at["seconds"]["runs"])
    errors = [s["standard_error_documents"] for s in at["seconds"]["summary"]]
    errors = [error for error in errors if error is not None]
    over = f"; over documents it is {min(errors):.3f} to {max(errors):.3f}" if errors else ""
    seeds = {unit: ", ".join(map(str, at[unit]["summary"][0]["seeds"])) for unit in at}
    return (
        f"Bits per byte of {one['eval_bytes']:,.0f} held-out bytes ({documents} documents), mean ± standard "
        f"error over seeds ({seeds['seconds']} at equal seconds, {seeds['flops']} at equal FLOPs){over}. A "
        "row "
        "is in bytes, of BPE in tokens; a model sees no further back than its row. BPE's bits are of "
        "canonical "
        "tokens and those of Learn Your Tokens of words as its rule cuts them: both bound the bits per byte "
        "from above. Seconds are of training alone, without compilation, evaluation and checkpoints, and "
        "without "
        "training a tokenizer and encoding. The steps of a run were fixed from steps timed before, "
        f"{at['seconds']['machine'].get('jobs', 1)} runs at a time, each on its share of the cores; bytes/s "
        "and "
        "the plot are by these, and what other work on the machine added is noted below."
    )


def _words(summed: dict[str, Any]) -> str | None:
    asked = {name: s["next_word"] for name, s in summed.items() if s["next_word"]}
    if not asked:
        return None
    heads = [f"{share['name']} ({share['words']:,})" for share in next(iter(asked.values()))]
    rows = [
        [
            name,
            *(
                interval(None if x["value"] is None else (x["value"], x["low"], x["high"]), scale=100)
                for x in shares
            ),
        ]
        for name, shares in asked.items()
    ]
    return table(["model", *heads], rows)


Curve = list[tuple[float, float, float, float]]


def mean_curve(figures: dict[str, Any], name: str, x: str, seed: int | None = None) -> Curve:
    """(x, mean, lowest, highest bits per byte) over seeds, on the way of runs at equal seconds or FLOPs."""
    runs = [run for run in figures["curves"][x] if figures["names"][run["config"]] == name]
    runs = [run for run in runs if seed in (None, run["seed"])]
    points = list(zip(*(run["curve"] for run in runs), strict=False))
    found = []
    for point in points:
        bits = [p["bits_per_byte"] for p in point]
        at = sum(p[x] for p in point) / len(point)
        found.append((at, sum(bits) / len(bits), min(bits), max(bits)))
    return found


def cheaper(figures: dict[str, Any], ours: str, theirs: str, x: str) -> dict[str, Any]:
    """How much less of `x` ours takes to come to the last bits of theirs, over all seeds and by seed.

    Read off its curve on the way, where its rate of learning has not ended, so at least so much. `first`: it
    was there when it was first evaluated, so that `times` says no more than when that was.
    """
    seeds = sorted({run["seed"] for run in figures["curves"][x]})
    found = _crossing(mean_curve(figures, ours, x), mean_curve(figures, theirs, x)[-1])
    of_seeds = [
        _crossing(mean_curve(figures, ours, x, seed), mean_curve(figures, theirs, x, seed)[-1])["times"]
        for seed in seeds
    ]
    return {**found, "by_seed": dict(zip(map(str, seeds), of_seeds, strict=True))}


def _crossing(curve: Curve, end: tuple[float, float, float, float]) -> dict[str, Any]:
    budget, goal, _, _ = end
    found: dict[str, Any] = {"bits_per_byte": goal, "theirs": budget}
    before: tuple[float, float] | None = None
    for at, bits, _, _ in curve:
        if bits <= goal:
            if before is not None:  # straight in log x
                share = (before[1] - goal) / (before[1] - bits)
                at = math.exp(math.log(before[0]) + share * (math.log(at) - math.log(before[0])))
            return {**found, "ours": at, "times": budget / at, "first": before is None}
        before = at, bits
    return {**found, "ours": None, "times": None, "first": False}


def draw(figures: dict[str, Any], title: str) -> Any:
    """Bits per byte against seconds and against FLOPs: the way of the runs, and a marker where they end."""
    said = "mean, lowest and highest of the seeds; markers where runs end"
    drawn = figure(9.6, 4.6, f"{title}: bits per byte of held-out text while training\n{said}")
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, (x, label) in zip(
        panels, {"seconds": "training time by timed steps, s", "flops": "training FLOPs"}.items(), strict=True
    ):
        for i, name in enumerate(figures["names"].values()):
            at, bits, low, high = zip(*mean_curve(figures, name, x), strict=True)
            style = {"color": COLOURS[i % 7], "linestyle": DASHES[i % 7]}
            axes.plot(at, bits, lw=1.6, label=name, **style)
            axes.fill_between(at, low, high, color=COLOURS[i % 7], alpha=0.15)
            axes.plot(at[-1:], bits[-1:], MARKERS[i % 7], color=COLOURS[i % 7], ms=8, markeredgecolor="white")
        axes.set_xlabel(label)
        decades(axes, powers=x == "flops")
    panels[0].set_ylabel("bits per byte")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


SECTIONS = [
    Section(corpus, title, partial(headline, corpus), partial(gather_headline, corpus), needs=needs)
    for corpus, title, needs in (
        ("books", "English books at equal seconds and at equal FLOPs", BOOKS),
        ("python", "Python at equal seconds and at equal FLOPs", ()),
    )
]
