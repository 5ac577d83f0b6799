"""Throughput on one CPU core, as a table and as `results/bench.json`.

  python -m benchmarks.bench

Every row is the best of several timings of one compiled program, warm-up and compilation excluded. The first row is a
matrix product of the same run: on a shared machine only the ratio to it travels.
"""

from __future__ import annotations

import os

if __name__ == "__main__" and hasattr(os, "sched_setaffinity"):  # before jax starts its threads
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import dataclasses
import functools
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import ant
from benchmarks.timing import Row, measure
from configs import gridworld
from experiments import expert_data, reinforce
from internal_rl import build
from internal_rl.config import Config
from internal_rl.experts import shortest_path
from internal_rl.learning import objectives, updates

RESULTS = Path(__file__).parent.parent / "results" / "bench.json"
TARGETS = {
    "env_step": 5e6, "expert": 20e3, "pretrain_update": 600.0, "discover_update": 350.0, "internal_rl_rollout": 6e3,
    "ant_step_256": 15e3,
}  # fmt: skip
"""Steps or trajectories per second at least; ms per update at most."""


def matmul(size: int = 1024) -> Row:
    """The core's float32 matrix product rate."""
    square = jnp.ones((size, size))
    row = measure(lambda a, b: a @ b, square, square)
    return {"name": "matmul", "gf_per_s": 2 * size**3 / row["s"] / 1e9, "what": f"float32, {size} x {size}"} | row


def env_step(observed: bool, batch: int = 4096, steps: int = 100) -> Row:
    """Random actions at the paper's sizes in one scan; a finished episode costs what a running one does."""
    env = build.pretrain_env(gridworld.paper())
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), batch))
    actions = jax.random.randint(jax.random.key(1), (steps, batch), 0, env.actions)

    def run(state, actions):
        def step(carry, action):
            after = jax.vmap(env.step)(carry[0], action)
            # Carried, so that every step has to write it.
            return (after, jax.vmap(env.observe)(after) if observed else carry[1]), jnp.sum(after.reward)

        return jax.lax.scan(step, (state, jax.vmap(env.observe)(state) if observed else None), actions)

    row = measure(run, state, actions)
    name, kind = ("env_step_observed", "with observations") if observed else ("env_step", "states only")
    what = f"batch {batch}, paper sizes, {kind}"
    return {"name": name, "steps_per_s": batch * steps / row["s"], "batch": batch, "what": what} | row


def expert(batch: int = 1024) -> Row:
    """Successful trajectories at the paper's sizes, rejection included."""
    cfg = gridworld.paper()
    env = build.pretrain_env(cfg)
    row = measure(lambda key: shortest_path.sample(env, cfg.expert, key, batch), jax.random.key(0))
    what = f"batch {batch}, paper sizes, T {env.horizon}, only successful ones"
    return {"name": "expert", "trajectories_per_s": batch / row["s"], "batch": batch, "what": what} | row


def model_config(batch: int = 64, horizon: int = 32) -> Config:
    """The paper's models on short episodes; tasks are cut to four colours, so that they can be done in time."""
    cfg = gridworld.paper()
    tasks = tuple(task[:4] for task in cfg.env.pretrain_tasks)
    return dataclasses.replace(
        cfg,
        env=dataclasses.replace(cfg.env, horizon=horizon, pretrain_tasks=tasks),
        reinforce=dataclasses.replace(cfg.reinforce, batch=batch),
    )


def supervised_update(name: str, cfg: Config, batch: int, loss: Callable, init: Callable, train: Any, base: Any) -> Row:
    """One update on a batch made beforehand: loss, gradients, optimiser and metrics."""
    tx = updates.optimiser(train)
    data = jax.jit(lambda key: expert_data.noisy(cfg, {}, key, batch))(jax.random.key(0))
    state = jax.jit(lambda key: updates.init(init(key), tx, key))(jax.random.key(1))
    # The batch is an argument, not a constant that the compiler would fold.
    update = updates.supervised(
        lambda params, context, _, key, step: loss(params, context, context["batch"], key, step), lambda key: None, tx
    )
    row = measure(update, state, {"base": base, "batch": data})
    what = f"batch {batch}, T {cfg.env.horizon}, width {cfg.model.width}, {cfg.model.depth} layers"
    return {"name": name, "ms": row["s"] * 1e3, "batch": batch, "what": what} | row


def pretrain_update(cfg: Config, batch: int = 64) -> Row:
    """The base model, Eq. 5."""
    model_def, init = build.base_model(cfg)
    loss = objectives.prediction(model_def, cfg.pretrain.obs_coef)
    return supervised_update("pretrain_update", cfg, batch, loss, init, cfg.pretrain, None)


def discover_update(cfg: Config, batch: int = 64) -> Row:
    """The metacontroller on the frozen base model, Eq. 3."""
    model_def, base_init = build.base_model(cfg)
    controller_def, init = build.metacontroller(cfg)
    loss = objectives.discovery(model_def, controller_def, cfg.model.layer, cfg.discover)
    base = jax.jit(base_init)(jax.random.key(2))
    return supervised_update("discover_update", cfg, batch, loss, init, cfg.discover, base)


def internal_rl_rollout(cfg: Config, batch: int = 64) -> Row:
    """Episodes of the code-space policy through metacontroller, base model and environment; no learning."""
    inits = (build.policy(cfg)[1], build.base_model(cfg)[1], build.metacontroller(cfg)[1])
    params, base, controller = (jax.jit(init)(jax.random.key(i)) for i, init in enumerate(inits))
    play = jax.vmap(reinforce.play_codes(cfg), (None, None, 0))
    keys = jax.random.split(jax.random.key(3), batch)
    row = measure(play, params, {"base": base, "controller": controller}, keys)
    steps = batch * cfg.env.horizon
    what = f"batch {batch}, T {cfg.env.horizon}, width {cfg.model.width}, {cfg.model.depth} layers"
    return {"name": "internal_rl_rollout", "steps_per_s": steps / row["s"], "batch": batch, "what": what} | row


def machine() -> str:
    """Processor, cores used and versions, without the machine's name."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core, Python {platform.python_version()}, jax {jax.__version__}, {jax.default_backend()}"


UNITS = {"steps_per_s": "steps/s", "trajectories_per_s": "trajectories/s", "ms": "ms/update", "gf_per_s": "GF/s"}


def show(row: Row) -> None:
    """One line of the table."""
    field = next(field for field in UNITS if field in row)
    target = row.get("target")
    bound = "" if target is None else f"{'<=' if field == 'ms' else '>='} {target:,.0f}"
    verdict = "" if target is None else "met" if row["met"] else "MISSED"
    print(
        f"{row['name']:20} {row[field]:>12,.0f} {UNITS[field]:15} {bound:>12} {verdict:7} "
        f"{min(row['cpu_s'] / row['s'], 1):>5.0%} of the core; {row['what']}; compiled in {row['compile_s']:.1f} s",
        flush=True,
    )


def main() -> None:
    """Measures every row and writes the results."""
    jax.config.update("jax_platforms", "cpu")
    cfg = model_config()
    print(f"one core: {machine()}\n{'':20} {'measured':>12} {'':15} {'target':>12}")
    benches = (
        matmul, lambda: env_step(False), lambda: env_step(True), expert, lambda: pretrain_update(cfg),
        lambda: discover_update(cfg), lambda: internal_rl_rollout(cfg),
        *(functools.partial(ant.step, batch) for batch in ant.BATCHES), ant.ppo_update, ant.pretrain_update,
    )  # fmt: skip
    rows = []
    for bench in benches:
        row = bench()
        if (target := TARGETS.get(row["name"])) is not None:
            met = row["ms"] <= target if "ms" in row else next(row[f] for f in UNITS if f in row) >= target
            row |= {"target": target, "met": met}
        rows.append(row)
        show(row)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
