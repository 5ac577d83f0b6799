"""Steering the base model with ground-truth controllers, and measuring what an actor achieves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from internal_rl.envs import pinpad
from internal_rl.learning.rollout import Episode
from internal_rl.learning.updates import Metrics, summary
from internal_rl.models import layers


def true_subgoal_control(controllers: dict[str, jax.Array], subgoal_length: int) -> Callable:
    """``control(state, e_TD)`` that applies the controller of the state's true subgoal (Eq. 1).

    Args:
      controllers: as in ``layers.by_subgoal``.
      subgoal_length: colours per subgoal.
    """
    groups = jax.tree.leaves(controllers)[0].shape[0]

    def control(state, e_TD):
        subgoal = pinpad.target(state.sequence, state.progress) // subgoal_length
        return layers.by_subgoal(e_TD, jax.nn.one_hot(subgoal, groups), controllers)

    return control


def measure(play: Callable[[jax.Array], Episode], key: jax.Array, episodes: int, batch: int = 1024) -> Metrics:
    """Mean of ``summary`` over at least ``episodes`` fresh episodes, run ``batch`` at a time."""
    batch = min(batch, episodes)

    def one(key: jax.Array) -> Any:
        return summary(jax.vmap(play)(jax.random.split(key, batch)))

    return jax.tree.map(jnp.mean, jax.lax.map(one, jax.random.split(key, -(-episodes // batch))))
