"""Makes docs/results.md: runs the measurements of the report, and gathers tables and plots.

    python scripts/report.py --data DIR --jobs 2                 hours on two cores
    python scripts/report.py --quick --data DIR --jobs 2         every table and plot, small
    python scripts/report.py --list [--quick] [--data DIR]       what there is, and what is left to run

DIR holds text/, models/, tokenizers/ and fim/; --list says what is needed and not there. A section whose data
are missing is skipped and said so. Every command that ends is written down in WORK/SECTION/record.json with
its date, seconds, versions and machine; the same call again runs only what is left, and gathers. Writes JSON,
Markdown and plots of each section to OUT, and the page beside OUT (OUT/../results.md).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from reporting import converted, factors, matched, page, robust, uses  # noqa: E402
from reporting.plan import Section, Settings, WorkError, left, record_of  # noqa: E402
from reporting.running import alone, execute  # noqa: E402

SECTIONS: list[Section] = [
    *matched.SECTIONS, *factors.SECTIONS, *robust.SECTIONS, *converted.SECTIONS, *uses.SECTIONS
]  # fmt: skip


def main() -> None:
    args = parse(sys.argv[1:])
    data = None if args.data is None else args.data.resolve()
    settings = Settings(args.quick, args.work.resolve(), data, args.jobs)
    chosen = [section for section in SECTIONS if not args.only or section.name in args.only]
    try:
        for section in SECTIONS:  # what cannot be read is said now, not after hours
            record_of(section.name, settings)
        if args.list:
            for section in chosen:
                print(listed(section, settings))
            return
        with alone(settings.work):
            problems = made(chosen, settings, args.out, args.command)
    except WorkError as error:
        sys.exit(f"report.py: error: {error}")
    if problems:
        sys.exit(
            f"report.py: {len(problems)} of {len(chosen)} sections failed; the same call goes on from there"
        )


def made(chosen: list[Section], settings: Settings, out: Path, command: str) -> list[str]:
    """Runs what is left of some sections, and writes the page; what went wrong."""
    problems = []
    for section in chosen:
        reason = unready(section, settings)
        if reason:
            say(f"{section.name}: skipped: {reason}")
        elif problem := execute(section, settings, say):
            say(problem)
            problems.append(problem)
    return problems + gathered(settings, out, command)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="small: every table and plot, no figure that says anything")
    add("--data", type=Path, help="the folder of texts, models, tokenizers and benchmarks")
    add("--out", type=Path, help="(default: docs/results; with --quick WORK/results)")
    add("--work", type=Path, help="runs and records (default: runs/report; with --quick runs/report-quick)")
    add("--only", nargs="+", metavar="SECTION", choices=[section.name for section in SECTIONS])
    add("--jobs", type=int, default=1, help="training runs at a time, each on its share of the cores")
    add("--list", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    if args.data is not None and not args.data.is_dir():
        parser.error(f"--data {args.data}: no such folder")
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; it is at least 1")
    args.command = shown(args)
    args.work = args.work or Path("runs/report-quick" if args.quick else "runs/report")
    args.out = args.out or (args.work / "results" if args.quick else ROOT / "docs" / "results")
    return args


def shown(args: argparse.Namespace) -> str:
    """The call as a page shows it: folders by their names in capitals."""
    words = ["python", "scripts/report.py", *["--quick"] * args.quick]
    for name in ("data", "work", "out"):
        words += [] if getattr(args, name) is None else [f"--{name}", name.upper()]
    words += [] if args.jobs == 1 else ["--jobs", str(args.jobs)]
    return shlex.join(words + (["--only", *args.only] if args.only else []))


def unready(section: Section, settings: Settings) -> str | None:
    """Why a section cannot be run now, or None."""
    by_name = {other.name: other for other in SECTIONS}
    waits = [name for name in section.after if left(by_name[name], settings)]
    return section.missing(settings) or (f"needs the section {', '.join(waits)}" if waits else None)


def listed(section: Section, settings: Settings) -> str:
    """A section, its state, and its commands, those that are left marked."""
    reason = unready(section, settings)
    waiting = {command.name for command, _ in left(section, settings)}
    state = f"skipped: {reason}" if reason else f"{len(waiting)} commands left" if waiting else "finished"
    lines = [
        f"  {'-' if command.name in waiting else '+'} {settings.clean(str(command))}"
        for command in section.commands(settings)
    ]
    return "\n".join([f"{section.name}: {section.title} ({state})", *lines])


def gathered(settings: Settings, out: Path, command: str) -> list[str]:
    """Writes what every finished section says, and the page; the problems on the way."""
    found, skipped, problems = {}, {}, []
    for section in SECTIONS:
        if reason := unready(section, settings):
            skipped[section.name] = reason
        elif left(section, settings):
            skipped[section.name] = "not finished"
        else:
            try:
                found[section.name] = page.save(section, section.gather(settings), settings, out)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                traceback.print_exc()
                problems.append(f"{section.name}: what it measured could not be read: {error!r}")
                skipped[section.name] = "could not be gathered"
    sections = [section for section in SECTIONS if section.name in found]
    path = page.write_page(sections, found, skipped, settings, out, command)
    say(f"written: {path} and {len(found)} sections in {out}")
    return problems


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
