"""What the commands of the report's sections write, made up. Needs scripts/ on the path."""

from __future__ import annotations

import importlib
import json
import math

BITS = {
    **{"flat": 3.0, "word-pooled": 2.4, "windowed flat": 2.8, "Byte2Word, causal": 2.9},
    **{"BPE, 8,192": 2.3, "Learn Your Tokens": 2.7},
}
COSTS = (
    "model: 17.7M parameters\n"
    "  English, 1,000 bytes: 4.05 bytes a token, 1.010 nodes a byte; tokens 10.00 kB/s, ours 3.00 kB/s (new "
    "texts 2.9); ratio 0.300 (new texts 0.290), limit 0.250, share of it 1.20\n"
    "  English, batch 16: 4.05 bytes a token; tokens 3475, boundary mode 2864 (0.82 of tokens at this "
    "batch), byte mode 901 = 1.600 of tokens at batch 1 (limit a row 0.240; 1.010 tokens evaluated a byte)\n"
)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def comparison(configs, unit, budget, bits):
    """What compare.py writes, of runs whose bits fall to `bits` in five steps, each half as far."""
    shares = [
        {"name": name, "words": 10, "unit": "words", **dict.fromkeys(("value", "low", "high"), value)}
        for name, value in (("all", 0.1), ("0", None))
    ]
    same = {
        **{"budget": budget, "parameters": 10, "flops_a_byte": 1e6, "bytes_per_second": 9.0, "bytes": 5e6},
        **{"standard_error_seeds": None, "eval_bytes": 4096.0, "seeds": [0], "word_use": None},
        **{"lost_share": 0.0, "next_word": shares, "row": 9, "steps": 9, "standard_error_documents": 0.1},
    }
    summary, runs = [], []
    for config, end in zip(configs, bits, strict=True):
        curve = [
            {
                **dict.fromkeys(("seconds", "flops"), budget * (i + 1) / 5),
                "bits_per_byte": end + 4 / 2**i - 0.25,
            }
            for i in range(5)
        ]
        runs.append({"config": config, "seed": 0, "curve": curve, "folder": "private", "eval_documents": 3})
        summary.append(
            {**same, "config": config, "bits_per_byte": end, "canonical": config.startswith("bpe")}
        )
    notes = ["`flat`, budget 3: took 9 s"]
    return {"unit": unit, "machine": {"jobs": 2}, "notes": notes, "summary": summary, "runs": runs}


def write_outputs(settings):
    """Of all sections, in the folder of the work."""
    trained(settings)
    robust(settings)
    converted(settings)
    used(settings)


def trained(settings):
    matched, factors = (importlib.import_module(f"reporting.{name}") for name in ("matched", "factors"))
    work, bits = settings.work, [BITS[name] for name in matched.HEADLINE.values()]
    configs = [matched.spec(config, settings) for config in matched.HEADLINE]
    for corpus in ("books", "python"):
        for unit in ("seconds", "flops"):
            write(work / corpus / unit / "comparison.json", comparison(configs, unit, 300.0, bits))
    tried = [
        matched.spec(config, settings) for group in factors.FACTORS.values() for config in group.values()
    ]
    tried = list(dict.fromkeys(tried))
    known = {"default": 2.4, "flat": 2.8, "default --model.ngrams 0": 2.7}
    bits = [known.get(config.replace(matched.SMALL["default"], ""), 2.5) for config in tried]
    write(work / "factors/compare/comparison.json", comparison(tried, "flops", 4e12, bits))
    runs = [{"model": "x", "canonical": 2.5, "exact": 2.49} for _ in factors.FACTORS["tokens"]]
    write(work / "factors/exact_bits.json", {"bytes": 1000, "size": 1000, "runs": runs})


def robust(settings):
    matched, sections = (importlib.import_module(f"reporting.{name}") for name in ("matched", "robust"))
    work = settings.work
    points = [
        {"run": matched.run_folder(settings, config), "kind": "drop", "rate": rate, "value": 2 + rate}
        for config in sections.NOISY for rate in (0.0, 0.1)
    ]  # fmt: skip
    write(work / "noise/noise.json", {"points": [{**point, "low": 2.0, "high": 3.0} for point in points]})
    names = ("English", "shuffled")
    square = {a: {b: 1.0 + (a != b) for b in names} for a in names}
    settings_ = {"held_out": 9, "config": "flat", "bytes": 9, "seed": 0}
    write(work / "monobyte/monobyte.json", {"bits_per_byte": square, **settings_})
    for i in range(len(sections.asked(settings))):
        tasks = {f"charbench_{task}": {"exact_match": [0.5, 0.1]} for task in ("count_letter", "last_index")}
        write(work / f"charbench/eval{i}.json", {"results": tasks, "items": dict.fromkeys(tasks, 4)})


def converted(settings):
    work = settings.work
    names = ("local", "joint", "as it is", "kept", "all, at least", "all, at most")
    cut = {"text": "a | b", "next": "c", "exact": 0.9, "joint": 0.9, "naive": 0.1, "distance": 0.8}
    models = {"stories260K": {"definitions": dict.fromkeys(names, 0.5), "cuts": [cut]}}
    known = {"name": "b", "tokens": 9, "nodes": 1.0, "nodes, awkward": 1.1, "most": 2}
    tokenizers = {"a": {"name": "a", "refused": "why"}, settings.at("b"): known}
    write(work / "definitions/tables.json", {"bytes": 9, "models": models, "tokenizers": tokenizers})
    write(work / "costs/costs.txt", COSTS)
    methods = ("token", "healing", "exact")
    bits = {f"bits {method}": x for method, x in zip(methods, (30.0, 3.0, 2.0), strict=True)}
    hits = {f"hit {method}": True for method in methods}
    cuts = [{"cluster": f"{i}", "offset": i % 2, **bits, **hits} for i in range(6)]
    for i in range(2):
        write(work / f"bias/bias{i}.json", [*cuts, {**cuts[0], "bits token": math.inf}])


def used(settings):
    uses, work = importlib.import_module("reporting.uses"), settings.work
    files = [{"file": "x", "words": 9, "mean": 5.0, "premium": 1.0} for _ in uses.LANGUAGES]
    write(work / "words/words.json", {"rules": dict.fromkeys(uses.RULES, files)})
    speeds = {"bytes_per_second": 9.0, "flops_a_byte_forward": 3.0}
    write(work / "speed/train.json", {"flat": speeds, "pooled": speeds})
    write(work / "speed/generate.json", [{"batch": 1, "flat": 1.0, "pooled": 8.0}])
    held = [{"model": "mean", "bits_per_byte": 2.0, "gain": 0.1, "error": 0.01}]
    write(work / "ensembles/ensembles.json", {"fitted": 3, "texts": 3, "bytes": 9, "held_out": held})
    write(work / "ensembles/ensembles.png", "a picture")
    rates = {"items": 3, "bytes/s": 9.0, **{measure: [0.5, 0.4, 0.6] for measure in uses.MEASURES}}
    for name in uses.MODELS:
        write(work / f"fim/spm_{name}/exact/summary.json", {"random-span-light": rates})
    for method in ("token", "healing"):
        said = {"random-span-light": {**rates, "McNemar, passed": [1, 2, 0.5]}}
        write(work / f"fim/less_{method}.json", said)
