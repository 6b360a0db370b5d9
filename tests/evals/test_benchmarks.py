"""Files of benchmarks, what is refused in them, and the true answers, which pass."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from real_data import real

from bytelm.evals import benchmarks, sandbox
from bytelm.evals.following import Outcome
from bytelm.evals.sandbox import Limits, Sandbox

HUMAN = {
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(f):\n    assert f() == 1\n",
}
MBPP = {
    "text": "One.",
    "code": "def one():\r\n    return 1",
    "task_id": 3,
    "test_setup_code": "",
    "test_list": ["assert one() == 1"],
    "challenge_test_list": [],
}
SAFIM = {
    "lang": "python",
    "prompt": "unused",
    "eval_prompt": "x = input()\nprint({{completion}})\n",
    "ground_truth": "x  + x",
    "task_id": "block_completion_1",
    "unit_tests": [{"input": "a", "output": ["a a", "aa"]}, {"input": "bé", "output": ["bébé"]}],
}
SANTA = {
    "name": "n",
    "language": "py",
    "prompt": "a = [\n",
    "suffix": "]\n",
    "canonical_solution": "    1,",
    "tests": "",
}


def infilling(split="SingleLineInfilling", name="0/L0", **changes):
    record = {
        "task_id": f"{split}/HumanEval/{name}",
        **HUMAN,
        "prompt": "def one():\n    x = 1\n",
        "suffix": "    return x\n",
        "canonical_solution": "    x = x * 1\n",
    }
    return record | changes


def written(path, *records):
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture(scope="module")
def run():
    """Runs a program; contained where it can be, and these here are ours where it cannot."""
    with Sandbox(Limits(seconds=20), workers=2, unsafe=True) as box:
        yield box.run


def test_plain_gzipped_and_parquet(tmp_path):
    records = [infilling(), infilling(name="1/L0")]
    plain = benchmarks.read(written(tmp_path / "a.jsonl", *records))
    zipped = benchmarks.read(written(tmp_path / "a.jsonl.gz", *records))
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    columns = benchmarks.read(tmp_path / "a.parquet")
    for item, *others in zip(plain, zipped, columns, strict=True):
        assert item.benchmark == "single-line"
        assert item.problem in ("HumanEval/0", "HumanEval/1")
        for other in others:
            assert (item.name, item.prefix, item.suffix, item.middle) == (
                other.name,
                other.prefix,
                other.suffix,
                other.middle,
            )


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["{"], "line 2: not JSON"),
        (["[1]"], "line 2: no JSON object"),
        ([json.dumps(infilling() | {"extra": 1})], r"line 2: no benchmark.*unknown are \['extra'\]"),
        ([json.dumps({**HUMAN})], r"line 2: no benchmark.*missing are \['task_id'\]"),
        ([json.dumps(infilling(name="1/L0", prompt=3))], "line 2: field 'prompt' is no string"),
        ([json.dumps(infilling("Other"))], "line 2: task_id 'Other/HumanEval/0/L0': known are"),
        ([json.dumps(infilling())], "line 2: .*is there already .*line 1"),
        ([json.dumps(SAFIM | {"eval_prompt": "x"})], r"line 2: eval_prompt: 0 places"),
        ([json.dumps(MBPP | {"test_list": "x"})], "line 2: field 'test_list'"),
        ([json.dumps(MBPP | {"test_list": []})], "line 2: field 'test_list'"),
        ([json.dumps(SAFIM | {"unit_tests": []})], "line 2: field 'unit_tests' is empty"),
        (
            [json.dumps(SAFIM | {"unit_tests": [{"input": "a", "output": "aa"}]})],
            "line 2: field 'unit_tests': output is no list of texts but 'aa'",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, error):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps(infilling()), *lines]))
    with pytest.raises(ValueError, match=error):
        benchmarks.read(path)


def test_bad_files(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}" * 100)[:-4])
    with pytest.raises(ValueError, match="cut short"):
        benchmarks.read(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a whole Parquet"):
        benchmarks.read(tmp_path / "a.parquet")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(ValueError, match="no items"):
        benchmarks.read(tmp_path / "empty.jsonl")


def item_of(tmp_path, record):
    (item,) = benchmarks.read(written(tmp_path / "one.jsonl", record))
    return item


def test_true_answers_pass_and_others_do_not(tmp_path, run):
    """Each kind: the true middle passes, and an empty or wrong one fails."""
    records = [
        (infilling(), b"    x = 2\n"),
        (infilling("RandomSpanInfilling"), b"    x = 2\n"),
        ({"task_id": "HumanEval/0", **HUMAN}, b""),
        (MBPP, b""),
        (SAFIM, b"x"),
        (SANTA, b""),
        ({k: v for k, v in SAFIM.items() if k != "unit_tests"}, b"x"),
    ]
    for record, wrong in records:
        item = item_of(tmp_path, record)
        assert item.verdict(item.middle, run) == "passed", item
        assert item.exact(item.middle)
        assert item.verdict(wrong, run) == "failed", item
        assert not item.exact(wrong)


def test_rules_of_comparison(tmp_path, run):
    """SAFIM runs what is not the ground truth; words are compared; calls without spaces; stripped lines."""
    block = item_of(tmp_path, SAFIM)
    assert block.verdict(b"x * 2", run) == "passed"
    never = lambda program, stdin: pytest.fail("the ground truth is not run")  # noqa: E731
    assert block.verdict(b"x  + x", never) == "passed"
    call = item_of(tmp_path, {k: v for k, v in SAFIM.items() if k != "unit_tests"})
    assert call.verdict(b"x+x", never) == "passed"
    line = item_of(tmp_path, SANTA)
    assert line.verdict(line.answer(b"1,"), never) == "passed"
    assert line.stop == (b"\n",)


def test_a_verdict_is_the_sandbox_s(tmp_path):
    item = item_of(tmp_path, infilling())
    late = lambda program, stdin: Outcome("timeout", None, b"", b"", 3.0)  # noqa: E731
    assert item.verdict(b"", late) == "timeout"


# ---- the real files ------------------------------------------------------------------------------------


COUNTS = {
    "HumanEval.jsonl.gz": 164,
    "HumanEval-SingleLineInfilling.jsonl.gz": 1033,
    "HumanEval-RandomSpanInfilling.jsonl.gz": 1640,
    "HumanEval-RandomSpanInfillingLight.jsonl.gz": 164,
    "mbpp.jsonl.gz": 974,
    "safim_block_python.jsonl.gz": 805,
    "safim_control_python.jsonl.gz": 750,
    "safim_api_python.jsonl.gz": 181,
    "santacoder-fim.parquet": 4792,
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_read(name):
    items = benchmarks.read(real("fim", name))
    assert len(items) == COUNTS[name]
    assert not any(item.middle.count(b"\n") for item in items if item.benchmark == "SAFIM-control")


def passing(name, every=1):
    if sandbox.missing():
        pytest.skip(f"no containment here: {sandbox.missing()}")
    items = benchmarks.read(real("fim", name))[::every]
    with Sandbox(Limits(seconds=30), workers=4) as box, ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda item: item.verdict(item.middle, box.run), items))
    return [item.name for item, verdict in zip(items, verdicts, strict=True) if verdict != "passed"]


def test_some_true_answers_pass():
    assert passing("HumanEval-RandomSpanInfillingLight.jsonl.gz", every=9) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in COUNTS if n.startswith(("HumanEval", "mbpp"))])
def test_all_true_answers_pass(name):
    assert passing(name) == []
