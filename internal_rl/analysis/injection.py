"""What a single code does (Fig. A4): collected when a colour is visited, then injected elsewhere.

Episodes here are legs: at most one colour that an expert visits first, then one that the code is asked to reach.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from internal_rl.config import EnvConfig
from internal_rl.envs import gridworld, pinpad
from internal_rl.envs.gridworld import Gridworld
from internal_rl.envs.latent import LatentEnv
from internal_rl.experts import shortest_path


def leg_env(cfg: EnvConfig) -> Gridworld:
    """The grid with every colour and every ordered pair of colours as a task: row c is (c,), then (p, c)."""
    singles = tuple((colour,) for colour in range(cfg.colours))
    return gridworld.make(cfg, singles + tuple(itertools.permutations(range(cfg.colours), 2)))


@struct.dataclass
class Visits:
    """Codes and what was visited under them, fields [B, ...]."""

    code: jax.Array
    """[n_z], z_t at the step of the visit."""
    colour: jax.Array
    """int32, the colour visited; -1 for none within the horizon."""
    time: jax.Array
    """int32, steps from the start of the episode to the visit."""


def collect(env: LatentEnv, key: jax.Array) -> Visits:
    """One episode with codes from N(0, I), to the colour that ends it; ``env`` is over :func:`leg_env`."""
    reset_key, key = jax.random.split(key)
    size = env.reset(reset_key).carry.code.shape[0]

    def step(carry, t):
        state, found = carry
        code = jax.random.normal(jax.random.fold_in(key, t), (size,))
        after = env.step(state, code)
        colour = jnp.where(state.done, -1, env.env.visited(state.inner, after.inner.agent))
        ends = after.done & ~state.done & (colour >= 0)
        new = Visits(after.carry.code, colour, t + 1)
        return (after, jax.tree.map(lambda x, y: jnp.where(ends, x, y), new, found)), None

    none = Visits(jnp.zeros(size), jnp.int32(-1), jnp.int32(0))
    (_, found), _ = jax.lax.scan(step, (env.reset(reset_key), none), jnp.arange(env.horizon))
    return found


def inject(
    env: Gridworld, model_def: nnx.GraphDef, base: Any, layer: int, control: Any, task: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Follows the expert through all but the task's last colour, then the base model under one constant controller.

    Args:
      env: over :func:`leg_env`.
      model_def: definition of the base model.
      base: its parameters.
      layer: the controlled layer.
      control: maps the residual [1, D] to what the code makes of it; None for the base model by itself.
      task: int32, row of the task table.
      key: of the layout and of the actions.

    Returns:
      Whether the first colour after that was the task's last one, and int32, the step at which the code was injected;
      -1 if never.
    """
    model = nnx.merge(model_def, base)
    reset_key, key = jax.random.split(key)
    start = env.reset(reset_key, task)
    best = shortest_path.break_ties(shortest_path.optimal_actions(env, start))
    caches = model.init_state(env.horizon)

    def step(carry, t):
        state, lower, upper, injected = carry
        e_TD, lower = model.lower(env.observe(state)[None], lower, t, layer)
        last = state.progress >= jnp.sum(state.sequence >= 0) - 1
        if control is not None:
            e_TD = jnp.where(last, control(e_TD), e_TD)
        out, upper = model.upper(e_TD, upper, t, layer)
        sampled = out.action[0].sample(jax.random.fold_in(key, t))
        expert = jnp.argmax(best[:, pinpad.target(state.sequence, state.progress), state.agent])
        after = env.step(state, jnp.where(last, sampled, expert))
        injected = jnp.where((injected < 0) & last & ~state.done, t, injected)
        return (after, lower, upper, injected), after.reward

    first = (start, caches[:layer], caches[layer:], jnp.int32(-1))
    (*_, injected), reward = jax.lax.scan(step, first, jnp.arange(env.horizon))
    return jnp.sum(reward), injected
