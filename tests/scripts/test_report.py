"""scripts/report.py: its commands can run, what is left is run and no more, and what it says of figures."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import canned_report
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("report")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def plan(report):
    return importlib.import_module("reporting.plan")


@pytest.fixture
def running(report):
    return importlib.import_module("reporting.running")


@pytest.fixture(params=["full", "quick"])
def settings(request, plan, tmp_path):
    data = tmp_path / "private" / "data"
    data.mkdir(parents=True)
    return plan.Settings(request.param == "quick", tmp_path / "work", data, 2)


# ---- commands ------------------------------------------------------------------------------------------


def test_every_command_has_flags_that_its_program_takes(report, settings):
    usage = importlib.import_module("documented.usage")
    compare = importlib.import_module("compare")
    resolved = set()
    for section in report.SECTIONS:
        for command in section.commands(settings):
            if "scripts/compare.py" not in command.words:
                assert usage.wrong(shlex.join(command.words), ROOT) is None
                continue
            args = compare.parse(list(command.words[2:]))
            assert len({compare.slug(config) for config in args.configs}) == len(args.configs)
            for config in {*args.configs} - resolved:
                compare.resolve(config, args)
            resolved |= {*args.configs}
    wrong = ["python", "scripts/next_word.py", "RUN", "--splitz", "valid"]  # control
    assert "--splitz" in usage.wrong(shlex.join(wrong), ROOT)


def test_missing_data_and_sections_before_it_are_said(report, plan, settings):
    by_name = {section.name: section for section in report.SECTIONS}
    assert "text/books/train.jsonl.gz" in by_name["books"].missing(settings)
    assert "needs --data" in by_name["bias"].missing(plan.Settings(True, settings.work))
    assert by_name["python"].missing(settings) is None
    for path in by_name["noise"].needs:
        Path(settings.at(path)).parent.mkdir(parents=True, exist_ok=True)
        Path(settings.at(path)).write_text("")
    assert report.unready(by_name["noise"], settings) == "needs the section books"
    assert "commands left" in report.listed(by_name["python"], settings)


# ---- running -------------------------------------------------------------------------------------------


def test_what_is_left_is_run_and_no_more(plan, running, tmp_path):
    settings, ran = plan.Settings(True, tmp_path / "work"), tmp_path / "ran"
    words = {"one": "a", "two": "b", "three": "c"}

    def commands(settings):
        code = (
            "import sys; open({!r}, 'a').write(sys.argv[1]); print(sys.argv[1]); sys.exit(sys.argv[1] == 'x')"
        )
        return [
            plan.Command(n, ("python", "-c", code.format(str(ran)), w), f"{n}.txt") for n, w in words.items()
        ]

    section = plan.Section("made", "Made", commands, None)
    said = []
    assert running.execute(section, settings, said.append) is None
    assert (ran.read_text(), len(said)) == ("abc", 3)
    assert (tmp_path / "work/made/two.txt").read_text() == "b\n"
    record = plan.record_of("made", settings)
    assert set(record) == set(words)
    assert set(plan.published(record)["one"]) == {"command", "date", "seconds", "machine", "versions"}
    assert running.execute(section, settings, said.append) is None
    assert ran.read_text() == "abc"  # nothing again
    words["two"] = "x"
    assert "two ended with status 1" in running.execute(section, settings, said.append)
    assert ran.read_text() == "abcx"
    words["two"] = "d"  # another command, and what comes after it
    assert running.execute(section, settings, said.append) is None
    assert ran.read_text() == "abcxdc"
    assert plan.left(section, settings) == []


def echoes(plan, words, name="made", **more):
    """A section whose commands append their words to its file `ran`; one that is x fails."""

    def commands(settings):
        ran = settings.work / name / "ran"
        code = f"import sys; open({str(ran)!r}, 'a').write(sys.argv[1]); sys.exit(sys.argv[1] == 'x')"
        flags = ["--jobs", str(settings.jobs), settings.at("text")]
        return [plan.Command(n, ("python", "-c", code, w, *flags)) for n, w in words.items()]

    return plan.Section(name, name, commands, None, **more)


def test_what_comes_after_a_failed_command_is_left_too(plan, running, tmp_path):
    settings, words = plan.Settings(True, tmp_path / "work"), {"one": "a", "two": "b"}
    section = echoes(plan, words)
    assert running.execute(section, settings, print) is None
    words["one"], words["two"] = "c", "x"
    assert "two ended" in running.execute(section, settings, print)
    words["two"] = "b"  # as it was recorded, from what a had made
    assert [command.name for command, _ in plan.left(section, settings)] == ["two"]
    words["one"] = "x"
    assert "one ended" in running.execute(section, settings, print)
    assert plan.record_of("made", settings) == {}


def test_a_section_is_left_when_one_that_it_reads_is_made_anew(plan, running, tmp_path):
    settings, words = plan.Settings(True, tmp_path / "work"), {"one": "a"}
    first, second = echoes(plan, words, "first"), echoes(plan, {"two": "b"}, "second", after=("first",))
    for section in (first, second):
        assert running.execute(section, settings, print) is None
    assert plan.left(second, settings) == []
    for word in ("c", "a"):  # and back again: another measurement all the same
        words["one"] = word
        assert running.execute(first, settings, print) is None
    assert [command.name for command, _ in plan.left(second, settings)] == ["two"]


def test_other_data_are_another_run_and_other_jobs_are_not(plan, running, tmp_path):
    settings = plan.Settings(True, tmp_path / "work", tmp_path / "one")
    section = echoes(plan, {"one": "a"})
    assert running.execute(section, settings, print) is None
    assert plan.left(section, replace(settings, jobs=4)) == []
    other = replace(settings, data=tmp_path / "two")
    assert len(plan.left(section, other)) == 1
    shown = plan.record_of("made", settings)["one"]["command"]
    assert shown == other.clean(str(section.commands(other)[0]))  # control: they look alike
    assert "DATA/text" in shown


@pytest.mark.parametrize("text", ["[]", '{"a": 3}', '{"a": {"command": "b"}}', "{", b"\xff"])
def test_what_is_no_record_is_named(report, plan, tmp_path, monkeypatch, text):
    path = tmp_path / "work" / "words" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sys, "argv", ["report.py", "--list", "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match=r"report.py: error: .*words/record.json"):
        report.main()
    path.write_text("{}")
    report.main()


KILLED = """
import sys
from pathlib import Path
from reporting import plan, running
work = Path(sys.argv[1])
code = (
    "import pathlib, subprocess, sys, time; work = pathlib.Path(sys.argv[1]);"
    "sys.exit() if (work / 'go').exists() else None;"
    "child = subprocess.Popen(['sleep', '60']); (work / 'part').write_text(str(child.pid));"
    "(work / 'part').replace(work / 'pid'); time.sleep(60)"
)
one = plan.Command("one", ("python", "-c", code, str(work)))
made = plan.Section("made", "", lambda settings: [one], None)
running.NOTED = 0.1
with running.alone(work):
    running.execute(made, plan.Settings(True, work), print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kill_ends_the_command_and_its_seconds_add_up(plan, running, tmp_path, number):
    def call():
        # Whoever runs the tests in the background may have had SIGINT ignored.
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, preexec_fn=heard
        )

    def until(found):
        end = time.monotonic() + 30
        while not found():
            assert time.monotonic() < end
            time.sleep(0.02)

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    with call() as first:
        until((tmp_path / "pid").exists)
        with pytest.raises(plan.WorkError, match="another call is at work there"), running.alone(tmp_path):
            pass
        unfinished = tmp_path / "made/unfinished.json"
        until(lambda: unfinished.exists() and json.loads(unfinished.read_text())["seconds"] >= 0.5)
        first.send_signal(number)
        assert first.wait(30) != 0
    try:  # the command's own child
        state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat").read_text().split(") ")[1][0]
    except OSError:
        state = "gone"
    assert state in ("gone", "Z")
    before = json.loads(unfinished.read_text())["seconds"]
    (tmp_path / "go").touch()
    with call() as second:
        assert second.wait(30) == 0
    record = plan.record_of("made", plan.Settings(True, tmp_path))
    assert record["one"]["seconds"] >= before >= 0.5
    assert not unfinished.exists()


# ---- what is shown ---------------------------------------------------------------------------------------


def test_paths_of_this_machine_are_not_shown(report, plan, tmp_path):
    settings = plan.Settings(True, Path("/x/data/w"), Path("/x/data"))
    for text, clean in {
        "A=/x/data/t.txt '/x/data'": "A=DATA/t.txt 'DATA'",
        "/x/data2/w /x/data-2 /y/x/data /x/data.old": "/x/data2/w /x/data-2 /y/x/data /x/data.old",
        "/x/data/w/a in /x/data/wide.": "WORK/a in DATA/wide.",
        f"in /x/data. {ROOT}/scripts/a.py {ROOT}": "in DATA. scripts/a.py .",
    }.items():
        assert settings.clean(text) == clean
    figures = importlib.import_module("reporting.page").plain({"a": ["b\n/x/data/c"]}, settings)
    assert figures == {"a": ["b\nDATA/c"]}
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    args = report.parse(
        ["--jobs", "2", "--data", f"{tmp_path}/real/../link", "--only", "words", "--out", "o"]
    )
    assert args.command == "python scripts/report.py --data DATA --out OUT --jobs 2 --only words"


# ---- gathering -----------------------------------------------------------------------------------------


@pytest.fixture
def measured(report, plan, settings):
    """Settings under which every section has run, with outputs made up."""
    canned_report.write_outputs(settings)
    for section in report.SECTIONS:
        for path in section.needs:
            canned_report.write(Path(settings.at(path)), "")
        record = {}
        for command, key in plan.left(section, settings):
            said = settings.clean(str(command))
            done = {"command": said, "date": "2026-01-02", "seconds": 60.0, **plan.machine()}
            record[command.name] = {**done, "key": key}
        canned_report.write(settings.work / section.name / "record.json", record)
    return settings


@pytest.mark.parametrize("settings", ["full"], indirect=True)
def test_all_that_was_measured_is_said(report, plan, measured, monkeypatch):
    monkeypatch.setattr(plan, "installed", lambda name: True)  # lm-eval need not be, to gather
    out = measured.work / "out" / "results"
    assert report.gathered(measured, out, "python scripts/report.py") == []
    page = (out.parent / "results.md").read_text()
    assert "Not here" not in page
    assert page.count("\n## ") == len(report.SECTIONS)
    answer = " ".join(page.split("\n\n")[1].split())
    # The curve of the word-pooled model falls to the flat one's 3.0 between 3/5 and 4/5 of the budget.
    times = 1 / math.exp(math.log(0.6) + (3.15 - 3.0) / (3.15 - 2.65) * (math.log(0.8) - math.log(0.6)))
    assert f"a flat one as deep and wide (3.000) in at least {times:.1f} times less time and" in answer
    assert "it has 2.700 without them, 2.400 with them, and the smaller flat model 2.800" in answer
    assert "the word-pooled model (2.400 bits per byte after 300 s)" in answer
    assert "+0.100 bits per byte away at equal seconds" in answer
    assert "The best byte model here is word-pooled (`default`)" in answer
    assert "needs 28.0 (stories260K) and 28.0 (TinyStories-656K) bits more" in answer
    assert (
        "scoring at 0.30 of the speed of plain tokens, generation at 0.82 token by token and 0.26" in answer
    )
    written = sorted(out.iterdir())
    for section in report.SECTIONS:
        commands = json.loads((out / f"{section.name}.json").read_text())["commands"]
        assert all(set(one) == set(plan.FIELDS) for one in commands.values())
        assert commands
        assert (out / f"{section.name}.md").read_text()
        picture = section.name.replace("ensembles", "mixtures")
        assert (out / f"{picture}.png").stat().st_size
    for path in written:
        if path.suffix != ".png":
            assert "private" not in path.read_text(), path  # no path of this machine
            assert str(measured.work) not in path.read_text(), path


@pytest.mark.parametrize("settings", ["quick"], indirect=True)
def test_what_cannot_be_read_is_said_and_the_rest_is_made(report, plan, measured, monkeypatch):
    monkeypatch.setattr(plan, "installed", lambda name: True)
    monkeypatch.setattr(report.page, "SUFFIXES", ())  # drawing takes long
    canned_report.write(measured.work / "words/words.json", "{}")
    (measured.work / "noise/record.json").unlink()
    out = measured.work / "out" / "results"
    (problem,) = report.gathered(measured, out, "python scripts/report.py")
    assert problem.startswith("words: what it measured could not be read")
    page = (out.parent / "results.md").read_text()
    assert "figures that say nothing" in page
    assert "noise (not finished)" in page
    assert "## Ensembles" in page


def test_costs_that_are_not_there_are_an_error(report):
    converted = importlib.import_module("reporting.converted")
    assert converted.parsed(canned_report.COSTS)["scored"][0] == {
        **{"text": "English", "bytes": 1000.0, "tokens": 10.0, "ours": 3.0, "ratio": 0.3, "limit": 0.25}
    }
    with pytest.raises(ValueError, match="no figures"):
        converted.parsed("nothing")
