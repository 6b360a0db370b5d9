"""scripts/check_docs.py: which commands a page has, that they run, and what is wrong with the others."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = "`" * 3


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield [importlib.import_module(name) for name in ("check_docs", "documented.blocks", "documented.usage")]
    sys.path.remove(str(ROOT / "scripts"))


def page(comment, body, language="bash"):
    return f"# Title\n\n{comment}\n{FENCE}{language}\n{body}\n{FENCE}\n\nText.\n"


def test_what_is_a_block(modules):
    _, blocks, _ = modules
    text = page("<!-- run: quick -->", "python a.py  # why\n\n# alone\nb \\\n    --c")
    comment = "Shown:\n\n<!-- run: long, minutes\nln -s x y\ntouch $DATA\n-->"
    text += page(comment, "$ one \\\n    two\nits output\n$ three", "console")
    text += f"{FENCE}python\nnot a command\n{FENCE}\n\n<!-- run: never, needs a GPU -->\n\n"
    text += f"  {FENCE}bash\n  indented\n  {FENCE}\n"
    first, second, third = blocks.blocks(text)
    assert (first.line, first.kind, first.setup, first.needs_data) == (4, "quick", (), False)
    assert first.commands == ("python a.py  # why", "b \\\n    --c")
    assert (second.kind, second.setup, second.needs_data) == ("long", ("ln -s x y", "touch $DATA"), True)
    assert second.commands == ("one \\\n    two", "three")
    assert (third.kind, third.commands) == ("never", ("indented",))


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("", "line 4: no comment"),
        ("<!-- other -->", "line 4: no comment"),
        ("<!-- run: quick -->\nSome text.\n", "line 6: no comment"),
        ("<!-- run: soon -->", "line 4: run: soon; known are quick, long, never"),
        ("<!-- run: never -->", "line 4: run: never wants a reason"),
    ],
)
def test_a_block_without_its_comment(modules, comment, message):
    with pytest.raises(ValueError, match=message):
        modules[1].blocks(page(comment, "true"))


@pytest.fixture
def repository(tmp_path):
    """A folder with a page; `write(comment, body)` sets its block."""
    folder = tmp_path / "repository"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "made.py").write_text("print('made')\n")

    def write(comment, body):
        path = folder / "page.md"
        path.write_text(page(comment, body))
        return path, folder

    return write


def test_a_command_runs_in_a_copy_as_written(modules, repository, capfd):
    path, folder = repository("<!-- run: quick\necho before > told\n-->", "test -f told && touch made | cat")
    assert modules[0].check(path, True, None, folder) == []
    assert "page.md:6  ran" in capfd.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == [
        "page.md",
        "scripts",
    ]  # what it wrote went to the copy


@pytest.mark.parametrize(
    "body", ["false | cat", "false\ntrue", "python -c 'import sys; sys.exit(3)'", "echo $UNSET"]
)
def test_a_command_that_fails(modules, repository, body):
    path, folder = repository("<!-- run: quick -->", f"{body}\necho reached")
    (problem,) = modules[0].check(path, True, None, folder)
    assert problem.startswith("page.md:4: status ")
    assert "reached" not in problem


def test_what_takes_long_runs_unless_quick_and_data_only_where_given(modules, repository, tmp_path, capfd):
    path, folder = repository("<!-- run: long -->", "false")
    assert modules[0].check(path, True, None, folder) == []
    assert len(modules[0].check(path, False, None, folder)) == 1
    path, folder = repository("<!-- run: quick -->", "test -d $DATA && false")
    assert modules[0].check(path, False, None, folder) == []
    assert "not run, needs --data" in capfd.readouterr().out
    assert len(modules[0].check(path, False, tmp_path, folder)) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py flat --training.steps 3 --workdir x && bytelm info x | tail -3", None),
        ("X=1 srun .venv/bin/python train.py words_1b --hosts.auto  # several hosts", None),
        ("python scripts/compare.py flat 'default --model.rule runs' --seconds 60 > log 2>&1", None),
        ("python scripts/plan.py words_1b --devices 8 --quick --training.accumulate 16", None),
        ("python train.py flat \\\n    --training.steps 3", None),
        ("pip install something", None),
        ("python train.py no_such_config", "no config 'no_such_config'"),
        ("python train.py flat --training.stepz 3", "stepz"),
        ("python train.py flat \\\n    --training.stepz 3", "stepz"),
        ("python train.py flat --training.steps three", "three"),
        ("cd x; bytelm score a --date b", "--date"),
        ("bytelm no-such-command", "no-such-command"),
        ("python scripts/no_such.py", "scripts/no_such.py does not exist"),
        ("python scripts/next_word.py runs/a --splitt valid", "--splitt"),
        ("python scripts/plan.py words_1b --training.stepz 3", "stepz"),
        ("bash .ci/no_such", ".ci/no_such does not exist"),
        ("cat scripts/next_word.py", None),  # which takes arguments, and gets none
        ("python docs/examples/inside_a_word.py", None),  # has no parser, and is not run
        ("echo 'open", "No closing quotation"),
    ],
)
def test_what_a_command_names_must_exist(modules, command, message):
    found = modules[2].wrong(command, ROOT)
    assert found is None if message is None else message in found


def test_what_takes_too_long_ends_with_all_that_it_started(modules, repository, monkeypatch, tmp_path):
    monkeypatch.setitem(modules[0].PATIENCE, "quick", 1.0)
    path, folder = repository("<!-- run: quick -->", f"(sleep 3; touch {tmp_path}/later) & sleep 60")
    (problem,) = modules[0].check(path, True, None, folder)
    assert "took longer than 1 s" in problem
    time.sleep(3)
    assert not (tmp_path / "later").exists()
