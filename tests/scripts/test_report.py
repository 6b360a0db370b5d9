"""scripts/report.py: its commands can run, what is left is run and no more, and what it says of figures."""

from __future__ import annotations

import importlib
import json
import math
import shlex
import sys
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


def test_what_is_left_is_run_and_no_more(plan, tmp_path):
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
    assert plan.execute(section, settings, said.append) is None
    assert (ran.read_text(), len(said)) == ("abc", 3)
    assert (tmp_path / "work/made/two.txt").read_text() == "b\n"
    record = plan.record_of(section, settings)
    assert set(record) == set(words)
    assert set(record["one"]) == {"command", "date", "seconds", "machine", "versions"}
    assert plan.execute(section, settings, said.append) is None
    assert ran.read_text() == "abc"  # nothing again
    words["two"] = "x"
    assert "two ended with status 1" in plan.execute(section, settings, said.append)
    assert ran.read_text() == "abcx"
    words["two"] = "d"  # another command, and what comes after it
    assert plan.execute(section, settings, said.append) is None
    assert ran.read_text() == "abcxdc"
    assert plan.left(section, settings) == []


# ---- gathering -----------------------------------------------------------------------------------------


@pytest.fixture
def measured(report, plan, settings):
    """Settings under which every section has run, with outputs made up."""
    canned_report.write_outputs(settings)
    for section in report.SECTIONS:
        for path in section.needs:
            canned_report.write(Path(settings.at(path)), "")
        record = {}
        for command in section.commands(settings):
            said = settings.clean(str(command))
            record[command.name] = {"command": said, "date": "2026-01-02", "seconds": 60.0, **plan.machine()}
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
    assert "the word-pooled model (2.400 bits per byte after 300 s)" in answer
    assert "+0.100 bits per byte away at equal seconds" in answer
    assert "The best byte model here is word-pooled (`default`)" in answer
    assert "needs 28.0 (stories260K) and 28.0 (TinyStories-656K) bits more" in answer
    assert (
        "scoring at 0.30 of the speed of plain tokens, generation at 0.82 token by token and 0.26" in answer
    )
    written = sorted(out.iterdir())
    for section in report.SECTIONS:
        assert json.loads((out / f"{section.name}.json").read_text())["commands"]
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
