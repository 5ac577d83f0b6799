"""Grid experts: exact shortest paths by dynamic programming (C.1.1), and trajectories made on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.config import ExpertConfig
from internal_rl.envs import pinpad
from internal_rl.envs.gridworld import MOVES, Gridworld, State

UNREACHABLE = jnp.int32(1_000_000)


@struct.dataclass
class Trajectory:
    """One episode of T steps; entries beyond its end are padding, marked by ``alive``."""

    start: State
    """The initial state: layout and task."""
    agent: jax.Array
    """int32 [T], the agent's cell before each action."""
    next_agent: jax.Array
    """int32 [T], the agent's cell after each action."""
    action: jax.Array
    """int32 [T]."""
    target: jax.Array
    """int32 [T], the colour pursued. For analysis only, never an input."""
    alive: jax.Array
    """bool [T], whether the step belongs to the episode."""
    success: jax.Array
    """bool."""

    def states(self) -> State:
        """The layout with the agent's cell at each step: everything an observation needs, fields [T, ...]."""
        length = self.agent.shape[0]
        spread = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), self.start)
        return spread.replace(agent=self.agent)


def _neighbours(grid: jax.Array, fill: Any) -> jax.Array:
    """[4, ..., G, G]: the value at the cell each move leads to, ``fill`` off the grid."""
    size = grid.shape[-1]
    edges = [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)]
    padded = jnp.pad(grid, edges, constant_values=fill)
    return jnp.stack([padded[..., 1 + r : 1 + r + size, 1 + c : 1 + c + size] for r, c in MOVES])


def distances(env: Gridworld, state: State) -> jax.Array:
    """Fewest steps from every cell to every colour, int32 [O, N], never crossing a wall or another colour.

    ``UNREACHABLE`` or more where there is no path. Leaving from a colour's own cell is allowed, crossing it is not.
    """
    cell = jnp.arange(env.cells)
    goal = cell == state.colours[:, None]
    wall = jnp.any(cell == state.walls[:, None], axis=0)
    blocked = (wall | jnp.any(goal, axis=0)) & ~goal
    shape = (env.colours, env.size, env.size)
    start = jnp.where(goal, 0, UNREACHABLE).reshape(shape)
    open_ = ~blocked.reshape(shape)

    def relax(carry):
        old, _ = carry
        new = jnp.where(open_, jnp.minimum(old, 1 + jnp.min(_neighbours(old, UNREACHABLE), axis=0)), UNREACHABLE)
        return new, jnp.any(new != old)

    free, _ = jax.lax.while_loop(lambda carry: carry[1], relax, (start, jnp.bool_(True)))
    leaving = 1 + jnp.min(_neighbours(free, UNREACHABLE), axis=0)
    leaving = jnp.where(wall.reshape(shape[1:]), UNREACHABLE, leaving)
    return jnp.where(open_, free, leaving).reshape(env.colours, env.cells)


def optimal_actions(env: Gridworld, state: State) -> jax.Array:
    """bool [4, O, N]: the actions that start a shortest path from each cell to each colour."""
    steps = distances(env, state).reshape(env.colours, env.size, env.size)
    goal = (jnp.arange(env.cells) == state.colours[:, None]).reshape(steps.shape)
    colour = jnp.any(goal, axis=0)
    ahead = _neighbours(jnp.where(colour & ~goal, UNREACHABLE, steps), UNREACHABLE)
    best = (ahead == steps - 1) & (steps < UNREACHABLE) & ~goal
    return best.reshape(len(MOVES), env.colours, env.cells)


def break_ties(best: jax.Array) -> jax.Array:
    """Keeps only the first optimal action, in the order up, down, left, right."""
    return best & (jnp.cumsum(best, axis=0) == 1)


def plan(env: Gridworld, cfg: ExpertConfig, state: State) -> jax.Array:
    """The expert's choices as int32 [O, N]: bit ``a`` is set where action ``a`` may be taken."""
    best = optimal_actions(env, state)
    if cfg.ties == "fixed":
        best = break_ties(best)
    return jnp.sum(best * (1 << jnp.arange(len(MOVES)))[:, None, None], axis=0)


def action_probabilities(
    env: Gridworld, cfg: ExpertConfig, choices: jax.Array, state: State, sequence: jax.Array, progress: jax.Array
) -> jax.Array:
    """The expert's policy, float32 [4], for a task at a given progress.

    Uniform over the optimal actions; with probability epsilon uniform over the actions that do not end the episode.

    Args:
      env: the environment.
      cfg: the expert.
      choices: int32 [O, N], from :func:`plan`.
      state: supplies the layout and the agent's cell.
      sequence: int32 [M], the task's colours.
      progress: int32, colours visited so far.
    """
    bits = choices[pinpad.target(sequence, progress), state.agent]
    best = (bits >> jnp.arange(len(MOVES))) & 1
    probabilities = best / jnp.maximum(jnp.sum(best), 1)
    if cfg.epsilon == 0:
        return probabilities
    cells = jax.vmap(env.moved, (None, 0))(state, jnp.arange(len(MOVES)))
    visited = jax.vmap(env.visited, (None, 0))(state, cells)
    _, success, failure = jax.vmap(pinpad.visit, (None, None, 0))(sequence, progress, visited)
    safe = ~success & ~failure
    return (1 - cfg.epsilon) * probabilities + cfg.epsilon * safe / jnp.maximum(jnp.sum(safe), 1)


def demonstrate(env: Gridworld, cfg: ExpertConfig, key: jax.Array, task: jax.Array | None = None) -> Trajectory:
    """One expert episode of ``cfg.horizon`` steps, successful or not. ``task`` fixes the row of the task table."""
    reset_key, action_key = jax.random.split(key)
    start = env.reset(reset_key, task)
    choices = plan(env, cfg, start)
    uniforms = jax.random.uniform(action_key, (cfg.horizon or env.horizon,))

    def step(state, uniform):
        probabilities = action_probabilities(env, cfg, choices, state, state.sequence, state.progress)
        action = jnp.sum(uniform * jnp.sum(probabilities) >= jnp.cumsum(probabilities)[:-1])
        after = env.step(state, action)
        target = pinpad.target(state.sequence, state.progress)
        return after, (state.agent, after.agent, action, target, ~state.done, after.reward)

    _, (agent, next_agent, action, target, alive, reward) = jax.lax.scan(step, start, uniforms)
    return Trajectory(start, agent, next_agent, action, target, alive, jnp.any(reward > 0))


def sample(env: Gridworld, cfg: ExpertConfig, key: jax.Array, batch: int) -> Trajectory:
    """``batch`` successful episodes, fields [B, ...], a pure function of the key.

    Layouts (and noise) are rejected per task, so the mix of tasks stays uniform although some are solvable more often.
    """
    task_key, key = jax.random.split(key)
    tasks = jax.random.randint(task_key, (batch,), 0, len(env.tasks))
    return _reject(lambda k, task: demonstrate(env, cfg, k, task), tasks, key)


def _reject(candidate: Callable[[jax.Array, jax.Array], Trajectory], tasks: jax.Array, key: jax.Array) -> Trajectory:
    """Draws candidates until every row succeeded; later rounds redraw only a packed quarter of the batch."""
    batch = tasks.shape[0]
    chunk = -(-batch // 4)

    def draw(round_, tasks):
        return jax.vmap(candidate)(jax.random.split(jax.random.fold_in(key, round_), tasks.shape[0]), tasks)

    def redraw(carry):
        round_, kept = carry
        rows = jnp.nonzero(~kept.success, size=chunk, fill_value=batch)[0]
        new = draw(round_, tasks.at[rows].get(mode="clip"))
        return round_ + 1, jax.tree.map(lambda old, row: old.at[rows].set(row, mode="drop"), kept, new)

    first = (jnp.int32(1), draw(0, tasks))
    return jax.lax.while_loop(lambda carry: ~jnp.all(carry[1].success), redraw, first)[1]


def solvable_share(env: Gridworld, horizon: int, key: jax.Array, batch: int) -> jax.Array:
    """float32 [Q]: share of random layouts in which each task can be done within ``horizon`` steps (0: the env's)."""
    cfg = ExpertConfig(horizon=horizon)
    tasks = jnp.arange(len(env.tasks))
    keys = jax.random.split(key, (batch, tasks.shape[0]))
    succeeds = jax.vmap(lambda k, task: demonstrate(env, cfg, k, task).success)
    return jnp.mean(jax.vmap(succeeds, (0, None))(keys, tasks), axis=0)
