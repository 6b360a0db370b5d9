"""Noise, other corpora, and questions about characters: what trained models are worth elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.drawing import curves, dots, interval, number, squares, table
from reporting.matched import BOOKS, HEADLINE, QUICK, held_out, run_folder, spec
from reporting.plan import Command, Found, Section, Settings, excerpt, script

# ---- noise ---------------------------------------------------------------------------------------------

NAMES = ("windowed flat", "word-pooled", "BPE, 8,192")
NOISY = {config: name for config, name in HEADLINE.items() if name in NAMES}


def noise(settings: Settings) -> list[Command]:
    folder = settings.work / "noise"
    text = folder / "held_out.jsonl"
    runs = [run_folder(settings, config) for config in NOISY]
    kinds = settings.of([], ["--kinds", "drop", "keyboard"])
    rates = settings.of([0.02, 0.05, 0.1, 0.2], [0.1])
    return [
        held_out(text, settings.of(32_768, 1024), settings, piece=512),
        script("noise", "noise_curve.py", *runs, "--data", text, "--rates", *rates, *kinds, "--out", folder),
    ]


def gather_noise(settings: Settings) -> Found:
    found = json.loads((settings.work / "noise" / "noise.json").read_text())
    names = dict(zip((run_folder(settings, config) for config in NOISY), NOISY.values(), strict=True))
    points = [{**point, "run": names[point["run"]]} for point in found["points"]]
    rates = sorted({point["rate"] for point in points})
    clean = {point["run"]: point["value"] for point in points if point["rate"] == 0}
    by: dict[str, dict[str, list[Any]]] = {}
    for p in points:
        by.setdefault(p["kind"], {}).setdefault(p["run"], []).append(
            (100 * p["rate"], *(p[x] - clean[p["run"]] for x in ("value", "low", "high")))
        )
    rows = [
        [kind, run, number(clean[run]), *(f"{value:+.3f}" for rate, value, _, _ in of_run if rate)]
        for kind, runs in by.items() for run, of_run in runs.items()
    ]  # fmt: skip
    parts = [
        table(["noise", "model", "clean text", *(f"{rate:.0%}" for rate in rates if rate)], rows),
        "Bits per byte of clean English text after training on books, and how many more a byte of noisy text "
        "costs, by the share of characters that the noise touches. All models, those of seed 0 after equal "
        "seconds, see the same noisy texts, parts of all held-out books; BPE's bits are of the bytes, by "
        "exact "
        "conversion.",
    ]
    title = "What noise costs, with 95 % intervals of the noisy figure"
    plots = {"noise": lambda: curves(title, "% of characters", "bits per byte more than clean", by)}
    return Found("\n\n".join(parts), {"points": points}, plots)


# ---- one config, one model a corpus ----------------------------------------------------------------------


def monobyte(settings: Settings) -> list[Command]:
    folder, size = settings.work / "monobyte", settings.of(600_000, 20_000)
    english = folder / "english.txt"  # of many books, so that what is held out is not of the first one
    corpora = [f"English={english}", f"Chinese={settings.at('text/zh-poetry.txt')}", "Python=stdlib"]
    flags = ["--flags", QUICK] if settings.quick else []
    flags += ["--held-out", settings.of(32_768, 2048)]
    return [
        excerpt("english", settings.at(BOOKS[0]), english, 2 * size, in_turn=32_768),
        script("monobyte", "monobyte.py", *corpora, "--bytes", size, "--out", folder, *flags),
    ]


def gather_monobyte(settings: Settings) -> Found:
    found = json.loads((settings.work / "monobyte" / "monobyte.json").read_text())
    values: dict[str, dict[str, float]] = found["bits_per_byte"]
    across = list(next(iter(values.values())))
    rows = [
        [f"`{model}`", *(f"**{x:.3f}**" if name == model else f"{x:.3f}" for name, x in of_model.items())]
        for model, of_model in values.items()
    ]
    parts = [
        table(["trained on", *across], rows),
        f"Bits per byte of {found['held_out']:,} held-out bytes of each corpus (columns); config "
        f"`{found['config']}`, {found['bytes']:,} bytes read of each, seed {found['seed']}. `shuffled`: "
        f"the bytes of `{across[0]}` in random order; `brackets`: random well-nested brackets.",
    ]
    title = "Bits per byte: one model a corpus, equal bytes"
    plots = {"monobyte": lambda: squares(title, "trained on", "scored on", values)}
    return Found("\n\n".join(parts), found, plots)


# ---- characters ----------------------------------------------------------------------------------------


def asked(settings: Settings) -> dict[str, str]:
    """The models that are asked: their configs by name."""
    return {name: config for config, name in NOISY.items() if not settings.quick or name == "word-pooled"}


def charbench(settings: Settings) -> list[Command]:
    from comparison.runs import slug

    folder, budget = settings.work / "charbench", settings.of(240, 4)
    data = folder / "data" / "charbench"
    words, text = folder / "words.txt", data / "train.txt"
    specs = {name: spec(config, settings) for name, config in asked(settings).items()}
    flags = ["--flags", QUICK] if settings.quick else []
    trained = script(
        "train", "compare.py", *specs.values(), "--source",
        f"files --data.source.paths {text} --data.source.split tail", "--seconds", budget, "--seeds", 0,
        "--points", 1, "--eval-bytes", 4096, "--word-bytes", 0, "--jobs", settings.jobs, *flags,
        "--out", folder / "compare",
    )  # fmt: skip
    evals = [
        evaluated(f"eval{i}", f"{slug(config)}-{budget}-seed0", folder, settings)
        for i, config in enumerate(specs.values())
    ]
    return [
        excerpt("words", settings.at(BOOKS[0]), words, settings.of(4_000_000, 200_000)),
        script("questions", "make_charbench.py", words, "--out", data),
        trained,
        *evals,
    ]


def evaluated(name: str, run: str, folder: Path, settings: Settings) -> Command:
    words = ["bytelm", "eval", str(folder / "compare" / "runs" / run), "--tasks", "charbench"]
    words += [
        "--data-dir",
        str(folder / "data"),
        "--context",
        settings.of("600", "200"),
        "--limit",
        str(settings.of(200, 4)),
    ]
    return Command(name, (*words, "--out", str(folder / f"{name}.json")))


def gather_charbench(settings: Settings) -> Found:
    figures, rows, plotted = {}, [], {}
    for i, name in enumerate(asked(settings)):
        found = json.loads((settings.work / "charbench" / f"eval{i}.json").read_text())
        shares = {}
        for task, metrics in found["results"].items():
            if task.startswith("charbench_") and "exact_match" in metrics:
                value, error = metrics["exact_match"]
                half = 1.96 * (error or 0.0)
                shares[task.removeprefix("charbench_").replace("_", " ")] = (
                    100 * value, 100 * max(0.0, value - half), 100 * min(1.0, value + half)
                )  # fmt: skip
        figures[name] = {"items": found["items"], "right": shares}
        plotted[name] = shares
        rows.append([name, *(interval(x) for x in shares.values())])
    items = next(iter(figures.values()))["items"]
    count = max(items.values(), default=0)
    parts = [
        table(["model", *next(iter(plotted.values()))], rows),
        f"Per cent exactly right of {count:,} questions a task about held-out words, with 95 % intervals, "
        "after a short training on generated questions about other words. The wording is ours.",
    ]
    title = "CharBench's tasks after a short training on such questions"
    plots = {"charbench": lambda: dots(title, "% exactly right, 95 % intervals", plotted)}
    return Found("\n\n".join(parts), figures, plots)


SECTIONS = [
    Section("noise", "Noise", noise, gather_noise, needs=BOOKS, after=("books",)),
    Section("monobyte", "One config, one model a corpus", monobyte, gather_monobyte,
            needs=(*BOOKS, "text/zh-poetry.txt")),
    Section("charbench", "Questions about characters", charbench, gather_charbench, needs=BOOKS,
            modules=("lm_eval",)),
]  # fmt: skip
