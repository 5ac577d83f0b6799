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

from configs import gridworld
from experiments import control, discover, pretrain, raw, reinforce
from internal_rl.config import Config
from internal_rl.learning import loop

STAGES = ("pretrain", "control", "discover", "reinforce", "raw")


def stage_of(cfg: Config, name: str) -> tuple[loop.Stage, Any, Any]:
    """A stage of the preset, with the shapes of its train state and of its context."""
    base = jax.eval_shape(lambda: pretrain.initial(cfg).params)
    # One pretrained base model is shared by all seeds, without their axis.
    one = {"base": jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), base), "vary": {}}
    axes: dict[str, int | None] = {"base": None, "vary": 0}
    if name == "pretrain":
        tasks = len(cfg.env.pretrain_tasks)
        prior = jax.ShapeDtypeStruct((tasks,), float)
        return pretrain.stage(cfg), jax.eval_shape(lambda: pretrain.initial(cfg)), {"vary": {}, "log_prior": prior}
    if name == "control":
        return control.stage(cfg, axes), jax.eval_shape(lambda: control.initial(cfg)), one
    if name == "discover":
        return discover.stage(cfg, axes), jax.eval_shape(lambda: discover.initial(cfg)), one
    if name == "reinforce":
        one["controller"] = jax.eval_shape(lambda: discover.initial(cfg).params)
        stage = reinforce.stage(cfg, axes | {"controller": 0})
        return stage, jax.eval_shape(lambda: reinforce.initial(cfg)), one
    return raw.stage(cfg), jax.eval_shape(lambda tree: raw.initial(cfg, tree), base), {"vary": {}}


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs inside an equation."""
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [getattr(v, "jaxpr", v) for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def operations(jaxpr: Any) -> tuple[float, int]:
    """Floating-point operations in matrix products, and scan iterations in sequence."""
    flops, serial = 0.0, 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            flops += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params):
            more, nested = operations(inner)
            flops += length * more
            serial += length * max(nested, 1) if length > 1 else nested
    return flops, serial


def cost(cfg: Config, name: str) -> dict[str, float]:
    """Compiles one update of a stage over its seeds and reads its cost."""
    stage, state, context = stage_of(cfg, name)
    update = jax.vmap(stage.update, in_axes=(0, stage.context_axes))
    traced = jax.jit(update, donate_argnums=0).trace(state, context)
    flops, serial = operations(traced.jaxpr.jaxpr)
    begin = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "gb": (held + memory.temp_size_in_bytes) / 1e9, "tflop": flops / 1e12, "serial": serial, "compile_s": seconds,
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
