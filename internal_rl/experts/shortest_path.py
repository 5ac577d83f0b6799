"""Grid experts: exact shortest paths by dynamic programming (C.1.1), and trajectories made on the device."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.config import ExpertConfig
from internal_rl.envs import pinpad
from internal_rl.envs.gridworld import MOVES, Gridworld, State
from internal_rl.experts import rejection

UNREACHABLE = np.int32(1_000_000)


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


def _pack(mask: jax.Array) -> jax.Array:
    """bool [K, G, G] to uint32 [G, K]: bit c of a word is column c of its row."""
    return jnp.sum(jnp.moveaxis(mask, 0, 1) * (jnp.uint32(1) << jnp.arange(mask.shape[-1], dtype=jnp.uint32)), axis=-1)


def _unpack(rows: jax.Array) -> jax.Array:
    """uint32 [..., G, K] to bool [..., K, N]: the inverse of ``_pack``, with cells in one axis."""
    size = rows.shape[-2]
    bits = jnp.swapaxes(rows, -1, -2)[..., None] >> jnp.arange(size, dtype=jnp.uint32) & 1
    return bits.reshape(*bits.shape[:-2], size**2) == 1


def _flood(env: Gridworld, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Breadth-first search backwards from every colour at once, one bit per cell: a whole row moves in one operation.

    Returns:
      uint32 bit sets [..., G, O] of cells: those from which the colour can be reached; bit b of their distances, one
      set per b; and, per action, those where it starts a shortest path.
    """
    cell = jnp.arange(env.cells).reshape(env.size, env.size)
    goal = _pack(cell == state.colours[:, None, None])
    wall = _pack(jnp.any(cell == state.walls[:, None, None], axis=0, keepdims=True))
    open_ = ~wall & jnp.uint32(2**env.size - 1)
    # Another colour's cell may be left but not crossed: it is found, and the search does not go on from it.
    crossable = ~_pack(jnp.any(cell == state.colours[:, None, None], axis=0, keepdims=True)) | goal
    edge = jnp.zeros((1, env.colours), jnp.uint32)

    def advance(carry):
        steps, front, found, distance, best = carry
        # Where each of MOVES leads into the front.
        up, down = jnp.concatenate([edge, front[:-1]]), jnp.concatenate([front[1:], edge])
        entering = (up, down, front << 1, front >> 1, up << 1, up >> 1, down << 1, down >> 1)[: env.moves]
        new = functools.reduce(operator.or_, entering) & open_ & ~found
        distance = tuple(old | jnp.where(steps >> b & 1 == 1, new, 0) for b, old in enumerate(distance))
        best = tuple(old | (way & new) for old, way in zip(best, entering, strict=True))
        return steps + 1, new & crossable, found | new, distance, best

    none = jnp.zeros_like(goal)
    start = (jnp.int32(1), goal, goal, (none,) * env.cells.bit_length(), (none,) * env.moves)
    _, _, found, distance, best = jax.lax.while_loop(lambda carry: jnp.any(carry[1] != 0), advance, start)
    return found, jnp.stack(distance), jnp.stack(best)


def distances(env: Gridworld, state: State) -> jax.Array:
    """Fewest steps from every cell to every colour, int32 [O, N], never crossing a wall or another colour.

    ``UNREACHABLE`` where there is no path. Leaving from a colour's own cell is allowed, crossing it is not.
    """
    found, bits, _ = _flood(env, state)
    steps = jnp.sum(_unpack(bits) * (1 << jnp.arange(bits.shape[0]))[:, None, None], axis=0)
    return jnp.where(_unpack(found), steps, UNREACHABLE)


def optimal_actions(env: Gridworld, state: State) -> jax.Array:
    """bool [A, O, N]: the actions that start a shortest path from each cell to each colour."""
    return _unpack(_flood(env, state)[2])


def break_ties(best: jax.Array) -> jax.Array:
    """Keeps only the first optimal action, in the order of the moves: up, down, left, right, then the diagonals.

    Bool [A, O, N] in and out.
    """
    return best & (jnp.cumsum(best, axis=0) == 1)


def break_ties_clockwise(env: Gridworld, state: State, best: jax.Array) -> jax.Array:
    """Keeps only the optimal action from whose direction the colour lies furthest clockwise, and furthest ahead.

    Unlike an order of the moves this is the same rule in a world that is turned. Bool [A, O, N] in and out.
    """
    cell, goal = (jnp.stack(jnp.divmod(x, env.size)) for x in (jnp.arange(env.cells), state.colours))
    down, right = goal[:, :, None] - cell[:, None]
    move_down, move_right = jnp.array(MOVES[: env.moves]).T[:, :, None, None]
    counter_clockwise, ahead = move_down * right - move_right * down, move_down * down + move_right * right
    rank = counter_clockwise * 4 * env.size - ahead
    first = jnp.argmin(jnp.where(best, rank, jnp.iinfo(jnp.int32).max), axis=0)
    return best & (jnp.arange(env.moves)[:, None, None] == first)


def plan(env: Gridworld, cfg: ExpertConfig, state: State) -> jax.Array:
    """The expert's choices as int32 [O, N]: bit ``a`` is set where action ``a`` may be taken."""
    best = optimal_actions(env, state)
    if cfg.ties == "fixed":
        best = break_ties(best)
    if cfg.ties == "clockwise":
        best = break_ties_clockwise(env, state, best)
    return jnp.sum(best * (1 << jnp.arange(env.moves))[:, None, None], axis=0)


def action_probabilities(
    env: Gridworld, cfg: ExpertConfig, choices: jax.Array, state: State, sequence: jax.Array, progress: jax.Array
) -> jax.Array:
    """The expert's policy, float32 [A], for a task at a given progress.

    Uniform over the optimal actions; with probability epsilon uniform over the actions that do not end the episode.

    Args:
      env: the environment.
      cfg: the expert.
      choices: int32 [O, N], from ``plan``.
      state: supplies the layout and the agent's cell.
      sequence: int32 [M], the task's colours.
      progress: int32, colours visited so far.
    """
    bits = choices[pinpad.target(sequence, progress), state.agent]
    best = (bits >> jnp.arange(env.moves)) & 1
    probabilities = best / jnp.maximum(jnp.sum(best), 1)
    if cfg.epsilon == 0:
        return probabilities
    cells = jax.vmap(env.moved, (None, 0))(state, jnp.arange(env.moves))
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
    return rejection.successful(lambda k, task: demonstrate(env, cfg, k, task), tasks, key)


def solvable_share(env: Gridworld, horizon: int, key: jax.Array, batch: int) -> jax.Array:
    """float32 [Q]: share of random layouts in which each task can be done within ``horizon`` steps (0: the env's)."""
    cfg = ExpertConfig(horizon=horizon)
    tasks = jnp.arange(len(env.tasks))
    keys = jax.random.split(key, (batch, tasks.shape[0]))
    succeeds = jax.vmap(lambda k, task: demonstrate(env, cfg, k, task).success)
    return jnp.mean(jax.vmap(succeeds, (0, None))(keys, tasks), axis=0)
