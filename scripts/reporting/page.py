"""The page that the report is: an answer first, then the sections with their pictures and commands."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting.matched import BOUNDED, CORPORA, FLATS
from reporting.plan import Found, Section, Settings, published, record_of, write

SUFFIXES = (".png", ".svg")
OTHERS = "Other figures: [small runs](runs.md), [input and speed](speed.md), and those of each page of docs/."
Figures = Mapping[str, Any]


def save(section: Section, found: Found, settings: Settings, out: Path) -> Found:
    """Writes a section's JSON, Markdown and plots to `out`."""
    import matplotlib

    commands = published(record_of(section.name, settings))
    record = {"title": section.title, "commands": commands, "figures": found.figures}
    text = json.dumps(plain(record, settings), indent=1, allow_nan=False, ensure_ascii=False)
    write(out / f"{section.name}.json", text + "\n")
    write(out / f"{section.name}.md", settings.clean(found.markdown) + "\n")
    for name, drawn in found.plots.items():
        if isinstance(drawn, Path):  # a picture that a script made; not all of them make both kinds
            for suffix in SUFFIXES:
                source = drawn.with_suffix(suffix)
                if source.is_file():
                    (out / f"{name}{suffix}").write_bytes(source.read_bytes())
        else:
            figure = drawn()
            with matplotlib.rc_context({"svg.hashsalt": name}):  # the same figures, the same file
                for suffix in SUFFIXES:
                    metadata = {"Date": None} if suffix == ".svg" else None
                    figure.savefig(out / f"{name}{suffix}", dpi=120, metadata=metadata)
    return found


def plain(value: Any, settings: Settings) -> Any:
    """For JSON: numbers that are not finite become None, and texts are clean."""
    if isinstance(value, Mapping):
        return {settings.clean(str(k)): plain(x, settings) for k, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x, settings) for x in value]
    if isinstance(value, str):
        return settings.clean(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(
    sections: Sequence[Section], found: Mapping[str, Found], skipped: Mapping[str, str], settings: Settings,
    out: Path, command: str,
) -> Path:  # fmt: skip
    """results.md beside `out`, and report.json in it."""
    figures = {name: one.figures for name, one in found.items()}
    records = {section.name: record_of(section.name, settings) for section in sections}
    answers = answer(figures)
    parts = [
        "# Results",
        *(["**Made with --quick: small sizes, figures that say nothing.**"] * settings.quick),
    ]
    parts += [_filled(" ".join(answers)) if answers else "What would be said first is not measured yet."]
    parts += [_made(records, command), *_contents(sections, skipped)]
    for section in sections:
        one = found[section.name]
        parts += [f"## {section.title}", settings.clean(one.markdown)]
        parts += [f"![{section.title}]({out.name}/{name}.png)" for name in one.plots]
        parts.append(_commands(records[section.name], out.name, section.name))
    parts += [] if settings.quick else [OTHERS]
    path = out.parent / "results.md"
    write(path, "\n\n".join(parts) + "\n")
    summary = {"command": command, "quick": settings.quick, "answers": answers, "skipped": dict(skipped)}
    text = json.dumps(plain(summary, settings), indent=1, ensure_ascii=False)
    write(out / "report.json", text + "\n")
    return path


def _filled(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _made(records: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """Command, machine, versions and dates."""
    done = [one for record in records.values() for one in record.values()]
    if not done:
        return f"Made by `{command}`."
    machines = ", ".join(dict.fromkeys(one["machine"] for one in done))
    versions = "; ".join(
        dict.fromkeys(", ".join(f"{name} {v}" for name, v in one["versions"].items()) for one in done)
    )
    dates = sorted(one["date"] for one in done)
    seconds = sum(one["seconds"] for one in done)
    took = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"Made by `{command}` in {took}, {when}; {machines}; {versions}. DATA is the folder of "
        "the data, WORK that of the runs."
    )


def _contents(sections: Sequence[Section], skipped: Mapping[str, str]) -> list[str]:
    def anchor(title: str) -> str:
        return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")

    lines = [f"* [{section.title}](#{anchor(section.title)})" for section in sections]
    parts = ["\n".join(lines)] if lines else []
    if skipped:
        parts.append("Not here: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + ".")
    return parts


def _commands(record: Mapping[str, Any], folder: str, name: str) -> str:
    lines = [f"{one['command']}  # {one['date']}, {one['seconds']:,.0f} s" for one in record.values()]
    fence = "`" * 3
    summary = f'Commands; figures in <a href="{folder}/{name}.json">{name}.json</a>'
    return "\n".join([f"<details><summary>{summary}</summary>\n", fence, *lines, fence, "\n</details>"])


# ---- the answer ----------------------------------------------------------------------------------------


def answer(figures: Figures) -> list[str]:
    """Sentences with numbers: what is cheaper, how far from BPE, what conversion changes, what it costs."""
    said = []
    for corpus in ("books", "python"):
        if corpus in figures:
            said += [_cheaper(corpus, figures[corpus]), _from_tokens(corpus, figures[corpus])]
    if "factors" in figures:
        said.append(_tables(figures["factors"]))
    if {"books", "python"} <= set(figures):
        said.append(_best(figures))
    if "bias" in figures:
        said.append(_bias(figures["bias"]))
    if "factors" in figures:
        runs = figures["factors"]["exact"]["runs"]
        least, most = (f(run["canonical"] - run["exact"] for run in runs) for f in (min, max))
        said.append(
            "Of BPE models trained here the exact bytes cost "
            f"{_span(least, most, '.4f')} bits per byte less than the canonical tokens."
        )
    if "costs" in figures:
        said.append(_costs(figures["costs"]))
    return said


def _named(figures: Figures, unit: str) -> dict[str, Any]:
    return {figures["names"][s["config"]]: s for s in figures[unit]["summary"]}


def _cheaper(corpus: str, figures: Figures) -> str:
    bits = {name: s["bits_per_byte"] for name, s in _named(figures, "seconds").items()}
    budget, parts = figures["seconds"]["summary"][0]["budget"], []
    flats = ("a flat one as deep and wide", "a smaller flat one with windows")
    for flat, named in zip(FLATS, flats, strict=True):
        time, work = (
            _times(figures["cheaper"][flat][unit], less, what)
            for unit, less, what in (("seconds", "less", "time"), ("flops", "fewer", "operations"))
        )
        parts.append(f"{named} ({bits[flat]:.3f}) in {time} and {work}")
    return (
        f"On {CORPORA[corpus]} the word-pooled model ({bits['word-pooled']:.3f} bits per byte after "
        f"{budget:g} s) comes to the bits per byte of {', of '.join(parts)}."
    )


def _times(one: Mapping[str, Any], less: str, what: str) -> str:
    """How much less; where it was there at its first evaluation, no more is known than when that was."""
    if one["times"] is None or one["times"] < 1:
        return f"more {what}"
    seeds = [x for x in one["by_seed"].values() if x is not None]
    spread = f" ({min(seeds):.1f} to {max(seeds):.1f} by seed)" if len(seeds) > 1 and not one["first"] else ""
    first = ", there at its first evaluation" if one["first"] else ""
    return f"at least {one['times']:.1f} times {less} {what}{spread}{first}"


def _from_tokens(corpus: str, figures: Figures) -> str:
    gaps = []
    for unit in ("seconds", "flops"):
        ours, theirs = (_named(figures, unit)[name] for name in ("word-pooled", "BPE, 8,192"))
        errors = [s["standard_error_seeds"] for s in (ours, theirs)]
        error = "" if None in errors else f" ± {math.hypot(*errors):.3f}"
        gaps.append(f"{ours['bits_per_byte'] - theirs['bits_per_byte']:+.3f}{error}")
    return (
        f"From BPE of 8,192 tokens it is {gaps[0]} bits per byte away at equal seconds and {gaps[1]} at "
        "equal "
        "FLOPs (plus: worse; BPE's are bits of canonical tokens, a bound)."
    )


def _tables(figures: Figures) -> str:
    """How much of it the tables of n-grams do, which no flat model has."""
    names, by = figures["groups"], {s["config"]: s["bits_per_byte"] for s in figures["summary"]}
    ours, without = (
        by[names["n-grams, span"][name]] for name in ("4,096 rows, 1 word (default)", "no n-grams")
    )
    flat = by[names["flat"]["window 128, smaller"]]
    return (
        f"Its hashed n-gram tables do a part of that: after {figures['budget']} of books, one seed, it has "
        f"{without:.3f} without them, {ours:.3f} with them, and the smaller flat model {flat:.3f}."
    )


def _best(figures: Figures) -> str:
    """The byte model with the lowest mean of both corpora at equal seconds, of those whose bits are exact."""
    found = {corpus: _named(figures[corpus], "seconds") for corpus in ("books", "python")}
    bytes_ = [name for name in found["books"] if name not in BOUNDED]
    mean = {name: sum(found[c][name]["bits_per_byte"] for c in found) / 2 for name in bytes_}
    best, second = sorted(bytes_, key=mean.__getitem__)[:2]
    config = found["books"][best]["config"]
    return (
        f"The best byte model here is {best} (`{config}`): at equal seconds {mean[best]:.3f} bits per byte "
        f"over both corpora, {mean[second] - mean[best]:.3f} less than the next, {second}: it reads more "
        "text "
        "in "
        "the same time than models that run over bytes, and a word's bytes see each other."
    )


def _bias(figures: Figures) -> str:
    lost = {name: places["inside a token"] for name, places in figures.items()}
    parts = [f"{f['token'][0]:.1f} ({name})" for name, f in lost.items() if f["token"]]
    healed = [f"{f['healing'][0]:.1f}" for f in lost.values() if f["healing"]]
    return (
        "Exact conversion changes what follows a prompt that ends inside a token: the plain prompt needs "
        f"{' and '.join(parts)} bits more for the true rest of the text, with token healing "
        f"{' and '.join(healed)}."
    )


def _costs(figures: Figures) -> str:
    ratios = [s["ratio"] for s in figures["scored"]]
    modes = {mode: [g[mode] / g["tokens"] for g in figures["generated"]] for mode in ("boundary", "bytewise")}
    scoring, boundary, bytewise = (
        _span(min(x), max(x)) for x in (ratios, modes["boundary"], modes["bytewise"])
    )
    return (
        f"It costs: scoring at {scoring} of the speed of plain tokens, generation at {boundary} token by "
        f"token and {bytewise} byte by byte."
    )


def _span(low: float, high: float, form: str = ".2f") -> str:
    shown = [format(x, form) for x in (low, high)]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"
