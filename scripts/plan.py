"""What a config will need: memory, operations, speed, and what its devices send each other, before it is run.

    python scripts/plan.py CONFIG [--section.field VALUE ...] [--devices 8] [--on H100] [--mfu 0.4]

CONFIG and its flags are those of train.py. The step that train.py would run is compiled for as many fake
devices as asked for; no array is made, so any size fits on a laptop. Parameters, optimizer and gradients are
exact. The rest, activations above all, is XLA's plan for CPU, which computes attention in blocks and keeps
some bfloat16 values in float32: a proxy for a GPU's or TPU's. With `--quick` nothing is compiled: no proxy,
no list of what is sent.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bytelm.devices import DEVICES  # noqa: E402  # loads no jax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", help="a name in configs/ or a path")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--on", choices=DEVICES, default="H100", help="the devices")
    parser.add_argument("--mfu", type=float, default=0.4, help="the share of the peak that is reached")
    parser.add_argument("--bytes-a-token", type=float, default=4.4, help="of tokenized models")
    parser.add_argument("--quick", action="store_true", help="compile nothing")
    args, flags = parser.parse_known_args()
    if args.devices < 1:
        parser.error(f"--devices is {args.devices}; it is at least 1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={args.devices} --xla_backend_optimization_level=0"
    )
    from bytelm.training import launch

    _, config = launch.parse([args.config, *flags], configs=ROOT / "configs")
    with launch.usage(ValueError):
        table = plan(_at_real_types(config), args)
    print(f"{' '.join([args.config, *flags])}, {args.devices} x {args.on}")
    for name, text in table:
        print(f"{name:<26} {text}")


def _at_real_types(config: Any) -> Any:
    """`config` as on a GPU or TPU: computing in bfloat16, and with the vocabulary that is asked for."""
    changes: dict[str, Any] = {"dtype": "bfloat16"} if config.model.dtype == "auto" else {}
    if config.data.tokenizer is not None:
        changes["vocab_size"] = config.data.tokenizer.size
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def plan(config: Any, args: argparse.Namespace) -> list[tuple[str, str]]:
    """The lines of the table. Raises ValueError where the config does not fit the mesh."""
    import jax

    from bytelm import compiled, models, sharding

    device = DEVICES[args.on]
    mesh = sharding.make_mesh(config.mesh)
    rows, part = config.training.rows, config.training.rows // config.training.accumulate
    counts = {"training.rows / accumulate": part, "evaluation.rows": config.evaluation.rows}
    models.check_mesh(config.model, mesh, counts)
    _, _, state = compiled.abstract_state(config, mesh)
    a_target = 1.0 if config.data.tokenizer is None else args.bytes_a_token
    flops = 3 * models.flops(config.model, config.data.row) / a_target
    batch = rows * config.data.row * a_target
    speed = args.devices * device.peak * args.mfu / flops
    held = {name: compiled.bytes_a_device(getattr(state, name)) for name in ("params", "optimizer", "ema")}
    total = sum(x.size for x in jax.tree.leaves(state.params))
    lines = [
        ("parameters", f"{total:,}"),
        ("mesh", ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items())),
        ("batch", f"{rows} rows x {config.data.row} in {config.training.accumulate} parts: "
                  f"{batch / 1e6:,.2f} MB a step"),
        ("FLOPs a byte, training", f"{flops / 1e6:,.0f} M" + _again(config)),
        (f"bytes a second at {args.mfu:.0%}", f"{speed / 1e3:,.0f} kB/s in all, "
         f"{speed / args.devices / 1e3:,.0f} a device; "
         f"a step {batch / speed:,.2f} s"),
        ("memory a device", ""),
        ("  parameters", _gb(held["params"])),
        ("  optimizer", _gb(held["optimizer"])),
    ]  # fmt: skip
    if state.ema is not None:
        lines.append(("  averaged parameters", _gb(held["ema"])))
    lines.append(("  gradients", _gb(held["params"])))
    if args.quick:
        return lines
    began = time.perf_counter()
    program = compiled.lower_step(config, mesh).compile()
    memory = program.memory_analysis()
    activations = max(0, memory.temp_size_in_bytes - held["params"])
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    lines += [
        ("  activations (CPU proxy)", _gb(activations)),
        (
            "  in all (CPU proxy)",
            f"{_gb(needed)}, {needed / device.memory:.0%} of {device.memory / 1e9:.0f} GB",
        ),
        ("sent a step and device", "" if args.devices > 1 else "nothing"),
    ]
    found = compiled.moved(compiled.collectives(program.as_text(), mesh), config, mesh)
    for (kind, what, axes), (count, size) in sorted(found.items(), key=lambda item: -item[1][1]):
        lines.append((f"  {what}", f"{count:,} {kind} over {' and '.join(axes) or 'nothing'}: {_gb(size)}"))
    lines.append(("compiled in", f"{time.perf_counter() - began:.0f} s"))
    return lines


def _again(config: Any) -> str:
    return (
        "" if config.model.remat == "none" else f" (remat {config.model.remat!r} computes more, not counted)"
    )


def _gb(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


if __name__ == "__main__":
    main()
