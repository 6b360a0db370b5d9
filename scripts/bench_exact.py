"""What exact conversion costs, as ratios to plain work with tokens of the same model in the same run.

    python scripts/bench_exact.py --tokenizer DIR --english FILE [--large DIR] [--parts score generate ...]

The model is a random Llama (18M parameters with GPT-2's vocabulary); speed does not depend on what it knows.
Token scoring is one compiled forward pass, log softmax and a gather over the text's own tokens; token
generation one compiled step of a token and a draw, fed the text's own tokens, so that both sides read the
same bytes. The limit of scoring is tokens / nodes, of byte mode tokens / bytes: a pass for each byte.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bytelm
from bytelm.exact import canonical_of, convert
from bytelm.exact.canonical.states import NOTHING
from bytelm.exact.scoring import device
from bytelm.exact.tree import Tree
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import params_of
from bytelm.tokenized import TransformerLM, abstract

# On one core the CPU time of the process is taken: other work on the machine does not count.
_clock = time.process_time if len(os.sched_getaffinity(0)) == 1 else time.perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", help="folder or tokenizer.json of the model, where it is random")
    parser.add_argument("--english", required=True, help="a text file")
    parser.add_argument("--model", help="a Hugging Face folder, in place of a random Llama")
    parser.add_argument("--large", help="folder or tokenizer.json of a tokenizer with about 128k tokens")
    parser.add_argument("--parts", nargs="+", default=["tokenizer", *PARTS], choices=["tokenizer", *PARTS])
    parser.add_argument("--sizes", nargs="+", type=int, default=[300, 1000], help="bytes of a scored text")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    texts = {"English": Path(options.english).read_bytes(), "Python": _python()}
    if "tokenizer" in options.parts:
        for path in filter(None, (options.tokenizer, options.large)):
            _tokenizer(path, texts)
    if options.model:
        lm = bytelm.load(options.model)
    else:
        canonical = canonical_of(options.tokenizer)
        token_lm = _llama(canonical.vocabulary.size, options.width, options.layers)
        lm = convert(token_lm, canonical, bos=0, eos=0)
    count = sum(x.size for x in jax.tree.leaves(lm.token_lm.params))
    print(f"model: {count / 1e6:.1f}M parameters, jax {jax.__version__}, {jax.devices()[0]}")
    for part in options.parts:
        if part != "tokenizer":
            work = functools.partial(_score, sizes=options.sizes) if part == "score" else PARTS[part]
            work(lm, texts)
            print(f"  peak memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def _python() -> bytes:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return b"".join(f.read_bytes() for f in files)[:1_000_000]


def _llama(vocab_size: int, width: int, depth: int) -> TransformerLM:
    config = TokenLMConfig(
        vocab_size=vocab_size,
        layers=depth,
        width=width,
        heads=max(1, width // 32),
        qk_norm=False,
        tied=True,
        context=1 << 17,
        dtype="float32",
    )
    random = np.random.default_rng(0)
    shapes = params_of(abstract(config))
    params = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.05, jnp.float32), shapes)
    return TransformerLM(config, params)


def _bests(*works: Callable[[], object], repeats: int = 3) -> list[float]:
    """The least time of each, taken in turn, so that what disturbs one disturbs all."""
    best = [np.inf] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            start = _clock()
            work()
            best[i] = min(best[i], _clock() - start)
    return best


_START = """
import sys, time
from bytelm.exact import canonical_of
start = time.process_time()
canonical_of(sys.argv[1])
print(time.process_time() - start)
"""


def _started(path: str, folder: str) -> float:
    """Seconds of CPU time that a new process takes to read a tokenizer, its imports not counted."""
    done = subprocess.run(
        [sys.executable, "-c", _START, path],
        env={**os.environ, "BYTELM_CACHE": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _tokenizer(path: str, texts: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        empty, full = (_started(path, folder) for _ in range(2))
    canonical = canonical_of(path)
    print(
        f"{Path(path).name}: {canonical.vocabulary.size:,} tokens, start-up {empty:.2f} s with nothing on "
        f"disk, {full:.2f} s with its merges there"
    )
    for kind, text in texts.items():
        data, speeds = text[:200_000], []
        for _ in range(2):
            tree = Tree(canonical)
            start = _clock()
            tree.extend(data)
            speeds.append(len(data) / (_clock() - start) / 1e3)
        pairs = list(dict.fromkeys(zip(tree.token, tree.state, strict=True)))[:1000]
        start = _clock()
        for pair in pairs:
            canonical.mask(*pair)
        masks = (_clock() - start) / len(pairs)
        print(
            f"  {kind}: {len(tree.token) / len(data):.4f} nodes a byte, at most {max(map(len, tree.at))} "
            f"at one place; nodes found at {speeds[0]:.0f} kB/s, known steps {speeds[1]:.0f} kB/s; "
            f"a mask, cold, {masks * 1e3:.2f} ms"
        )


# ---- scoring -----------------------------------------------------------------------------------------


@jax.jit
def _gathered(logits_BTV, tokens_BT):
    law_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    return jnp.take_along_axis(law_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]


def _token_scorer(token_lm: TransformerLM) -> Callable[[list[list[int]]], np.ndarray]:
    score = jax.jit(lambda params, tokens_BT: _gathered(token_lm.logits(params, tokens_BT), tokens_BT))

    def run(rows: list[list[int]]) -> np.ndarray:
        width = -(-max(map(len, rows)) // 16) * 16
        tokens_BT = np.zeros((len(rows), width), np.int32)
        for b, row in enumerate(rows):
            tokens_BT[b, : len(row)] = row
        return np.asarray(score(token_lm.params, tokens_BT))

    return run


def _slices(text: bytes, size: int, count: int, first: int) -> list[bytes]:
    step = (len(text) - first - size) // count
    found = []
    for i in range(count):
        piece = text[first + i * step : first + i * step + size].decode(errors="ignore")
        found.append(piece.encode())
    return found


def _score(lm, texts: dict[str, bytes], sizes: Sequence[int] = (300, 1000)) -> None:
    plain = _token_scorer(lm.token_lm)
    encode = lm.canonical.source.encode
    print("scoring, one text a call: ratio to token scoring; limit = tokens / nodes")
    for kind, text in texts.items():
        for size in sizes:
            warm, fresh = _slices(text, size, 4, 0), _slices(text, size, 4, 5000)
            for one in warm:
                lm.score([one])
            cold = known = tokens_s = 0.0
            tokens = nodes = count = 0
            for one in fresh:
                rows = [[lm.bos, *encode(one.decode())]]
                plain(rows)
                cold += _bests(lambda one=one: lm.score([one]), repeats=1)[0]
                both = _bests(lambda rows=rows: plain(rows), lambda one=one: lm.score([one]))
                tokens_s, known = tokens_s + both[0], known + both[1]
                tree = Tree(lm.canonical)
                tree.extend(one)
                tokens, nodes, count = tokens + len(rows[0]) - 1, nodes + len(tree.token), count + len(one)
            limit = tokens / nodes
            print(
                f"  {kind}, {size} bytes: {count / tokens:.2f} bytes a token, {nodes / count:.3f} nodes a "
                f"byte; tokens {count / tokens_s / 1e3:.2f} kB/s, ours {count / known / 1e3:.2f} kB/s "
                f"(new texts {count / cold / 1e3:.2f}); ratio {tokens_s / known:.3f} "
                f"(new texts {tokens_s / cold:.3f}), limit {limit:.3f}, "
                f"share of it {tokens_s / known / limit:.2f}"
            )


def _batch(lm, texts: dict[str, bytes]) -> None:
    draw = np.random.default_rng(0)
    sizes = draw.integers(50, 1000, 64)
    text = texts["English"]
    mixed = [_slices(text, int(size), 1, 3000 * i)[0] for i, size in enumerate(sizes)]

    def one_by_one():
        for one in mixed:
            lm.score([one])

    lm.score(mixed)
    one_by_one()
    together, alone = _bests(lambda: lm.score(mixed), one_by_one, repeats=2)
    total = sum(map(len, mixed))
    print(
        f"64 texts of 50 to 1,000 bytes, English: in one call {total / together / 1e3:.2f} kB/s, "
        f"one by one {total / alone / 1e3:.2f} kB/s, ratio {alone / together:.2f}"
    )


def _long(lm, texts: dict[str, bytes]) -> None:
    text = texts["English"][:100_000]
    start = _clock()
    score = lm.score([text])[0]
    taken = _clock() - start
    assert np.isfinite(score).all()
    print(f"100 kB, English: {taken:.0f} s, {len(text) / taken / 1e3:.2f} kB/s")


# ---- generating --------------------------------------------------------------------------------------


def _generate(lm, texts: dict[str, bytes]) -> None:
    token_lm, canonical = lm.token_lm, lm.canonical

    def step(params, cache, token_B1, uniform_B):
        logits_B1V, cache = token_lm.extend(params, cache, token_B1, jnp.ones(len(token_B1), jnp.int32))
        # The draw of boundary mode, with nothing masked.
        room = -logits_B1V.shape[2] % 256
        logits_BP = jnp.pad(logits_B1V[:, 0], ((0, 0), (0, room)), constant_values=-1e9)
        packed_BO = jnp.full((len(logits_BP), logits_BP.shape[1] // 8), 255, jnp.uint8)
        return device.drawn(logits_BP, packed_BO, uniform_B, jnp.float32(1.0)), cache

    step = jax.jit(step, donate_argnums=1)
    print("generating: bytes a second, ratios to token generation at batch 1")
    for kind, text in texts.items():
        pieces = _slices(text, 260, 16, 7000)
        single = None
        for batch in (1, 16):
            chosen = pieces[:batch]
            rows = [canonical.source.encode(one.decode()) for one in chosen]
            length = min(map(len, rows))

            def by_tokens(rows=rows, length=length, batch=batch):
                _, cache = token_lm.open(
                    token_lm.params,
                    np.full((batch, 16), lm.bos, np.int32),
                    np.ones(batch, np.int32),
                    slots=128,
                    nodes=1,
                )
                uniform = np.full(batch, 0.5, np.float32)
                for n in range(length):
                    token_B1 = np.array([[row[n]] for row in rows], np.int32)
                    found, cache = step(token_lm.params, cache, token_B1, uniform)
                    np.asarray(found)

            def by_columns(rows=rows, length=length, batch=batch):
                """The steps of boundary mode, fed the text's tokens."""
                passes, draw = lm.trees, [0.5] * batch
                last, state = [NOTHING] * batch, [canonical.start] * batch
                _, cache = passes.begun(
                    [[lm.bos]] * batch, list(zip(last, state, strict=True)), draw, 1.0, 128
                )
                for n in range(length):
                    tokens = [row[n] for row in rows]
                    state = [canonical.step(*z) for z in zip(last, state, tokens, strict=True)]
                    last = tokens
                    pairs = list(zip(last, state, strict=True))
                    _, cache = passes.went_on(cache, tokens, [True] * batch, pairs, draw, 1.0)

            def by_bytes(chosen=chosen, batch=batch, size=128):
                state = lm.start([b""] * batch)
                for i in range(size):
                    lm.next_logprobs(state)
                    state = lm.push(state, [one[i] for one in chosen])
                lm.next_logprobs(state)
                return sum(len(masses.row.tree.token) for masses in state.rows) / size / len(state.rows)

            _, _, evaluated = by_tokens(), by_columns(), by_bytes()
            count = sum(len(canonical.vocabulary.data[t]) for row in rows for t in row[:length])
            tokens, columns, pushed = _bests(by_tokens, by_columns, by_bytes)
            rates = count / tokens, count / columns, 128 * batch / pushed
            single = single or rates[0]
            print(
                f"  {kind}, batch {batch}: {count / batch / length:.2f} bytes a token; tokens "
                f"{rates[0]:.0f}, boundary mode {rates[1]:.0f} ({rates[1] / rates[0]:.2f} of tokens at this "
                f"batch), byte mode {rates[2]:.0f} = {rates[2] / single:.3f} of tokens at batch 1 "
                f"(limit a row {batch * length / count:.3f}; {evaluated:.3f} tokens evaluated a byte)"
            )


PARTS: dict[str, Callable[..., None]] = {
    "score": _score,
    "batch": _batch,
    "generate": _generate,
    "long": _long,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
