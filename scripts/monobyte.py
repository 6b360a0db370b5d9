"""One config, one model a corpus, equal bytes; two controls; every model scored on every corpus.

    python scripts/monobyte.py English=books.jsonl.gz Chinese=zh.txt Python=stdlib [--bytes 600000] \
        [--config flat] [--out DIR]

The recipe of MonoByte (Abonizio, Souza, Lotufo, Nogueira; arXiv 2209.11035) for any corpora: NAME=FILE, FILE
what `bytelm.data.Files` reads, `stdlib` the standard library. Of each corpus the first --bytes bytes are
read for training, and what follows is held out. The controls hold nothing of a language: `shuffled` the bytes
of the first corpus in random order, `brackets` random well-nested brackets. Writes OUT/monobyte.json and .md;
started again with the same corpora, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from comparison.runs import Run, execute, say, slug  # noqa: E402

import bytelm  # noqa: E402
from bytelm.config import Checkpoints, Config, Evaluation, Samples  # noqa: E402
from bytelm.data import Files, Stdlib  # noqa: E402
from bytelm.evals.bits import bits_per_byte  # noqa: E402
from bytelm.training import launch  # noqa: E402

CONTROLS = ("shuffled", "brackets")
PAIRS = (b"()", b"[]", b"{}", b"<>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpora", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--config", default="flat", help="with any flags of train.py, as one argument")
    parser.add_argument("--flags", default="", help="more flags of train.py, as one argument")
    parser.add_argument("--bytes", type=int, default=600_000, help="read of each corpus")
    parser.add_argument("--held-out", type=int, default=32_768, help="bytes of each corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/monobyte"))
    args = parser.parse_args()
    if not all(part for corpus in args.corpora for part in corpus.partition("=")):
        parser.error(f"corpora are NAME=FILE, not {' '.join(args.corpora)}")
    try:
        texts = prepared(args)
        trained = {name: train(name, args) for name in texts}
        found = {name: scored(name, run, texts) for name, run in trained.items()}
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"monobyte.py: error: {error}")
    settings = {"config": f"{args.config} {args.flags}".strip(), "seed": args.seed, "held_out": args.held_out}
    settings["bytes"] = steps_of(config_of(args), args.bytes)[1]
    record = {**settings, "bits_per_byte": found}
    (args.out / "monobyte.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(found)
    (args.out / "monobyte.md").write_text(text)
    print(text)


def prepared(args: argparse.Namespace) -> dict[str, bytes]:
    """Writes the texts of all corpora and controls, and returns what is held out of each.

    Raises ValueError for names that cannot be used, and where OUT has other texts: its models read those.
    """
    size, named = args.bytes + args.held_out, [corpus.partition("=")[::2] for corpus in args.corpora]
    check_names([name for name, _ in named])
    corpora = {name: read(path, size) for name, path in named}
    first = np.frombuffer(next(iter(corpora.values())), np.uint8)
    corpora["shuffled"] = np.random.default_rng(args.seed).permutation(first).tobytes()
    corpora["brackets"] = brackets(size, args.seed)
    folder, texts = args.out / "text", {}
    for name, data in corpora.items():
        texts[folder / f"{name}.train.txt"] = data[: args.bytes]
        texts[folder / f"{name}.valid.txt"] = data[args.bytes :]
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text:
            raise ValueError(
                f"{path} is of another corpus, --bytes, --held-out or --seed; choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        part = path.with_suffix(".part")
        part.write_bytes(text)
        part.replace(path)
    return {name: data[args.bytes :] for name, data in corpora.items()}


def check_names(names: list[str]) -> None:
    """Raises ValueError for a name that no folder can have, or not beside the others and CONTROLS."""
    folders = {slug(name): name for name in CONTROLS}
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name in (".", ".."):
            raise ValueError(f"{name!r}: a name has ASCII letters, digits, '-', '_' and '.' only")
        if slug(name) in folders:
            what = "a control" if name in CONTROLS else f"taken by {folders[slug(name)]}"
            raise ValueError(f"the name {name} is {what}; choose another")
        folders[slug(name)] = name


def read(path: str, size: int) -> bytes:
    """The first `size` bytes of a corpus. Raises ValueError where it has fewer."""
    documents = (Stdlib() if path == "stdlib" else Files(train=(path,))).open("train")
    found = bytearray()
    for i in range(len(documents)):
        found += documents[i] + b"\n\n"
        if len(found) >= size:
            return bytes(found[:size])
    raise ValueError(f"{path} has {len(found):,} bytes; --bytes and --held-out ask for {size:,}")


def brackets(size: int, seed: int) -> bytes:
    """Random well-nested brackets of four kinds, in lines; the last line may be open."""
    random, found, open_ = np.random.default_rng([seed, 1]), bytearray(), list[int]()
    while len(found) < size:
        if not open_ and found[-1:] != b"\n" and random.random() < 0.2:
            found += b"\n"
        elif open_ and random.random() < 0.55:  # so they all close sooner or later
            found.append(open_.pop())
        else:
            pair = PAIRS[random.integers(len(PAIRS))]
            found.append(pair[0])
            open_.append(pair[1])
    return bytes(found[:size])


def config_of(args: argparse.Namespace) -> Config:
    return launch.parse([*shlex.split(args.config), *shlex.split(args.flags)], ROOT / "configs")[1]


def steps_of(config: Config, size: int) -> tuple[int, int]:
    """How many steps read about so many bytes, and the symbols that they read."""
    a_step = config.training.rows * config.data.row
    if config.data.tokenizer is not None:
        raise ValueError("a model of tokens does not read equal bytes in equal steps; choose one of bytes")
    steps = max(1, size // a_step)
    return steps, steps * a_step


def train(name: str, args: argparse.Namespace) -> Run:
    config, folder = config_of(args), args.out / "text"
    steps = steps_of(config, args.bytes)[0]
    source = Files(train=(str(folder / f"{name}.train.txt"),), valid=(str(folder / f"{name}.valid.txt"),))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source),
        training=dataclasses.replace(config.training, steps=steps, seed=args.seed),
        evaluation=Evaluation(every=steps, final_max_bytes=args.held_out, rows=config.evaluation.rows),
        samples=Samples(prompts=()),
        checkpoints=Checkpoints(every=steps),
    )
    run = Run(name, args.bytes, args.seed, args.out, config)
    execute(run, None, None)
    return run


def scored(name: str, run: Run, texts: dict[str, bytes]) -> dict[str, float]:
    """Bits per byte of a model on each text. Raises ValueError where there is no such figure."""
    lm, found = bytelm.load(run.folder), dict[str, float]()
    for other, text in texts.items():
        bits = bits_per_byte(lm, [text]).bits_per_byte
        if bits is None:
            raise ValueError(f"{name} has no bits per byte of {other}: {len(text)} bytes are held out")
        found[other] = bits
    say(f"{name}: {', '.join(f'{other} {bits:.3f}' for other, bits in found.items())}")
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: a line a model, a column a corpus."""
    lines = [["trained on", *found], ["---", *["--:"] * len(found)]]
    lines += [[name, *(f"{bits:.3f}" for bits in of_model.values())] for name, of_model in found.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
