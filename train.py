"""Trains a model: python train.py [CONFIG] [--workdir DIR] [--section.field VALUE ...]

CONFIG is the name of a file in configs/ (default: `default`). See `python train.py --help`.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import jax
import numpy as np

from bytelm import models, sharding
from bytelm.data import LabelCoding, eval_rows, merge_states, train_stream
from bytelm.parameters import matrices_of, rates_of, specs_of
from bytelm.training import console, hosts, launch, metrics, processor
from bytelm.training.checkpoints import Checkpoints
from bytelm.training.coding import bytes_a_target, coding_of, held_out_coding, tokens_of
from bytelm.training.evaluate import evaluate, evaluate_labels, host_part
from bytelm.training.optimizer import learning_rate, make_optimizer
from bytelm.training.samples import Sampler
from bytelm.training.step import (
    make_eval_step,
    make_judge_step,
    make_train_step,
    new_state,
    state_shardings,
)


def main() -> None:
    run, config = launch.parse(sys.argv[1:], configs=Path(__file__).parent / "configs")
    with launch.usage(ValueError, OSError):
        processor.keep_pages()
        hosts.connect(run.hosts)
        processor.use_all_cores(config)
        config, coding = hosts.leader_first(lambda: coding_of(config, Path(str(run.workdir))))
        if (tokens := tokens_of(coding)) is not None:
            hosts.check_same("the tokenizer", str(tokens.fingerprint))
    folder = launch.prepare_folder(run, config)

    # ---- mesh ------------------------------------------------------------------------------------------
    rows, length, part = config.training.rows, config.data.row, config.training.accumulate
    with launch.usage(ValueError):
        mesh = sharding.make_mesh(config.mesh)
        counts = {"training.rows / accumulate": rows // part, "evaluation.rows": config.evaluation.rows}
        models.check_mesh(config.model, mesh, counts)
    by_row = sharding.named(mesh, "batch", None)

    # ---- input -----------------------------------------------------------------------------------------
    with launch.usage(ValueError, OSError):
        source = config.data.source.open("train")
        held_out = config.data.source.open(config.evaluation.split)
        if isinstance(coding, LabelCoding):
            coding.check(source)
            coding.check(held_out)
        stream = train_stream(
            source, rows=rows, length=length, seed=config.training.seed, piece=config.data.piece,
            lanes=hosts.rows_of_host(by_row, rows), prefetch=config.data.prefetch, coding=coding,
        )  # fmt: skip

    # ---- model -----------------------------------------------------------------------------------------
    make = functools.partial(models.build, config.model)
    model = jax.eval_shape(make, jax.random.key(0))
    optimizer = make_optimizer(config.optimizer, matrices_of(model), rates_of(model), specs_of(model))
    averaged = config.training.ema is not None
    init = functools.partial(new_state, make, optimizer, ema=averaged)
    key = jax.random.key(config.training.seed)
    abstract = jax.eval_shape(init, key)
    placed = state_shardings(model, optimizer, mesh, averaged)

    # ---- restore: own folder, then --resume, then --init-from, then scratch --------------------------------
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoints)
    with launch.usage(ValueError, FileNotFoundError), jax.set_mesh(mesh):
        restored, place, note = launch.restore(run, config, checkpoints, abstract, placed)
        if restored is not None:
            state = restored
            stream.set_state(place)
        else:
            state = launch.start_from(run, jax.jit(init, out_shardings=placed)(key), placed, config)
    start, steps = int(state.step), config.training.steps

    # ---- compile ---------------------------------------------------------------------------------------
    chance = jax.random.key(config.training.seed + 1)  # dropout's, and whatever else a step leaves to it
    train_step = jax.jit(
        make_train_step(model, optimizer, config.training.accumulate, config.training.ema),
        donate_argnums=0, out_shardings=(placed, None),
    )  # fmt: skip
    labelled = isinstance(coding, LabelCoding)
    eval_step = jax.jit((make_judge_step if labelled else make_eval_step)(model), out_shardings=by_row)

    def put(batch):
        return {name: jax.make_array_from_process_local_data(by_row, x) for name, x in batch.items()}

    def held_out_figures(max_bytes):
        params = state.ema if averaged else state.params
        batches = eval_rows(
            held_out, rows=config.evaluation.rows, length=length, max_bytes=max_bytes,
            lanes=hosts.rows_of_host(by_row, config.evaluation.rows), coding=held_out_coding(coding),
        )  # fmt: skip

        def judged(batch):
            return jax.tree.map(host_part, eval_step(params, put(batch)))

        with jax.set_mesh(mesh):
            counted = hosts.counted(by_row, config.evaluation.rows)
            if labelled:
                found = evaluate_labels(judged, batches, counted)
            else:
                found = evaluate(judged, batches, len(held_out), counted)
        if tokens is not None and not labelled:
            found["canonical_tokens_bits_per_byte"] = found["bits_per_byte"]
        return {f"eval/{name}": value for name, value in found.items()}

    def save(step):
        log.flush()
        place = stream.get_state()
        lanes = [{**place, "lanes": x.tolist()} for x in hosts.gather(np.array(place["lanes"], np.int64))]
        checkpoints.save(step, state, merge_states(lanes), launch.record(config))

    # ---- loop ------------------------------------------------------------------------------------------
    a_target = bytes_a_target(coding, source)
    flops = 3 * models.flops(config.model, length) / a_target
    peak = metrics.peak_flops()
    log = metrics.Log(
        folder, start=start, steps=steps, every=config.training.log_every, flops=flops, peak=peak
    )
    console.start(log, config, abstract.params, mesh, source, held_out, flops, note, a_target)
    draw, profile = Sampler(folder, config, model, tokens), launch.Profile(folder, config)
    stop, agreed = launch.StopSignal(), hosts.Agreement(mesh)
    with stream, stop, profile:
        for step in range(start + 1, steps + 1):
            profile.step(step)
            began = time.perf_counter()
            batch = next(stream)
            wait = time.perf_counter() - began
            rate = learning_rate(config.optimizer, step - 1, steps)
            with jax.set_mesh(mesh):
                state, figures = train_step(state, put(batch), rate, chance)
            log.step(step, figures, rate, wait)
            last, stopping = step == steps, agreed(stop.asked)
            if last or step % config.evaluation.every == 0:
                with log.aside():  # raises on a loss that is not finite, before anything is written
                    size = config.evaluation.final_max_bytes if last else config.evaluation.max_bytes
                    log.add(**held_out_figures(size))
                    draw(step, state.ema if averaged else state.params)
            # The place in the data is taken before the next batch is, so that it agrees with the step.
            if last or stopping or step % config.checkpoints.every == 0:
                with log.aside():
                    save(step)
            if stopping:
                break
        log.flush()
        checkpoints.wait()
    console.end(log, folder, config, held_out, a_target, step=int(state.step))
    checkpoints.close()
    log.close()
    hosts.meet("end")


if __name__ == "__main__":
    launch.guarded(main)
