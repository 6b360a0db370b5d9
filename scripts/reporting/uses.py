"""Words of the rules, speed, ensembles, and fill-in-the-middle."""

from __future__ import annotations

import json
from typing import Any

from common.drawing import dots, interval, number, table
from reporting.converted import STORIES
from reporting.matched import BOOKS, run_folder
from reporting.plan import Command, Found, Section, Settings, excerpt, script

# ---- premiums ------------------------------------------------------------------------------------------

LANGUAGES = (
    *("eng", "fra", "spa", "deu", "fin", "tur", "vie", "ell_monotonic", "rus", "ukr", "hye", "kat", "heb"),
    *("arb", "amh", "hin", "ben", "tam", "kor", "tha", "khm", "mya", "bod", "cmn_hans", "cmn_hant", "jpn"),
)
RULES = ("runs", "closing", "paper", "spacebyte")


def premiums(settings: Settings) -> list[Command]:
    files = [settings.at(f"text/udhr/{language}.txt") for language in LANGUAGES]
    return [Command("words", ("bytelm", "words", *files, "--rules", *RULES, "--json"), "words.json")]


def gather_premiums(settings: Settings) -> Found:
    found = json.loads((settings.work / "words" / "words.json").read_text())["rules"]
    figures = {rule: {language: {k: x[k] for k in ("words", "mean", "premium")} for language, x in
               zip(LANGUAGES, files, strict=True)} for rule, files in found.items()}  # fmt: skip
    rows = [
        [language, *(f"{figures[rule][language]['mean']:.2f}" for rule in RULES),
         *(f"{figures[rule][language]['premium']:.2f}" for rule in RULES)]
        for language in LANGUAGES
    ]  # fmt: skip
    parts = [
        "The Universal Declaration of Human Rights: bytes a word under each rule, and the premium, its "
        "words over "
        "those of English.",
        table(
            ["language", *(f"{rule}, bytes" for rule in RULES), *(f"{rule}, premium" for rule in RULES)], rows
        ),
    ]
    plotted = {
        rule: {language: figures[rule][language]["premium"] for language in LANGUAGES} for rule in RULES
    }
    title = "The Declaration of Human Rights, in words of each rule"
    plots = {"words": lambda: dots(title, "premium: words over those in English", plotted, zero=1)}
    return Found("\n\n".join(parts), figures, plots)


# ---- speed ---------------------------------------------------------------------------------------------


def speed(settings: Settings) -> list[Command]:
    folder = settings.work / "speed"
    small = ["--width", 64, "--heads", 2, "--layers", 2]
    train = settings.of(["--steps", 3], ["--steps", 1, "--rows", 2, "--row", 256, *small])
    write = settings.of([], ["--batch", 1, 4, "--bytes", 40, "--context", 256, "--repeats", 1, *small])
    return [
        script("train", "bench_words.py", *train, "--json", folder / "train.json"),
        script("generate", "bench_generate.py", *write, "--json", folder / "generate.json"),
    ]


def gather_speed(settings: Settings) -> Found:
    folder = settings.work / "speed"
    train, generate = (json.loads((folder / f"{name}.json").read_text()) for name in ("train", "generate"))
    work = [("training", train["flat"]["bytes_per_second"], train["pooled"]["bytes_per_second"])]
    work += [(f"generation, batch {g['batch']}", g["flat"], g["pooled"]) for g in generate]
    rows = [[name, f"{flat:,.0f}", f"{pooled:,.0f}", f"{pooled / flat:.2f}"] for name, flat, pooled in work]
    share = train["pooled"]["flops_a_byte_forward"] / train["flat"]["flops_a_byte_forward"]
    parts = [
        "Bytes a second of a word-pooled model and of the flat one as deep and wide as its word level"
        f"{', 2 layers x 64' if settings.quick else ', 4 layers x 384'}; {share:.2f} of the operations:",
        table(["work", "flat", "word-pooled", "ratio"], rows),
    ]
    plotted = {"": {name: pooled / flat for name, flat, pooled in work}}
    title = "Speed of a word-pooled model over the flat one's"
    plots = {"speed": lambda: dots(title, "times as fast", plotted, zero=1)}
    return Found("\n\n".join(parts), {"train": train, "generate": generate}, plots)


# ---- ensembles -----------------------------------------------------------------------------------------


def ensembles(settings: Settings) -> list[Command]:
    folder = settings.work / "ensembles"
    text = folder / "peter_pan.txt"
    size = settings.of(["--count", 60, "--bytes", 500], ["--count", 8, "--bytes", 200])
    models = [*(settings.at(path) for path in STORIES), run_folder(settings, "default")]
    return [
        excerpt("text", settings.at("text/books/valid.jsonl.gz"), text, 10**7, documents=1),
        script("ensembles", "ensemble_stories.py", *models, "--out", folder, "--stories", text, *size),
    ]


def gather_ensembles(settings: Settings) -> Found:
    folder = settings.work / "ensembles"
    found = json.loads((folder / "ensembles.json").read_text())
    rows = [
        [f["model"], f"{f['bits_per_byte']:.4f}", f"{f['gain']:+.4f} ± {f['error']:.4f}"]
        for f in found["held_out"]
    ]
    parts = [
        "Two models of stories whose vocabularies differ, both converted exactly, and the word-pooled model "
        f"of the books, on prose that none wrote: paragraphs of *Peter Pan* that all find possible, "
        f"{found['fitted']} to fit weights, {found['texts']} ({found['bytes']:,} bytes) held out.",
        table(["model", "bits per byte", "less than the best member, ± standard error"], rows),
    ]
    return Found("\n\n".join(parts), found, {"mixtures": folder / "ensembles"})


# ---- fill in the middle --------------------------------------------------------------------------------

SPANS = "fim/HumanEval-RandomSpanInfillingLight.jsonl.gz"
MODELS = {"fim_bpe": "BPE, 2,048", "fim_words": "word-pooled"}


def fim(settings: Settings) -> list[Command]:
    folder = settings.work / "fim"
    tiny = ["--training.steps=5", "--data.row=256", "--data.piece=200", "--evaluation.final-max-bytes=4096"]
    tiny += ["--evaluation.no-marks", "--samples.prompts"]
    size = settings.of(["--max-bytes", "256"], ["--limit", "3", "--max-bytes", "16"])
    commands = []
    for name in MODELS:
        run, out = str(folder / name), str(folder / f"spm_{name}")
        train = ("python", "train.py", name, "--workdir", run, *settings.of([], tiny))
        fill = ("bytelm", "fim", run, "--data", settings.at(SPANS), "--order", "spm", *size, "--out", out)
        commands += [Command(f"train_{name}", train), Command(f"fim_{name}", fill)]
    for method in ("token", "healing"):
        pair = [str(folder / "spm_fim_bpe" / name) for name in (method, "exact")]
        name = f"less_{method}"
        commands.append(Command(name, ("bytelm", "fim-compare", *pair, "--json"), f"{name}.json"))
    return commands


MEASURES = {"pass@1": "pass@1, %", "exact": "exact match, %", "similarity": "similarity, %"}


def gather_fim(settings: Settings) -> Found:
    folder = settings.work / "fim"
    rows, figures, plotted = [], {"methods": {}, "differences": {}}, {}
    for name, label in MODELS.items():
        for path in sorted((folder / f"spm_{name}").glob("*/summary.json")):
            for said in json.loads(path.read_text()).values():
                method = f"{label}, {path.parent.name}"
                figures["methods"][method] = said
                rates = [interval(said[measure], scale=100) for measure in MEASURES]
                rows.append([method, f"{said['items']:,}", *rates, number(said["bytes/s"], ",.0f")])
                plotted[method] = [100 * x for x in said["similarity"]]
    differences = []
    for method in ("token", "healing"):
        for said in json.loads((folder / f"less_{method}.json").read_text()).values():
            figures["differences"][f"exact less {method}"] = said
            points = [interval(said[measure], "+.1f", 100) for measure in MEASURES]
            differences.append([f"exact less {method}", *points, f"{said['McNemar, passed'][2]:.3f}"])
    parts = [
        "HumanEval's random spans, suffix before prefix, the likeliest completion, by models of minutes on "
        "two cores, each as its config trains it (not for equal bytes or seconds); 95 % intervals:",
        table(["model, method", "items", *MEASURES.values(), "bytes/s"], rows),
        "The same items, paired, in points; p is McNemar's, of what passes:",
        table(["difference", "pass@1", "exact match", "similarity", "p"], differences),
    ]
    title = "Filling in random spans of HumanEval: similarity to the true middle"
    plots = {"fim": lambda: dots(title, "edit similarity, %, 95 % intervals", {"": plotted})}
    return Found("\n\n".join(parts), figures, plots)


SECTIONS: list[Any] = [
    Section("speed", "Speed", speed, gather_speed),
    Section("words", "Words of the rules in 26 languages", premiums, gather_premiums, needs=("text/udhr",)),
    Section("ensembles", "Ensembles", ensembles, gather_ensembles,
            needs=(*STORIES, *BOOKS, "text/books/valid.jsonl.gz"), after=("books",)),
    Section("fim", "Filling in the middle", fim, gather_fim, needs=(SPANS,)),
]  # fmt: skip
