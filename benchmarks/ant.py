"""Rows of `make bench` for bodies with physics: environment, expert's learning, and the Hawk base model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Row, measure
from configs import ant
from experiments import ant_expert, pretrain
from internal_rl import build
from internal_rl.data import Batch
from internal_rl.learning import objectives, updates

BATCHES = (1, 32, 256, 1024)


def step(batch: int, steps: int = 32) -> Row:
    """Random torques in one scan; a finished episode costs what a running one does."""
    env = build.pretrain_env(ant.tiny())
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), batch))
    actions = jax.random.uniform(jax.random.key(1), (steps, batch, env.actions), minval=-1.0, maxval=1.0)

    def run(state, actions):
        def one(state, action):
            after = jax.vmap(env.step)(state, action)
            return after, jnp.sum(after.reward)

        return jax.lax.scan(one, state, actions)

    row = measure(run, state, actions)
    what = f"batch {batch}, {env.substeps} x {env.timestep} s"
    return {"name": f"ant_step_{batch}", "steps_per_s": batch * steps / row["s"], "batch": batch, "what": what} | row


def ppo_update() -> Row:
    """The expert's update, environment included."""
    cfg = ant.tiny()
    train = cfg.ant_expert
    state = jax.tree.map(lambda x: x[0], jax.jit(lambda: ant_expert.initial(cfg))())
    row = measure(lambda state: ant_expert.stage(cfg).update(state, {"vary": {}}), state)
    what = f"batch {train.batch}, {train.unroll} steps, {train.epochs} epochs x {train.minibatches}"
    rate = train.batch * train.unroll / row["s"]
    return {"name": "ant_ppo", "steps_per_s": rate, "batch": train.batch, "what": what} | row


def pretrain_update() -> Row:
    """The base model of the preset ``tiny`` on invented sequences."""
    cfg = ant.tiny()
    train, env, steps = cfg.pretrain, build.pretrain_env(cfg), cfg.expert.horizon
    model_def, init = build.base_model(cfg)
    tx = updates.optimiser(train)
    state = jax.jit(lambda key: updates.init(init(key), tx, key))(jax.random.key(1))
    noise = lambda i, size: jax.random.normal(jax.random.key(i), (train.batch, steps, size))  # noqa: E731
    alive = jnp.ones((train.batch, steps), bool)
    obs, action, following = noise(2, env.observation_size), noise(3, env.actions), noise(4, env.observation_size)
    batch = Batch(obs, action, following, alive, alive, alive, jnp.full(alive.shape, 7), None)
    loss = objectives.prediction(model_def, train.obs_coef, pretrain.way_coef(train))
    update = updates.supervised(
        lambda params, context, _, key, step: loss(params, context, context["batch"], key, step), lambda key: None, tx
    )
    row: dict[str, Any] = measure(update, state, {"batch": batch})
    what = f"batch {train.batch}, T {steps}, width {cfg.model.width}, {cfg.model.depth} layers"
    return {"name": "hawk_pretrain", "ms": row["s"] * 1e3, "batch": train.batch, "what": what} | row
