"""What a comparison says: tables in Markdown and JSON, a plot."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from common.drawing import COLOURS, DASHES, MARKERS, decades, number, table
from common.machine import processor
from comparison.figures import gains, summaries

from bytelm.evals.next_word import BINS, NextWord, Share
from bytelm.training.metrics import write_whole


def write(out: Path, found: list[dict[str, Any]], args: Any) -> None:
    """comparison.md, .json, .png and .svg in `out`; says where they are."""
    summed = summaries(found)
    out.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "cpu": processor(), "jobs": args.jobs, **found[0]["versions"]}
    record = {
        **{"command": args.command, "machine": machine, "unit": args.unit, "notes": notes(summed, args)},
        "summary": [_plain(summary) for summary in summed],
        "gains": [
            {"config": s["config"], "budget": s["budget"], "accuracy": [x._asdict() for x in shares]}
            for s, shares in gains(summed)
        ],
        "runs": [_plain(run) for run in found],
    }
    write_whole(out / "comparison.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_whole(out / "comparison.md", markdown(found, summed, machine, args))
    draw(found, summed, args, out / "comparison.png", out / "comparison.svg")
    print((out / "comparison.md").read_text())
    print(f"written: {out}/comparison.md, .json, .png, .svg")


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """For JSON: the words as shares."""
    asked: NextWord | None = figures["words"]
    shares = None if asked is None else [x._asdict() for x in asked.figures()]
    return {**{name: x for name, x in figures.items() if name != "words"}, "next_word": shares}


def markdown(
    found: list[dict[str, Any]], summed: list[dict[str, Any]], machine: dict[str, Any], args: Any
) -> str:
    """The whole page."""
    parts = [
        f"# Comparison at equal {args.unit}\n\n```\n{args.command}\n```",
        ", ".join(f"{name} {value}" for name, value in machine.items()),
        table(_COLUMNS, [_row(s) for s in summed]),
    ]
    if hidden := [s for s in summed if s["word_accuracy"] is not None]:
        parts += ["## Hidden words, % found out", _hidden(hidden)]
    one, seeds = found[0], ", ".join(map(str, summed[0]["seeds"]))
    parts.append(
        f"Bits per byte of the first {one['eval_bytes']:,} held-out bytes ({args.split}, "
        f"{one['eval_documents']} documents), mean over seeds {seeds}, ± standard errors. Seconds are of "
        "training alone, without compilation, evaluation and checkpoints. Tables are the rows that each "
        "symbol has, coming in and going out."
    )
    if summed[0]["words"] is not None:
        parts += ["## Next-word accuracy, %", _shares([(s, s["words"].figures()) for s in summed])]
        asked: NextWord = summed[0]["words"]
        unit = asked.figures()[0].unit
        parts.append(
            f"By how often the word occurs in the training text; {len(asked.count_N):,} words of the first "
            f"{args.word_bytes:,} held-out bytes, at most {asked.context:,} bytes of context; in brackets "
            f"95 % bootstrap intervals of the mean over seeds, {unit} drawn again (seed 0)."
        )
        if paired := gains(summed):
            parts += [
                f"### Less that of `{summed[0]['config']}`, in points, word by word",
                _shares(paired, "+"),
            ]
    if said := notes(summed, args):
        parts.append("\n".join(f"* {note}" for note in said))
    parts.append("![Bits per byte against FLOPs and seconds](comparison.png)")
    return "\n\n".join(parts) + "\n"


_COLUMNS = [
    *("config", "budget", "parameters", "without tables", "row", "training FLOPs a byte", "bytes/s", "steps"),
    *("bytes read", "seconds", "bits per byte", "± over seeds", "± over documents"),
]


def _row(s: dict[str, Any]) -> list[str]:
    return [
        *(f"`{s['config']}`", f"{s['budget']:g}", f"{s['parameters']:,}"),
        *(f"{s['parameters_without_tables']:,}", f"{s['row']:,}", f"{s['flops_a_byte'] / 1e6:.2f} M"),
        *(f"{s['bytes_per_second']:,.0f}", f"{s['steps']:,}", f"{s['bytes'] / 1e6:.2f} M"),
        *(f"{s['seconds']:.1f}", f"**{s['bits_per_byte']:.4f}**"),
        *(number(s[f"standard_error_{over}"], ".4f") for over in ("seeds", "documents")),
    ]


def _hidden(summed: list[dict[str, Any]]) -> str:
    """Of models of hidden words: all of the word right, its length too where it is not told."""
    rows = [
        [
            *(f"`{s['config']}`", f"{s['budget']:g}", f"**{100 * s['word_accuracy']:.2f}**"),
            number(None if s["word_accuracy_error"] is None else 100 * s["word_accuracy_error"], ".4f"),
        ]
        for s in summed
    ]
    return table(["config", "budget", "right", "± over seeds"], rows)


def notes(summed: list[dict[str, Any]], args: Any) -> list[str]:
    """What the reader of the table should know of these runs."""
    said = []
    for s in summed:
        who = f"`{s['config']}`, budget {s['budget']:g}"
        if args.unit == "seconds" and abs(s["seconds"] / s["budget"] - 1) > 0.05:
            said.append(
                f"{who}: took {s['seconds']:.1f} s, {s['seconds'] / s['budget'] - 1:+.0%} of its budget"
            )
        if s["lost_share"] > 0:
            said.append(
                f"{who}: {s['lost_share']:.3%} of the held-out bytes had no room and are in no figure"
            )
    said += _of_models({s["config"]: s for s in summed})
    if len({s["eval_bytes"] for s in summed}) > 1:
        sizes = sorted({f"{s['eval_bytes']:,.0f}" for s in summed})
        said.append(f"bits per byte are not of the same bytes: {' and '.join(sizes)} of them")
    return said


def _of_models(by_config: dict[str, dict[str, Any]]) -> list[str]:
    """Bytes a word, and what vectors of bytes or words cost against a table of tokens."""
    said = []
    for name, s in by_config.items():
        if s["canonical"]:
            said.append(f"`{name}`: bits of canonical tokens, which bound its bits per byte from above")
        if use := s["word_use"]:
            said.append(
                f"`{name}`: {use['bytes_a_word']:.2f} bytes a word of held-out text (median {use['p50']}, "
                f"99 % {use['p99']}, most {use['longest']}); {use['fullest']:,} words in the fullest row"
            )
        for other, tokens in by_config.items():
            if tokens["vocabulary_parameters"] and not s["vocabulary_parameters"]:
                share = s["embedding_parameters"] / tokens["vocabulary_parameters"]
                said.append(
                    f"`{name}`: {s['embedding_parameters']:,} parameters make its vectors of text, "
                    f"{share:.1%} of the {tokens['vocabulary_parameters']:,} in the table of `{other}`"
                )
    return said


def _shares(rows: list[tuple[dict[str, Any], list[Share]]], sign: str = "") -> str:
    def shown(x: Share) -> str:
        if x.value is None or x.low is None or x.high is None:
            return "-"
        return f"{100 * x.value:{sign}.1f} [{100 * x.low:{sign}.1f}, {100 * x.high:{sign}.1f}]"

    counts = {share.name: share.words for share in rows[0][1]}
    heads = [f"{name} ({counts[name]:,})" for name in ("all", *(name for name, _, _ in BINS))]
    return table(
        ["config", "budget", *heads],
        [[f"`{s['config']}`", f"{s['budget']:g}", *map(shown, shares)] for s, shares in rows],
    )


# ---- the plot ------------------------------------------------------------------------------------------


def draw(found: list[dict[str, Any]], summed: list[dict[str, Any]], args: Any, *paths: Path) -> None:
    """Bits per byte against FLOPs and against seconds: each run's way there thin, what it came to thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    specs = list(dict.fromkeys(run["config"] for run in found))
    for axes, x in zip(panels, ("flops", "seconds"), strict=True):
        for i, spec in enumerate(specs):
            style = {"color": COLOURS[i % 7], "linestyle": DASHES[i % 7]}
            ends = []
            for summary in (s for s in summed if s["config"] == spec):
                group = [r for r in found if r["config"] == spec and r["budget"] == summary["budget"]]
                points = list(zip(*(run["curve"] for run in group), strict=False))
                at = [statistics.fmean(p[x] for p in point) for point in points]
                bits = [[p["bits_per_byte"] for p in point] for point in points]
                axes.plot(at, [statistics.fmean(b) for b in bits], lw=1, alpha=0.7, **style)
                axes.fill_between(
                    at, [min(b) for b in bits], [max(b) for b in bits], color=style["color"], alpha=0.15
                )
                ends.append((at[-1], bits[-1]))
            means = [statistics.fmean(b) for _, b in ends]
            spread = [[m - min(b) for m, (_, b) in zip(means, ends, strict=True)]]
            spread += [[max(b) - m for m, (_, b) in zip(means, ends, strict=True)]]
            axes.errorbar(
                [at for at, _ in ends], means, spread, capsize=4, lw=2.2, marker=MARKERS[i % 7], ms=8,
                markeredgecolor="white", label=spec, **style,
            )  # fmt: skip
        decades(axes, powers=x == "flops")
    panels[0].set(xlabel="training FLOPs", ylabel="bits per byte, held out", title="by operations")
    panels[1].set(xlabel="training time, s", title="by time")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    seeds = len({run["seed"] for run in found})
    figure.suptitle(
        f"Held-out bits per byte at equal {args.unit}; {seeds} seed{'s' * (seeds > 1)}: mean, lowest, "
        "highest\n"
        "Large markers: where a run's schedule ends. Thin lines: on the way there."
    )
    for path in paths:
        figure.savefig(path, dpi=130)
