"""Experts for bodies with physics: they are told the shortest way, which the task does not show (C.1.1)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.config import ExpertConfig
from internal_rl.envs import pinpad
from internal_rl.envs.ant import Ant, State
from internal_rl.experts import shortest_path

TIES = "clockwise"
"""Which of several shortest ways is told. In a turned world it is the turned one, so that data may be turned."""
QUARTERS = (1, 3, 2, 0)
"""Quarter turns from +x to the moves up, down, left, right."""
DIRECTIONS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
"""Unit vectors of the quarter turns."""


@struct.dataclass
class Guided:
    """An episode with a guide: the environment's state, and the ways to every colour."""

    state: State
    choices: jax.Array
    """int32 [O, N], from ``shortest_path.plan``."""

    @property
    def done(self) -> jax.Array:
        """Whether the episode is over."""
        return self.state.done

    @property
    def target(self) -> jax.Array:
        """int32, the colour to visit next."""
        return pinpad.target(self.state.sequence, self.state.progress)


Act = Callable[[Guided, jax.Array], jax.Array]
"""``(guided, noise [A]) -> action [A]``; standard normal noise for a sampled action, zero for the mean."""


def begin(env: Ant, key: jax.Array, task: jax.Array | None = None) -> Guided:
    """A new episode; over before it starts if its task cannot be done in this layout."""
    state = env.reset(key, task)
    choices = shortest_path.plan(env, ExpertConfig(ties=TIES), state)
    stops = jnp.concatenate([state.agent[None], state.colours[jnp.maximum(state.sequence, 0)]])
    ways = choices[jnp.maximum(state.sequence, 0), stops[:-1]]
    return Guided(state.replace(done=jnp.any((ways == 0) & (state.sequence >= 0))), choices)


def quarter(choices: jax.Array, target: jax.Array, cell: jax.Array) -> jax.Array:
    """The way from a cell to a colour, int32, in quarter turns from +x; up if there is none."""
    return jnp.asarray(QUARTERS)[jnp.argmax(choices[target, cell] >> jnp.arange(4) & 1)]


@struct.dataclass
class Demonstration:
    """One episode of T steps; what comes after its end is padding, marked by ``alive``."""

    obs: jax.Array
    """[T + 1, O], the last one after the last action."""
    action: jax.Array
    """[T, A], as the environment uses it: clipped."""
    target: jax.Array
    """int32 [T], the colour pursued. For analysis only, never an input."""
    alive: jax.Array
    """bool [T]."""
    success: jax.Array
    """bool."""


def demonstrate(env: Ant, act: Act, key: jax.Array, task: jax.Array, noise: float, horizon: int) -> Demonstration:
    """One episode of an expert, successful or not.

    Args:
      env: the environment.
      act: the expert.
      key: of layout and noise.
      task: int32, row of the task table.
      noise: scale of the expert's own noise: 1 for sampled actions (``D``), 0 for mean actions (``D*``).
      horizon: T.
    """
    reset_key, key = jax.random.split(key)
    start = begin(env, reset_key, task)

    def step(guided, key):
        action = jnp.clip(act(guided, noise * jax.random.normal(key, (env.actions,))), -1.0, 1.0)
        after = guided.replace(state=env.step(guided.state, action))
        return after, (env.observe(guided.state), action, guided.target, ~guided.done, after.state.reward)

    end, (obs, action, target, alive, reward) = jax.lax.scan(step, start, jax.random.split(key, horizon))
    return Demonstration(
        jnp.concatenate([obs, env.observe(end.state)[None]]), action, target, alive, jnp.any(reward > 0)
    )


def measure(env: Ant, act: Act, key: jax.Array, episodes: int) -> dict[str, jax.Array]:
    """Whole episodes with mean actions on fresh layouts.

    ``success`` is the share of all layouts, ``of_solvable`` of those that can be solved, ``solvable`` their share,
    ``length`` the mean number of steps of a success, ``broken`` the number of episodes whose physics diverged.
    """

    def one(key):
        start = begin(env, key)

        def step(guided, _):
            after = guided.replace(state=env.step(guided.state, act(guided, jnp.zeros(env.actions))))
            return after, after.state.reward

        end, reward = jax.lax.scan(step, start, length=env.horizon)
        return jnp.sum(reward), ~start.done, end.state

    success, solvable, end = jax.vmap(one)(jax.random.split(key, episodes))
    solved = jnp.sum(success)
    return {
        "success": jnp.mean(success),
        "of_solvable": solved / jnp.maximum(jnp.sum(solvable), 1),
        "solvable": jnp.mean(solvable),
        "length": jnp.sum(success * end.t) / jnp.maximum(solved, 1),
        "broken": jnp.sum(end.broken, dtype=jnp.float32),
    }
