"""Training batches made on the device: a pure function of a key, so there is no iterator state to save."""

from __future__ import annotations

import jax
from flax import struct

from internal_rl.config import ExpertConfig
from internal_rl.envs.gridworld import Gridworld
from internal_rl.experts import shortest_path


@struct.dataclass
class Batch:
    """Expert sequences, fields [B, T, ...]."""

    obs: jax.Array
    """bool [..., observation]."""
    action: jax.Array
    """int32."""
    following: jax.Array
    """int32, what there is to predict of the next observation: the agent's cell after the action."""
    alive: jax.Array
    """bool, False for padding."""
    subgoal: jax.Array
    """int32, the true subgoal. For analysis and ground-truth controllers only."""
    trajectory: shortest_path.Trajectory
    """What the sequences were made from."""


def expert_batch(env: Gridworld, cfg: ExpertConfig, subgoal_length: int, key: jax.Array, batch: int) -> Batch:
    """``batch`` fresh successful expert episodes."""
    trajectory = shortest_path.sample(env, cfg, key, batch)
    obs = jax.vmap(lambda one: jax.vmap(env.observe)(one.states()))(trajectory)
    return Batch(
        obs, trajectory.action, trajectory.next_agent, trajectory.alive, trajectory.target // subgoal_length, trajectory
    )
