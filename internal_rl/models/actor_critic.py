"""Policy and value function of an expert that learns by PPO."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from internal_rl.models.layers import linear

LOG_STD = -1.0
"""At the start. Wider noise makes an ant fall whatever its policy does."""


class ActorCritic(nnx.Module):
    """Gaussian policy with a state-independent spread, and a value function; two hidden layers of ``width`` each."""

    def __init__(self, observation: int, actions: int, width: int, rngs: nnx.Rngs):
        def body(outputs, scale):
            sizes = (observation, width, width)
            hidden = [linear(a, b, 1.0, rngs) for a, b in zip(sizes, sizes[1:], strict=False)]
            return nnx.List([*hidden, linear(width, outputs, scale, rngs)])

        self.policy, self.critic = body(actions, 0.01), body(1, 1.0)
        self.log_std = nnx.Param(jnp.full(actions, LOG_STD))

    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean [..., A] and log standard deviation [A] of the action, and the value [...], for ``obs`` [..., F]."""
        outputs = []
        for layers in (self.policy, self.critic):
            x = obs
            for layer in layers[:-1]:
                x = nnx.tanh(layer(x))
            outputs.append(layers[-1](x))
        return outputs[0], jnp.clip(self.log_std[...], -4.0, 0.5), outputs[1][..., 0]
