"""`bytelm fim`: filling in the middle, and code left to right."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bytelm.cli.common import (
    Files,
    Models,
    OptionalText,
    Together,
    UsageError,
    check_models,
    model,
    table,
    usage,
)

if TYPE_CHECKING:
    from bytelm.evals import fim
    from bytelm.evals.prompts import Family, Fit
    from bytelm.lm import ByteLM

MethodName = Literal["token", "healing", "exact", "exact-bytes", "bytes"]
_OF_TOKENIZED = ("token", "healing", "exact", "exact-bytes")
_Methods = Annotated[
    tuple[MethodName, ...], tyro.conf.arg(metavar="METHOD [METHOD ...]", help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class Fim:
    """Complete the items of benchmarks and judge the completions; programs run in a sandbox.

    Writes a folder for each method, a JSON line an item as it goes; the same command goes on after a kill.
    """

    models: Models
    """The folder of a model; several are an ensemble."""
    data: Files
    """Files of HumanEval, HumanEval-Infilling, SantaCoder-FIM, SAFIM (Python) or MBPP."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write in."""
    method: _Methods = ()
    """Of a tokenized model token, healing, exact (by tokens), exact-bytes; of others bytes (default: all)."""
    format: OptionalText = None
    """The family whose prompts the model reads (default: found from its special tokens)."""
    order: Literal["psm", "spm"] | None = None
    """Prefix or suffix first (None: the first that the family publishes)."""
    n: int = 1
    """Completions an item."""
    temperature: float = 0.0
    """Of the law of a token, or of a byte for exact-bytes and bytes; 0 takes the likeliest."""
    top_p: float | None = None
    """Draw from the fewest likeliest that together have this probability; not for exact."""
    seed: int = 0
    """The same seed gives the same completions."""
    limit: int | None = None
    """Only the first so many items."""
    max_bytes: int | None = None
    """The most bytes of a completion, where the benchmark's own limit is more."""
    suffix_share: float = 0.5
    """Where a prompt is cut to fit the context, the share that the suffix may have."""
    workers: int = 2
    """Programs that run at a time."""
    seconds: float = 3.0
    """The time of a program."""
    unsafe: bool = False
    """Run programs where containment is missing, with your own rights."""
    together: Annotated[Together, tyro.conf.OmitArgPrefixes] = field(default_factory=Together)

    def run(self) -> None:
        from tqdm import tqdm

        from bytelm.evals import benchmarks, fim
        from bytelm.evals.fim_summary import summary
        from bytelm.evals.sandbox import Limits, Sandbox
        from bytelm.load import last_step

        check_models(self.models, self.together)
        self._check()
        with usage(OSError, ValueError):
            items = [item for path in self.data for item in benchmarks.read(path)]
            if len({item.name for item in items}) < len(items) or len(_names_of(self.data)) < len(self.data):
                raise ValueError("--data: files of one name, or the same items in several; give each once")
        items = items[: self.limit]
        with usage(RuntimeError, ValueError):
            box = Sandbox(Limits(seconds=self.seconds), workers=self.workers, unsafe=self.unsafe)
        with box:
            if not box.contained:
                print(f"bytelm fim: programs run without containment: {box.missing}", file=sys.stderr)
            steps = [last_step(path) for path in self.models]
            lm = model(self.models, self.together)
            with usage(ValueError):
                family = self._family(lm, any(item.suffix is not None for item in items))
                lm = _ended(lm, family)
                methods = self._chosen(lm)
                questions = fim.asked(items, _fit(lm, self.suffix_share), family, self.order, self.max_bytes)
            summaries: dict[str, dict[str, Any]] = {}
            for name in methods:
                settings = self._settings(name, None if family is None else family.name, steps)
                with tqdm(total=len(items), unit="item", desc=name, disable=None) as bar, usage(ValueError):
                    lines = fim.evaluate(
                        self._method(lm, name),
                        questions,
                        Path(self.out) / name,
                        settings,
                        box,
                        n=self.n,
                        seed=self.seed,
                        progress=bar.update,
                    )
                summaries[name] = summary(lines)
                path = Path(self.out) / name / "summary.json"
                path.write_text(json.dumps(summaries[name], indent=2) + "\n", encoding="utf-8")
        print(_report(summaries))

    def _check(self) -> None:
        from bytelm.evals.prompts import FAMILIES
        from bytelm.lm import Sampling

        if not self.data:
            raise UsageError("--data names no file")
        if self.n < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError("--n and --limit are 1 or more")
        if self.n > 1 and self.temperature == 0:
            raise UsageError("--n: at --temperature 0 all completions of an item are the same")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UsageError("--max-bytes is 1 or more")
        if self.format is not None and self.format not in FAMILIES:
            raise UsageError(f"--format {self.format}: known are {', '.join(FAMILIES)}")
        with usage(ValueError):
            Sampling(temperature=self.temperature, top_p=self.top_p)

    def _chosen(self, lm: ByteLM) -> Sequence[MethodName]:
        there: Sequence[MethodName] = _OF_TOKENIZED if _is_converted(lm) else ("bytes",)  # type: ignore[assignment]
        for name in self.method:
            if name not in there:
                raise ValueError(f"--method {name}: this model has {', '.join(there)}")
        chosen = self.method or there
        if self.top_p is not None and "exact" in chosen:
            if self.method:
                raise ValueError("--top-p: exact draws covers and tokens as wholes; use --method exact-bytes")
            chosen = [name for name in chosen if name != "exact"]
        return chosen

    def _family(self, lm: ByteLM, needed: bool) -> Family | None:
        from bytelm.evals.prompts import FAMILIES, family_of

        if not needed:
            return None
        family = FAMILIES[self.format] if self.format is not None else family_of(_names(lm))
        family.layout(self.order)
        return family

    def _method(self, lm: Any, name: MethodName) -> fim.Method:
        from bytelm.evals import fim

        if name == "bytes":
            return fim.by_bytes(lm, temperature=self.temperature, top_p=self.top_p)
        from bytelm.exact.prompted import complete, evaluated

        if name == "exact-bytes":
            count = partial(evaluated, lm, mode="byte")
            return fim.by_bytes(lm, temperature=self.temperature, top_p=self.top_p, count=count)
        if name == "exact":
            count = partial(evaluated, lm, mode="boundary")
            return fim.by_tokens(lm, temperature=self.temperature, count=count)

        def of_tokens(prompts, *, max_bytes, stop, seed):
            found = complete(
                lm,
                prompts,
                name,
                max_bytes=[max_bytes] * len(prompts),
                temperature=self.temperature,
                top_p=self.top_p,
                stop=stop,
                seeds=[[seed, i] for i in range(len(prompts))],
            )
            return [fim.Said(*one) for one in found]

        return of_tokens

    def _settings(self, method: str, family: str | None, steps: list[int | None]) -> dict[str, Any]:
        shown = (
            "order",
            "n",
            "temperature",
            "top_p",
            "seed",
            "limit",
            "max_bytes",
            "suffix_share",
            "seconds",
        )
        return {
            "models": list(self.models),
            "steps": steps,
            "rule": self.together.rule,
            "weights": list(self.together.weights),
            "rate": self.together.rate,
            "alpha": self.together.alpha,
            "data": {Path(p).name: hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in self.data},
            "method": method,
            "format": family,
            **{name: getattr(self, name) for name in shown},
        }


def _names_of(paths: Sequence[str]) -> set[str]:
    return {Path(path).name for path in paths}


def _is_converted(lm: Any) -> bool:
    return hasattr(lm, "canonical")


def _names(lm: Any) -> set[str]:
    """The special tokens of a model, those that all members of an ensemble have."""
    from bytelm.lm import SPECIALS

    if hasattr(lm, "members"):
        return set.intersection(*(_names(member) for member in lm.members))
    if _is_converted(lm):
        return {*lm.canonical.vocabulary.special, *lm.canonical.vocabulary.added}
    return set(SPECIALS)


def _ended(lm: Any, family: Family | None) -> Any:
    """The model with the family's ends beside its own."""
    if family is None:
        return lm
    if hasattr(lm, "members"):
        from bytelm.ensemble import Ensemble

        weights = None if lm.rule == "proxy" else lm.weights
        return Ensemble(
            [_ended(member, family) for member in lm.members], lm.rule, weights, rate=lm.rate, alpha=lm.alpha
        )
    if not _is_converted(lm):
        return lm
    from bytelm.exact import convert

    names = _names(lm)
    more = {lm.canonical.vocabulary.named(name) for name in family.ends if name in names}
    normalise: Literal["joint", "local"] = "joint" if lm.joint else "local"
    return convert(lm.token_lm, lm.canonical, lm.bos, {*lm.ends, *more}, normalise=normalise)


def _fit(lm: Any, share: float) -> Fit:
    from bytelm.evals.prompts import Fit, tightest
    from bytelm.lm import symbols_of

    if hasattr(lm, "members"):
        return tightest([_fit(member, share) for member in lm.members])
    if _is_converted(lm):
        from bytelm.exact.prompted import encoded

        return Fit(getattr(lm.token_lm, "context", None), lambda p: len(encoded(lm, p).tokens) + 1, share)
    return Fit(getattr(lm, "context", None), lambda p: len(symbols_of(p)) + 1, share)


def _report(summaries: dict[str, dict[str, Any]]) -> str:
    def shown(value: Any, percent: bool = True) -> str:
        if value is None:
            return "-"
        scale = 100 if percent else 1
        return f"{value[0] * scale:.1f} [{value[1] * scale:.1f}, {value[2] * scale:.1f}]"

    ks = [
        k
        for k in ("pass@1", "pass@10", "pass@100")
        if any(k in b for s in summaries.values() for b in s.values())
    ]
    head = ("method", "benchmark", "items", *(f"{k}, %" for k in ks), "exact, %", "similarity, %")
    rows: list[tuple[str, ...]] = [(*head, "bytes/s", "tokens a byte")]
    for method, by_benchmark in summaries.items():
        for benchmark, said in by_benchmark.items():
            rates = [shown(said.get(k)) for k in (*ks, "exact", "similarity")]
            speeds = [f"{x:,.2f}" if x is not None else "-" for x in (said["bytes/s"], said["tokens a byte"])]
            rows.append((method, benchmark, f"{said['items']:,}", *rates, *speeds))
    return table(rows)
