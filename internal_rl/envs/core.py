"""The environment protocol: one unbatched environment, pure functions, absorbing done."""

from __future__ import annotations

from typing import Any, Protocol

import jax


class State(Protocol):
    """What every environment state carries beside its own fields (all scalars; batching is ``jax.vmap``)."""

    reward: jax.Array
    """float32; reward of the step that led here."""
    done: jax.Array
    """bool; absorbing: once true, ``step`` changes nothing and the reward is 0."""
    progress: jax.Array
    """int32; how many subgoals of the task are reached."""


class Env(Protocol):
    """A fixed-horizon environment. No autoreset: under ``vmap`` it would pay for a reset on every step."""

    horizon: int

    def reset(self, key: jax.Array) -> Any:
        """Samples an initial state."""

    def step(self, state: Any, action: jax.Array) -> Any:
        """Advances one step by an action [...]; the identity with reward 0 once ``state.done``."""

    def observe(self, state: Any) -> jax.Array:
        """The observation of a state, [...], computed only where it is used."""

    def acts(self, state: Any) -> jax.Array:
        """bool; whether the next ``step`` uses the action it is given (always, but for the latent environment)."""
