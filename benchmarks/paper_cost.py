"""What one update of each stage costs at the `paper` preset: compiled for the CPU, never run.

  python -m benchmarks.paper_cost [STAGE ...]

Memory is XLA's own account of the compiled update (arguments, results and temporaries, the donated state counted
once); another backend fuses and schedules differently: take it as within a factor of two. `TFLOP` counts the matrix
products of the traced update, scans multiplied out; XLA's `cost_analysis` counts a loop's body once. `serial` is the
number of scan iterations that must follow each other, where a GPU waits for launches; data-dependent loops (the
expert's search and its rejection) are counted once.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import counting
from configs import gridworld
from experiments import compile, control, discover, pretrain, raw, reinforce
from internal_rl import build
from internal_rl.config import Config
from internal_rl.dataset import Dataset
from internal_rl.learning import loop

STAGES = ("pretrain", "control", "discover", "reinforce", "raw")


def data_of(cfg: Config) -> dict[str, Dataset]:
    """The shapes of a body's data set, as many rows as it can have."""
    env, steps = build.pretrain_env(cfg), cfg.expert.horizon or cfg.env.horizon
    rows, shape = cfg.data.episodes * (steps + 1), jax.ShapeDtypeStruct
    whole = Dataset(
        shape((rows, env.observation_size), jnp.float32), shape((rows, env.actions), jnp.float32),
        shape((rows,), jnp.int32), shape((cfg.data.episodes + 1,), jnp.int32),
        shape((cfg.data.episodes,), jnp.int32), steps, cfg.env.subgoal_length,
    )  # fmt: skip
    return {"train": whole, "held_out": whole}


def stage_of(cfg: Config, name: str) -> tuple[loop.Stage, Any, Any]:
    """A stage of the preset, with the shapes of its train state and of its context."""
    if name == "ant_expert":
        from experiments import ant_expert  # imports MuJoCo, which takes seconds

        return ant_expert.stage(cfg), jax.eval_shape(lambda: ant_expert.initial(cfg)), {"vary": {}}
    base = jax.eval_shape(lambda: pretrain.initial(cfg).params)
    if name == "raw":
        return raw.stage(cfg), jax.eval_shape(lambda tree: raw.initial(cfg, tree), base), {"vary": {}}
    # One pretrained base model is shared by all seeds, without their axis.
    one = {"base": jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), base), "vary": {}}
    axes: dict[str, int | None] = {"base": None, "vary": 0}
    if name == "reinforce":
        one["controller"] = jax.eval_shape(lambda: discover.initial(cfg).params)
        stage = reinforce.stage(cfg, axes | {"controller": 0})
        return stage, jax.eval_shape(lambda: reinforce.initial(cfg)), one
    data, data_axes = ({}, {}) if cfg.env.body == "point" else ({"data": data_of(cfg)}, {"data": None})
    if name == "control":
        return control.stage(cfg, axes | data_axes), jax.eval_shape(lambda: control.initial(cfg)), one | data
    if name == "discover":
        return discover.stage(cfg, axes | data_axes), jax.eval_shape(lambda: discover.initial(cfg)), one | data
    alone = {"vary": {}} | data
    if name == "compile":
        state = jax.eval_shape(lambda tree: compile.initial(cfg, tree), base)
        return compile.stage(cfg, data_axes), state, alone
    prior = jax.ShapeDtypeStruct((len(cfg.env.pretrain_tasks),), float)
    state = jax.eval_shape(lambda: pretrain.initial(cfg))
    return pretrain.stage(cfg, data_axes), state, alone | {"log_prior": prior}


def cost(cfg: Config, name: str) -> dict[str, float]:
    """Compiles one update of a stage over its seeds and reads its cost."""
    stage, state, context = stage_of(cfg, name)
    update = jax.vmap(stage.update, in_axes=(0, stage.context_axes))
    traced = jax.jit(update, donate_argnums=0).trace(state, context)
    counted = counting.count(traced.jaxpr.jaxpr)
    begin = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "gb": (held + memory.temp_size_in_bytes) / 1e9, "tflop": counted.flops / 1e12, "serial": counted.iterations,
        "compile_s": seconds,
        "xla_tflop": (compiled.cost_analysis() or {}).get("flops", math.nan) / 1e12,
    }  # fmt: skip


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_platforms", "cpu")
    cfg = gridworld.paper()
    names = sys.argv[1:] or STAGES
    if unknown := set(names) - set(STAGES):
        raise SystemExit(f"error: {min(unknown)!r} is no stage; expected {', '.join(STAGES)}.")
    print(f"{'stage':10} {'seeds x batch':>13} {'updates':>8} {'memory GB':>9} {'TFLOP':>7} {'(XLA)':>7} {'serial':>6}")
    for name in names:
        train = getattr(cfg, "reinforce" if name == "raw" else name)
        row = cost(cfg, name)
        print(
            f"{name:10} {f'{train.seeds} x {train.batch}':>13} {train.steps:>8,} {row['gb']:>9.1f} "
            f"{row['tflop']:>7.2f} {row['xla_tflop']:>7.2f} {row['serial']:>6}   compiled in {row['compile_s']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
