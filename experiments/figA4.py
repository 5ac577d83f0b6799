"""Fig. A4 on the grid: a code collected at one visit makes the agent visit the same colour elsewhere.

python -m experiments.figures --config=configs/gridworld.py:tiny --workdir=runs/figures-tiny --only=figA4
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common, discover, figure
from internal_rl import build, charts
from internal_rl.analysis import injection
from internal_rl.analysis.statistics import median_difference, quartiles
from internal_rl.config import Config
from internal_rl.page import Claim, judge

COLLECTED, INJECTED = 4096, 128
"""Episodes per metacontroller under the prior, and per task with an injected code."""
KINDS = ("at the start", "after a subgoal, seen in training", "after a subgoal, never seen in training")


def kind(cfg: Config, task: tuple[int, ...]) -> str:
    """Where a leg stands: at the start, or after a colour that it follows in pretraining or never does."""
    seen = {pair for one in cfg.env.pretrain_tasks for pair in itertools.pairwise(one)}
    return KINDS[0] if len(task) == 1 else KINDS[1] if task in seen else KINDS[2]


def measure(cfg: Config, base: Any, controller: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Success of every leg with a code collected at a visit of its colour, with one of another colour, and without.

    Returns:
      ``with``, ``other``, ``without`` float32 [tasks], and ``collected`` int32 [O], the size of the bank.
    """
    env = injection.leg_env(cfg.env)
    latent = build.latent_env(cfg, base, controller).replace(env=env)
    collect_key, pick_key, play_key = jax.random.split(key, 3)
    visits = jax.vmap(lambda k: injection.collect(latent, k))(jax.random.split(collect_key, COLLECTED))
    counts = jnp.sum(visits.colour[:, None] == jnp.arange(env.colours), axis=0)
    model_def, _ = build.base_model(cfg)
    steer = build.steer(cfg, controller)

    def leg(task, source, key):
        """One episode under a code collected at a visit of ``source``; -1: under none."""
        pick, play = jax.random.split(key)
        weight = (visits.colour == source).astype(jnp.float32)
        code = visits.code[jax.random.categorical(pick, jnp.log(weight))]
        control = lambda e_TD: jnp.where(source < 0, e_TD, steer(e_TD, code))  # noqa: E731
        reward, injected = injection.inject(env, model_def, base, cfg.model.layer, control, task, play)
        return jnp.where(injected >= 0, reward, 0.0), injected >= 0

    def rate(task, source, key):
        reward, counted = jax.vmap(lambda k: leg(task, source, k))(jax.random.split(key, INJECTED))
        return jnp.sum(reward) / jnp.maximum(jnp.sum(counted), 1)

    tasks = jnp.arange(len(env.tasks))
    goal = jnp.array([task[-1] for task in env.tasks])
    sources = {"with": goal, "other": (goal + 1) % env.colours, "without": jnp.full_like(goal, -1)}
    keys = jax.random.split(play_key, len(env.tasks))
    del pick_key
    # One task after the other: the episodes of one fill the machine.
    return {"collected": counts} | {
        name: jax.lax.map(lambda inputs: rate(*inputs), (tasks, source, keys)) for name, source in sources.items()
    }


def make(runs: figure.Runs) -> list[figure.Made]:
    """Success with and without the code, by where the leg stands."""
    cfg, folder = runs.config("meta"), runs.folder("meta")
    base, controller, digests = discover.load(cfg, folder)

    def compute():
        bases, axis = build.spread(base, cfg.discover.rows)
        keys = common.row_keys(cfg, cfg.discover, "figA4")
        found = jax.jit(jax.vmap(lambda b, p, k: measure(cfg, b, p, k), (axis, 0, 0)))(bases, controller, keys)
        return {name: np.asarray(values).tolist() for name, values in found.items()}

    found = common.cached(folder / "injection.json", digests["discover"], compute)
    tasks = injection.leg_env(cfg.env).tasks
    member = {name: [i for i, task in enumerate(tasks) if kind(cfg, task) == name] for name in KINDS}
    names = {"with": "its code", "other": "another colour's code", "without": "no code"}
    by_kind = {
        source: {
            name: np.asarray(found[source])[:, rows].mean(axis=1).tolist() for name, rows in member.items() if rows
        }
        for source in names
    }
    labels = ["start", "seen", "never seen"][: len(by_kind["with"])]
    curves = {names[source]: (labels, list(by_kind[source].values())) for source in names}
    claims = []
    for name in by_kind["with"]:
        difference, low, high = median_difference(by_kind["with"][name], by_kind["without"][name])
        with_, without = (quartiles(by_kind[source][name])["median"] for source in ("with", "without"))
        claims.append(
            Claim(f"A code collected elsewhere leads to its subgoal {name}", "yes (Fig. A4)",
                  f"{with_:.2f} against {without:.2f} without: {difference:+.2f} [{low:.2f}, {high:.2f}]",
                  judge(low > 0.1))
        )  # fmt: skip
    data = [
        {"metacontroller": s, "task": "-".join(map(str, task)), "kind": kind(cfg, task)}
        | {name: found[name][s][i] for name in names}
        for s in range(cfg.discover.rows) for i, task in enumerate(tasks)
    ]  # fmt: skip
    panel = charts.Panel(
        "", curves, "where the leg stands", "leg ends at the code's colour", {"chance": 1 / cfg.env.colours}, (0, 1.02)
    )
    stamp = figure.stamp(
        cfg, f"{cfg.discover.rows} metacontrollers", f"{COLLECTED:,} collected, {INJECTED} legs per task"
    )
    caption = (
        "As Fig. A4, on the grid: codes drawn from the prior are kept when a colour is visited under them. In a new "
        "layout the expert leads the base model through at most one colour, then one kept code is held. Success: "
        "the next colour visited is the one it was kept for. Beside it the same with a code kept for another "
        "colour, and with none. Median and quartiles over metacontrollers."
    )
    ours = "; ".join(f"{claim.claim.rsplit('subgoal ', 1)[1]}: {claim.ours}" for claim in claims)
    return [
        figure.Made(
            "figA4", "What a code means elsewhere", caption, charts.lines([panel], stamp=stamp), data, claims, ours
        )
    ]
