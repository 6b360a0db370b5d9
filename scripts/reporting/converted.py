"""Exact conversion: definitions, what it costs, and the bias that goes away."""

from __future__ import annotations

import json
import re
from typing import Any

from common.drawing import dots, interval, number, table
from reporting.plan import Command, Found, Section, Settings, script

STORIES = ("models/stories260K", "models/TinyStories-656K")
SHAKESPEARE = "text/tinyshakespeare.txt"
TOKENIZERS = ("gpt2", "mistral-v1", "starcoder", "deepseek-coder", "tekken", "cl100k", "o200k")

# ---- definitions ---------------------------------------------------------------------------------------


def definitions(settings: Settings) -> list[Command]:
    folder = settings.work / "definitions"
    models = [settings.at(path) for path in STORIES]
    names = settings.of(TOKENIZERS, TOKENIZERS[:1])
    tokenizers = [settings.at("tokenizers", name) for name in names] + models
    return [
        script(
            "tables", "exact_tables.py", "--models", *models, "--tokenizers", *tokenizers, "--text",
            settings.at(SHAKESPEARE), "--samples", settings.of(500, 20), "--json", folder / "tables.json",
        )
    ]  # fmt: skip


def gather_definitions(settings: Settings) -> Found:
    found = json.loads((settings.work / "definitions" / "tables.json").read_text())
    found["tokenizers"] = list(found["tokenizers"].values())
    rows, cuts, plotted = [], [], {}
    for name, model in found["models"].items():
        d = model["definitions"]
        certain = f"{d['all, at least']:.4f} to {d['all, at most']:.4f}"
        bits = (number(d[k], ".4f") for k in ("local", "joint", "as it is"))
        rows.append([name, *bits, f"{d['kept']:.3g}", certain])
        for cut in model["cuts"]:
            laws = (number(cut[k], ".4f") for k in ("exact", "joint", "naive"))
            cuts.append([name, f"`{cut['text']}`", repr(cut["next"]), *laws, f"{cut['distance']:.3f}"])
        plotted[name] = {f"...{cut['text']}": cut["distance"] for cut in model["cuts"]}
    nodes = [
        [t["name"], f"{t['tokens']:,}", number(t["nodes"]), number(t["nodes, awkward"]), t["most"]]
        for t in found["tokenizers"] if "refused" not in t
    ]  # fmt: skip
    head = ["model", "canonical, local", "joint, divided", "joint, as it is", "mass kept", "all, certain"]
    parts = [
        f"Bits per byte of one story of {found['bytes']} bytes, without its end, by definition:",
        table(head, rows),
        "The probability of the byte that follows a cut: exact, and by encoding the prompt and asking for "
        "the next "
        "token (naive); distance is total variation from exact:",
        table(
            ["model", "prompt ends with", "next", "exact, local", "exact, joint", "naive", "distance"], cuts
        ),
        "Live segmentations: nodes of the tree of a text, a byte, and the most that end at one byte:",
        table(["tokenizer", "tokens", "nodes a byte", "awkward text", "most"], nodes),
    ]
    title = "How far the naive law of the next byte is from the exact one"
    plots = {"definitions": lambda: dots(title, "total variation, 0 to 1", plotted, zero=0)}
    return Found("\n\n".join(parts), found, plots)


# ---- costs ---------------------------------------------------------------------------------------------


def costs(settings: Settings) -> list[Command]:
    model = (
        ["--model", settings.at(STORIES[0])]
        if settings.quick
        else ["--tokenizer", settings.at("tokenizers/gpt2")]
    )
    flags = ["--english", settings.at(SHAKESPEARE), "--parts", "score", "generate"]
    flags += ["--sizes", "200"] if settings.quick else []
    return [script("costs", "bench_exact.py", *model, *flags, stdout="costs.txt")]


_SCORED = re.compile(r"(?P<text>\w+), (?P<bytes>[\d,]+) bytes: .*tokens (?P<tokens>[\d.]+) kB/s, ours "
                     r"(?P<ours>[\d.]+) kB/s.*ratio (?P<ratio>[\d.]+).*limit (?P<limit>[\d.]+)")  # fmt: skip
_GENERATED = re.compile(r"(?P<text>\w+), batch (?P<batch>\d+): .*tokens (?P<tokens>[\d.]+), boundary mode "
                        r"(?P<boundary>[\d.]+) .*byte mode (?P<bytewise>[\d.]+) ")  # fmt: skip


def parsed(text: str) -> dict[str, list[dict[str, Any]]]:
    """What bench_exact.py printed: kB/s of scoring, bytes/s of generation. ValueError without one."""

    def found(pattern: re.Pattern[str]) -> list[dict[str, Any]]:
        rows = [match.groupdict() for match in map(pattern.search, text.splitlines()) if match]
        return [{k: x if k == "text" else float(x.replace(",", "")) for k, x in row.items()} for row in rows]

    figures = {"scored": found(_SCORED), "generated": found(_GENERATED)}
    if not figures["scored"] or not figures["generated"]:
        raise ValueError("bench_exact.py printed no figures that are known here")
    return figures


MODES = ("boundary", "bytewise")


def name(one: dict[str, Any]) -> str:
    """What was scored or generated."""
    size = f"{one['bytes']:.0f} bytes" if "bytes" in one else f"batch {one['batch']:.0f}"
    return f"{one['text']}, {size}"


def gather_costs(settings: Settings) -> Found:
    figures: dict[str, Any] = parsed((settings.work / "costs" / "costs.txt").read_text())
    scored = [
        [name(s), s["tokens"], s["ours"], f"{s['ratio']:.2f}", f"{s['limit']:.2f}"] for s in figures["scored"]
    ]
    generated = [
        [
            name(g),
            *(f"{g[k]:,.0f}" for k in ("tokens", *MODES)),
            *(f"{g[k] / g['tokens']:.2f}" for k in MODES),
        ]
        for g in figures["generated"]
    ]
    what = "stories260K" if settings.quick else "A random Llama of 18M parameters with GPT-2's vocabulary"
    parts = [
        f"{what}, beside plain work with its tokens in the same run. Scoring, kB/s:",
        table(["text", "tokens", "exact", "ratio", "limit: tokens / nodes"], scored),
        "Generation, bytes/s of the whole batch:",
        table(
            ["text", "tokens", "boundary mode", "byte mode", "boundary / tokens", "byte / tokens"], generated
        ),
    ]
    plotted = {
        "scoring": {name(s): s["ratio"] for s in figures["scored"]},
        "boundary mode": {name(g): g["boundary"] / g["tokens"] for g in figures["generated"]},
        "byte mode": {name(g): g["bytewise"] / g["tokens"] for g in figures["generated"]},
    }
    title = "Speed of exact conversion over that of plain work with tokens"
    plots = {"costs": lambda: dots(title, "share of the speed of tokens", plotted, zero=1)}
    return Found("\n\n".join(parts), figures, plots)


# ---- bias ----------------------------------------------------------------------------------------------


def bias(settings: Settings) -> list[Command]:
    size = settings.of(["--cuts", "40", "--made", "6"], ["--cuts", "4", "--made", "1"])
    commands = []
    for i, (model, other) in enumerate((STORIES, STORIES[::-1])):
        to = settings.work / "bias" / f"bias{i}.json"
        models = (settings.at(model), "--from", settings.at(other))
        commands.append(script(f"bias{i}", "fim_bias.py", *models, *size, "--json", to))
    return commands


PLACES = {
    "between tokens": lambda cut: cut["offset"] == 0,
    "inside a token": lambda cut: cut["offset"] > 0,
    "all offsets": lambda cut: True,
}


def gather_bias(settings: Settings) -> Found:
    rows, figures = [], {}
    plotted: dict[str, dict[str, Any]] = {"token": {}, "healing": {}}
    for i, path in enumerate(STORIES):
        name = path.rpartition("/")[2]
        cuts = json.loads((settings.work / "bias" / f"bias{i}.json").read_text())
        figures[name] = {
            place: of_cuts([cut for cut in cuts if chosen(cut)]) for place, chosen in PLACES.items()
        }
        for place, f in figures[name].items():
            shares = (interval(f[f"right, {m}"], ".0f", 100) for m in ("token", "healing", "exact"))
            counts = ", ".join(str(f[x]) for x in ("cuts", "impossible, token", "impossible, healing"))
            rows.append([name, f"{place} ({counts})", interval(f["token"]), interval(f["healing"]), *shares])
            for method in plotted:
                if f[method] and f[method][1] > float("-inf"):
                    plotted[method][f"{name}, {place}"] = f[method]
    parts = [
        "Texts of one model cut in tokens of the other. Bits of the true rest of the text more than exact "
        "conversion needs, paired, and per cent of cuts after which the next 8 bytes are right, greedily "
        "(95 % intervals; in brackets the number of cuts, and of those where `token`, `healing` makes the "
        "rest "
        "impossible, which are not in the bits). `token`: the prompt encoded, and on from its last token; "
        "`healing`: that token taken back first.",
        table(
            ["model", "cut", "token less exact", "healing less exact", "token, %", "healing, %", "exact, %"],
            rows,
        ),
    ]
    title = "Bits of the true rest of a text more than exact conversion needs"
    plots = {"bias": lambda: dots(title, "bits, 95 % intervals", plotted, zero=0)}
    return Found("\n\n".join(parts), figures, plots)


def of_cuts(cuts: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals: bits of a method less exact's, where both are finite; shares that are right."""
    import math

    from bytelm.evals.similarity import mean_interval

    found: dict[str, Any] = {"cuts": len(cuts)}
    for method in ("token", "healing"):
        pairs = [(cut[f"bits {method}"] - cut["bits exact"], cut["cluster"]) for cut in cuts]
        kept = [(value, cluster) for value, cluster in pairs if math.isfinite(value)]
        found[method] = mean_interval(*map(list, zip(*kept, strict=True)), share=False) if kept else None
        found[f"impossible, {method}"] = len(pairs) - len(kept)
    for method in ("token", "healing", "exact"):
        hits = [float(cut[f"hit {method}"]) for cut in cuts]
        found[f"right, {method}"] = (
            mean_interval(hits, [cut["cluster"] for cut in cuts], True) if cuts else None
        )
    return found


SECTIONS = [
    Section("definitions", "Exact conversion: definitions, and cuts in words", definitions,
            gather_definitions, needs=(*STORIES, "tokenizers/gpt2", SHAKESPEARE)),
    Section("costs", "Exact conversion: costs", costs, gather_costs,
            needs=(STORIES[0], "tokenizers/gpt2", SHAKESPEARE)),
    Section("bias", "Exact conversion: the bias of prompts that end inside tokens", bias, gather_bias,
            needs=STORIES),
]  # fmt: skip
