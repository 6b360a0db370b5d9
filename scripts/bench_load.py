"""Memory of loading a large random Llama folder in shards over eight fake devices.

    python scripts/bench_load.py [--folder DIR] [--mesh fsdp]

Writes (once, to --folder) a Llama of 1.1 billion parameters, TinyLlama's sizes, in bfloat16 and files of
256 MB, then loads it in a fresh process over eight CPU devices and prints the peak of that process's
memory over what it held before loading, as a share of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {
    **{"vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
    **{"num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048},
    **{"rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "rope_theta": 10_000.0},
    **{"bos_token_id": 1, "eos_token_id": 2},
}


def write(folder: Path) -> None:
    """A folder of random weights, one shard in memory at a time."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    from bytelm.hub.families import read_config
    from bytelm.hub.tensors import leaves, their_shape

    folder.mkdir(parents=True)
    data = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", **SIZES}
    family, config = read_config(data, "config")
    random, files, held, index = np.random.default_rng(0), [], {}, {}

    def flush() -> None:
        files.append(f"model-{len(files) + 1:05}.safetensors")
        save_file(held, folder / files[-1], metadata={"format": "pt"})
        index.update(dict.fromkeys(held, files[-1]))
        held.clear()

    for leaf in leaves(family, config).values():
        shape = their_shape(leaf, config)
        held[leaf.source.name] = (random.standard_normal(shape, "float32") * 0.02).astype(ml_dtypes.bfloat16)
        if sum(x.nbytes for x in held.values()) > 2**28:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(data))


def measure(folder: Path, axis: str) -> None:
    import jax
    import numpy as np

    from bytelm import hub, sharding
    from bytelm.parameters import flat

    shape = {"data": sharding.MeshShape(), "fsdp": sharding.MeshShape(1, 8, 1)}[axis]
    mesh = sharding.make_mesh(shape)
    jax.block_until_ready(jax.device_put(np.zeros(8), sharding.named(mesh)))  # the runtime is up

    before, start = memory("VmRSS"), time.perf_counter()
    lm, _ = hub.read(folder, dtype="bfloat16", mesh=mesh)
    jax.block_until_ready(lm.params)
    seconds, held = time.perf_counter() - start, flat(lm.params).values()
    weights, after = sum(x.nbytes for x in held), memory("VmHWM")
    print(
        f"{sum(x.size for x in held):,} parameters, {weights / 1e9:.2f} GB on {mesh.size} devices "
        f"({axis}) in {seconds:.1f} s; memory of the process {before / 1e9:.2f} GB before, at most "
        f"{after / 1e9:.2f} GB: {after / weights:.3f} of the weights, {(after - before) / weights:.3f} "
        "without what was there before"
    )


def memory(field: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "random-llama-1.1b")
    parser.add_argument("--mesh", choices=("data", "fsdp"), default="fsdp")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.folder, args.mesh)
    if not (args.folder / "config.json").is_file():
        write(args.folder)
    environment = {
        **os.environ,
        **{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    }
    command = [sys.executable, __file__, "--measure", "--folder", str(args.folder), "--mesh", args.mesh]
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
