"""Base model and metacontroller as an environment: Algorithms 1 and 2 (C.5)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_world
from flax import struct

from internal_rl.envs.latent import LatentEnv, abstract_step
from internal_rl.models import layers
from internal_rl.models import metacontroller as m

CFG = small_world.CONFIG
HORIZON, LAYER = CFG.env.horizon, CFG.model.layer
RNG = np.random.default_rng(0)
OBS = jnp.asarray(RNG.standard_normal((HORIZON + 1, 45)), jnp.float32)
CODES = jnp.asarray(RNG.standard_normal((HORIZON, CFG.discover.code)), jnp.float32)


@struct.dataclass
class TapeState:
    t: jax.Array
    action: jax.Array
    reward: jax.Array
    done: jax.Array
    progress: jax.Array


@struct.dataclass
class Tape:
    """An inner environment that plays a fixed tape of observations, keeps the last action and pays t at step t."""

    horizon: int = struct.field(pytree_node=False, default=HORIZON)
    length: int = struct.field(pytree_node=False, default=HORIZON)
    start: float = struct.field(pytree_node=False, default=0)

    def reset(self, key):
        del key
        return TapeState(jnp.int32(0), jnp.zeros_like(self.start), jnp.float32(0), jnp.bool_(False), jnp.int32(0))

    def step(self, state, action):
        t = state.t + 1
        after = TapeState(t, action, t.astype(jnp.float32), t >= self.length, t)
        frozen = state.replace(reward=jnp.float32(0))
        return jax.tree.map(lambda new, old: jnp.where(state.done, old, new), after, frozen)

    def observe(self, state):
        return jax.lax.dynamic_index_in_dim(OBS, state.t, keepdims=False)
