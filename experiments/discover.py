"""Trains the metacontroller on the frozen base model (Eq. 3) and scores its switches against the true subgoals.

python -m experiments.discover --config=configs/gridworld.py:tiny --workdir=runs/gridworld-tiny
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from experiments import common, pretrain
from internal_rl import build, checkpoints
from internal_rl.analysis import alignment
from internal_rl.analysis.statistics import quartiles
from internal_rl.config import Config
from internal_rl.learning import loop, objectives, updates

GATE = 0.8
"""Smallest F1 of hard switches against subgoal changes, with one step of tolerance."""


def stage(cfg: Config, axes: Any) -> loop.Stage:
    """The training stage; its context holds the frozen base model."""
    loss = objectives.discovery(build.base_model(cfg)[0], build.metacontroller(cfg)[0], cfg.model.layer, cfg.discover)
    update = updates.supervised(
        loss, lambda key: pretrain.clean_batch(cfg, key, cfg.discover.batch), updates.optimiser(cfg.discover)
    )

    def evaluate(state, context):
        key = common.evaluation_key(state)
        return held_out(cfg, state.params, context["base"], key, cfg.discover.eval_batch, state.step)

    train = cfg.discover
    headline = ("nll", "kl", "beta_change", "beta_away", "f1_tol1")
    return loop.Stage("discover", update, evaluate, train.steps, train.log_every, train.save_every, axes, headline)


def held_out(cfg: Config, params: Any, base: Any, key: jax.Array, batch: int, step: Any) -> dict[str, jax.Array]:
    """NLL, KL and alignment scores on fresh trajectories, with the gate of an update."""
    batch_key, noise_key = jax.random.split(key)
    episodes = pretrain.clean_batch(cfg, batch_key, batch)
    model_def, controller_def = build.base_model(cfg)[0], build.metacontroller(cfg)[0]
    result = objectives.controlled(
        model_def, controller_def, cfg.model.layer, cfg.discover, params, base, episodes, noise_key, step
    )
    return {"held_out_nll": result.nll(episodes.alive), "held_out_kl": result.kl(episodes.alive)} | alignment.scores(
        result.beta, episodes.subgoal, episodes.alive
    )


def initial(cfg: Config) -> updates.TrainState:
    """The train state before the first update, leaves [S, ...]."""
    return common.initial_state(cfg, "discover", build.metacontroller(cfg)[1])


def load(cfg: Config, workdir: Path) -> tuple[Any, str]:
    """The trained metacontrollers' parameters [S, ...] and the digest of their checkpoint."""
    abstract = jax.eval_shape(lambda: initial(cfg))
    state, digest = checkpoints.load_final(workdir, "discover", abstract, cfg.discover.steps)
    return state.params, digest


def run(cfg: Config, workdir: Path) -> dict[str, Any]:
    """Trains (or finishes training) and returns the stage's summary."""
    base, parent = pretrain.load(cfg, workdir)
    base, axis = build.spread(base, cfg.discover.seeds)
    state = loop.run(
        stage(cfg, {"base": axis}),
        lambda: initial(cfg),
        {"base": base},
        workdir=workdir,
        config=cfg,
        parents={"pretrain": parent},
    )

    def summarise():
        key, episodes = common.stage_key(cfg, "discover summary"), 8 * cfg.discover.eval_batch
        measure = jax.vmap(lambda p, b: held_out(cfg, p, b, key, episodes, cfg.discover.steps), (0, axis))
        return {name: quartiles(values) for name, values in jax.jit(measure)(state.params, base).items()}

    return common.cached(workdir / "discover" / "summary.json", checkpoints.leaf_digest(state), summarise)


if __name__ == "__main__":
    common.main(run)
