"""Internal RL on codes (Algorithms 1-3) beside raw-action RL, with the same update (Eq. 10) and the same episodes.

python -m experiments.reinforce --config=configs/gridworld.py:tiny --workdir=runs/gridworld-tiny
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments import common, discover, pretrain
from internal_rl import build, checkpoints
from internal_rl.analysis import steering
from internal_rl.analysis.statistics import quartiles
from internal_rl.config import Config
from internal_rl.learning import loop, updates
from internal_rl.learning.rollout import Episode, base_actor, code_actor, code_log_prob, raw_log_prob, rollout

Play = Callable[[Any, Any, jax.Array], Episode]
"""``(params, context, key) -> Episode``."""
EPISODES = 16
"""Episodes of the evaluations before and after training, in units of ``eval_batch``."""


def play_codes(cfg: Config) -> Play:
    """One episode of the code-space policy; the context holds base model and metacontroller."""
    policy_def, _ = build.policy(cfg)

    def play(params, context, key):
        env = build.latent_env(cfg, context["base"], context["controller"])
        return rollout(env, code_actor(env, policy_def, params), key)

    return play


def play_raw(cfg: Config) -> Play:
    """One episode of the base model alone."""
    env, model_def = build.post_env(cfg), build.base_model(cfg)[0]
    return lambda params, context, key: rollout(env, base_actor(env, model_def, params), key)


def internal_stage(cfg: Config, axes: Any) -> loop.Stage:
    """Internal RL."""
    policy_def, _ = build.policy(cfg)
    update = updates.policy_gradient(
        play_codes(cfg),
        lambda params, episode: code_log_prob(policy_def, params, episode),
        cfg.reinforce,
        updates.optimiser(cfg.reinforce),
    )
    return _stage(cfg, "reinforce", update, axes)


def raw_stage(cfg: Config) -> loop.Stage:
    """Raw-action RL: the base model itself is trained, starting from its pretrained parameters."""
    model_def, _ = build.base_model(cfg)
    update = updates.policy_gradient(
        play_raw(cfg),
        lambda params, episode: raw_log_prob(model_def, params, episode),
        cfg.reinforce,
        updates.optimiser(cfg.reinforce, cfg.reinforce.raw_lr),
    )
    return _stage(cfg, "raw", update, None)


def _stage(cfg: Config, name: str, update: Any, axes: Any) -> loop.Stage:
    train = cfg.reinforce
    headline = ("success", "subgoals", "decisions")
    return loop.Stage(name, update, None, train.steps, train.log_every, train.save_every, axes, headline)


def initial_policy(cfg: Config) -> updates.TrainState:
    """The policy's train state before the first update: pi = N(0, I), leaves [S, ...]."""
    return common.initial_state(cfg, "reinforce", build.policy(cfg)[1])


def initial_raw(cfg: Config, base: Any) -> updates.TrainState:
    """Raw-action RL's train state before the first update, one pretrained base model per seed."""
    seeds = cfg.reinforce.seeds
    base, axis = build.spread(base, seeds)
    tx = updates.optimiser(cfg.reinforce, cfg.reinforce.raw_lr)
    keys = jax.random.split(common.stage_key(cfg, "raw"), seeds)
    return jax.vmap(lambda params, key: updates.init(params, tx, key), (axis, 0))(base, keys)


def _success(cfg: Config, play: Play, state: Any, context: Any, axes: Any, label: str) -> dict[str, dict[str, float]]:
    keys = jax.random.split(common.stage_key(cfg, label), cfg.reinforce.seeds)
    episodes = EPISODES * cfg.reinforce.eval_batch

    def one(params, context, key):
        return steering.measure(lambda k: play(params, context, k), key, episodes)

    scores = jax.jit(jax.vmap(one, (0, axes, 0)))(state.params, context, keys)
    return {name: quartiles(values) for name, values in scores.items()}


def _learn(cfg: Config, workdir: Path, stage: loop.Stage, play: Play, start: Callable, context: Any, parents: dict):
    """Trains one learner and measures it on fresh episodes before the first update and after the last."""
    state = loop.run(stage, start, context, workdir=workdir, config=cfg, parents=parents)
    axes = stage.context_axes

    def summarise():
        before = _success(cfg, play, jax.jit(start)(), context, axes, f"{stage.name} before")
        return {"before": before, "after": _success(cfg, play, state, context, axes, f"{stage.name} after")}

    return common.cached(workdir / stage.name / "summary.json", checkpoints.leaf_digest(state), summarise)


def run(cfg: Config, workdir: Path) -> dict[str, Any]:
    """Trains (or finishes training) both learners and returns their summaries."""
    base, base_digest = pretrain.load(cfg, workdir)
    controller, controller_digest = discover.load(cfg, workdir)
    shared, axis = build.spread(base, cfg.reinforce.seeds)
    controller, controller_axis = build.spread(controller, cfg.reinforce.seeds)
    context = {"base": shared, "controller": controller}
    axes = {"base": axis, "controller": controller_axis}
    parents = {"pretrain": base_digest, "discover": controller_digest}
    internal = _learn(
        cfg, workdir, internal_stage(cfg, axes), play_codes(cfg), lambda: initial_policy(cfg), context, parents
    )
    raw = _learn(
        cfg, workdir, raw_stage(cfg), play_raw(cfg), lambda: initial_raw(cfg, base), None, {"pretrain": base_digest}
    )
    return {"internal_rl": internal, "raw_rl": raw}


if __name__ == "__main__":
    common.main(run)
