"""Ground-truth controllers (C.3): can the true subgoal steer the frozen base model at the controlled layer?

python -m experiments.control --config=configs/gridworld.py:tiny --workdir=runs/gridworld-tiny
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from experiments import common, pretrain
from internal_rl import build, checkpoints
from internal_rl.analysis import steering
from internal_rl.analysis.statistics import quartiles
from internal_rl.config import Config
from internal_rl.learning import loop, objectives, updates
from internal_rl.learning.rollout import base_actor, rollout

GATE = 0.7
"""Smallest share of the solvable ceiling that true-subgoal control must reach on the post-training task."""


def stage(cfg: Config, axes: Any) -> loop.Stage:
    """The training stage; its context holds the frozen base model."""
    model_def, _ = build.base_model(cfg)
    loss = objectives.ground_truth_control(model_def, cfg.model.layer)
    update = updates.supervised(
        loss, lambda key: pretrain.clean_batch(cfg, key, cfg.control.batch), updates.optimiser(cfg.control)
    )

    def evaluate(state, context):
        key = common.evaluation_key(state)
        batch = pretrain.clean_batch(cfg, key, cfg.control.eval_batch)
        return {"held_out_nll": loss(state.params, context, batch, key, state.step)[1]["nll"]}

    train = cfg.control
    return loop.Stage(
        "control", update, evaluate, train.steps, train.log_every, train.save_every, axes, ("nll", "held_out_nll")
    )


def initial(cfg: Config) -> updates.TrainState:
    """The train state before the first update, leaves [S, ...]."""
    groups, rank, width = build.subgoals(cfg), cfg.control.rank, cfg.model.width
    return common.initial_state(cfg, "control", lambda key: objectives.controller_init(key, groups, rank, width))


def success(cfg: Config, base: Any, controllers: Any, key: jax.Array, episodes: int):
    """What the controlled base model achieves on the post-training tasks, subgoals switched by their ground truth."""
    env = build.post_env(cfg)
    control = steering.true_subgoal_control(controllers, cfg.env.subgoal_length)
    actor = base_actor(env, build.base_model(cfg)[0], base, cfg.model.layer, control)
    return steering.measure(lambda key: rollout(env, actor, key), key, episodes)


def run(cfg: Config, workdir: Path) -> dict[str, Any]:
    """Trains (or finishes training) and returns the stage's summary."""
    base, digest = pretrain.load(cfg, workdir)
    base, axis = build.spread(base, cfg.control.seeds)
    context, axes = {"base": base}, {"base": axis}
    parents = {"pretrain": digest}
    state = loop.run(stage(cfg, axes), lambda: initial(cfg), context, workdir=workdir, config=cfg, parents=parents)

    def summarise():
        episodes = 16 * cfg.control.eval_batch
        keys = jax.random.split(common.stage_key(cfg, "control summary"), cfg.control.seeds)
        measure = jax.vmap(lambda b, p, key: success(cfg, b, p, key, episodes), (axis, 0, 0))
        nll = common.rows(workdir / "control")[-1]["held_out_nll"]
        return {"held_out_nll": quartiles(nll)} | {
            name: quartiles(values) for name, values in jax.jit(measure)(base, state.params, keys).items()
        }

    return common.cached(workdir / "control" / "summary.json", checkpoints.leaf_digest(state), summarise)


if __name__ == "__main__":
    common.main(run)
