"""One factor at a time, from the default: poolings, boundary rules, layouts, attention, tokens."""

from __future__ import annotations

import json
from dataclasses import replace

from common.drawing import dots, number, table
from reporting.matched import BOOKS, EVAL_BYTES, FLAT, compare, held_out, read, spec, text
from reporting.plan import Command, Found, Section, Settings, script

FACTORS: dict[str, dict[str, str]] = {
    "pooling": {
        "last byte (default)": "default",
        "mean": "default --model.pooling mean",
        "attention": "default --model.pooling attention",
        "prefix": "default --model.pooling prefix",
    },
    "boundary rule": {
        "closing (default)": "default",
        "runs": "default --model.rule runs --model.words 640",
        "spacebyte": "default --model.rule spacebyte",
        "paper": "default --model.rule paper --model.words 640",
    },
    "n-grams, span": {
        "4,096 rows, 1 word (default)": "default",
        "no n-grams": "default --model.ngrams 0",
        "4 words": "default --model.span 4",
    },
    "layout": {
        "ours (default)": "default",
        "SpaceByte's": "default --model.rule spacebyte --model.ngrams 0 --model.span 8 --model.parts 1 "
        "--model.encoder-layers 2 --model.decoder-layers 2",
        "MegaByte's": "default --model.rule stride --model.cap 8 --model.words 288 --model.ngrams 0 "
        "--model.pooling prefix --model.parts 8",
    },
    "flat": {"full attention": FLAT, "window 128, smaller": "flat"},
    "tokens": {
        "BPE, 2,048": "bpe --data.tokenizer.size 2048",
        "BPE, 8,192": "bpe",
        "BPE, 32,768": "bpe --data.tokenizer.size 32768",
        "BPE of 3 characters": "bpe --data.tokenizer.longest 3",
        "BPE of 4 characters": "bpe --data.tokenizer.longest 4",
    },
}


def factors(settings: Settings) -> list[Command]:
    from comparison.runs import slug

    folder, budget = settings.work / "factors", settings.of(4e12, 4e10)
    configs = list(dict.fromkeys(config for group in FACTORS.values() for config in group.values()))
    trained = compare("compare", folder / "compare", configs, "books", settings, flops=budget, seeds=[0],
                      points=1, eval_bytes=settings.of(*EVAL_BYTES), word_bytes=0)  # fmt: skip
    scored = folder / "scored.txt"
    tokenized = [
        folder / "compare" / "runs" / f"{slug(spec(config, settings))}-{budget:g}-seed0"
        for config in FACTORS["tokens"].values()
    ]
    return [
        *text("books", settings),
        trained,
        replace(held_out(scored, settings.of(32_768, 1024), settings), name="scored"),
        script(
            "exact_bits",
            "exact_bits.py",
            *tokenized,
            "--data",
            scored,
            "--json",
            folder / "exact_bits.json",
        ),
    ]


def gather_factors(settings: Settings) -> Found:
    folder = settings.work / "factors"
    found = read(folder / "compare")
    by_config = {s["config"]: s for s in found["summary"]}
    exact = json.loads((folder / "exact_bits.json").read_text())
    base = by_config[spec("default", settings)]["bits_per_byte"]
    rows, plotted = [], {}
    for group, settings_of in FACTORS.items():
        for name, config in settings_of.items():
            s = by_config[spec(config, settings)]
            use = s["word_use"]
            cells = [
                f"{s['parameters']:,}",
                f"{s['flops_a_byte'] / 1e6:.2f} M",
                f"{s['bytes_per_second']:,.0f}",
            ]
            cells += [number(use and use["bytes_a_word"], ".2f"), f"{s['bits_per_byte']:.3f}"]
            label = f"{name}, of canonical tokens" if s["canonical"] else name
            rows.append([group, label, *cells, f"{s['bits_per_byte'] - base:+.3f}", f"{s['lost_share']:.1%}"])
            plotted[f"{group}: {label}"] = s["bits_per_byte"]
    budget = f"{found['summary'][0]['budget']:.0e} FLOPs"
    head = [
        "factor",
        "setting",
        "parameters",
        "training FLOPs a byte",
        "bytes/s",
        "bytes a word",
        "bits per byte",
    ]
    tokens = [
        [name, number(e["canonical"], ".4f"), number(e["exact"], ".4f"), f"{e['canonical'] - e['exact']:.4f}"]
        for name, e in zip(FACTORS["tokens"], exact["runs"], strict=True)
    ]
    parts = [
        table([*head, "less default's", "lost"], rows),
        f"English books, {budget} a run, seed 0 alone: differences of a few times the ± of the first section "
        "say nothing. Bytes/s are of the runs themselves, whatever else the machine did. Lost: held-out "
        "bytes "
        "beyond the limit of words, in no figure.",
        f"The tokenized models on {exact['bytes']:,} held-out bytes in texts of {exact['size']:,}, with "
        "their ends: bits per byte of the canonical tokens, and by exact conversion of the bytes themselves:",
        table(["tokens", "canonical tokens", "bytes, exact", "difference"], tokens),
    ]
    groups = {
        group: {name: spec(config, settings) for name, config in of.items()} for group, of in FACTORS.items()
    }
    figures = {"budget": budget, "groups": groups, "summary": found["summary"], "exact": exact}
    title = f"English books, {budget} a run: one factor at a time"
    plots = {"factors": lambda: dots(title, "bits per byte of held-out text", {"": plotted}, zero=base)}
    return Found("\n\n".join(parts), figures, plots)


SECTIONS = [Section("factors", "One factor at a time", factors, gather_factors, needs=BOOKS)]
