"""The metacontroller (D.2, Eq. 2, 3, 11, 17): a cell that reads e_{t,l} and holds or renews a code z.

Who proposes a code (:data:`Propose`) and how beta acts (:data:`Gate`) are function arguments: posterior, policy, stored
codes, forced switching and hard switches all run through the same cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from internal_rl.config import DiscoverConfig
from internal_rl.models.layers import MLP, Block, Recurrent, linear

Gate = Callable[[jax.Array, Any], jax.Array]
"""Maps the switch's logit (float32 scalar) and a per-step noise value to beta in [0, 1]."""


def soft_gate(logit: jax.Array, noise: Any) -> jax.Array:
    """``sigmoid(logit)``: beta as the paper trains it."""
    del noise
    return jax.nn.sigmoid(logit)


def forced_gate(logit: jax.Array, noise: Any) -> jax.Array:
    """A new code at every step: the forced-switching baseline."""
    del noise
    return jnp.ones_like(logit)


def hard_gate(threshold: float) -> Gate:
    """Switch where ``sigmoid(logit) >= threshold``, else hold: how the switch acts in reinforcement learning."""
    return lambda logit, noise: (jax.nn.sigmoid(logit) >= threshold).astype(jnp.float32)


def gumbel_gate(temperature: float) -> Gate:
    """Relaxed Bernoulli sample; ``noise`` is logistic."""
    return lambda logit, noise: jax.nn.sigmoid((logit + noise) / temperature)


def schedule_gate(steps: int) -> Gate:
    """A new code every ``steps`` raw steps, whatever the switch says; the per-step value is t instead of noise."""
    return lambda logit, t: jnp.where(t % steps == 0, jnp.ones_like(logit), jnp.zeros_like(logit))


@struct.dataclass
class Carry:
    """What the cell remembers."""

    history: jax.Array
    """[n_h], h_{t-1}."""
    code: jax.Array
    """[n_z], z_{t-1}."""
    first: jax.Array
    """bool; at the first step there is no code to hold, so it always switches (and is not a discovered switch)."""


@struct.dataclass
class Posterior:
    """``q(z~_t) = N(mean, exp(log_std)²)``, diagonal, [..., n_z]."""

    mean: jax.Array
    log_std: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """Reparametrised sample from standard normal ``noise``."""
        return self.mean + jnp.exp(self.log_std) * noise

    def kl(self) -> jax.Array:
        """KL to N(0, I) in nats, summed over the code's dimensions (E.1: it serves every beta > 0)."""
        return 0.5 * jnp.sum(self.mean**2 + jnp.exp(2 * self.log_std) - 2 * self.log_std - 1, axis=-1)


def last_alive(x_TD: jax.Array, alive_T: jax.Array) -> jax.Array:
    """The row of the last step that is not padding; a one-hot product, so that its gradient is no scatter."""
    last = jnp.maximum(jnp.sum(alive_T) - 1, 0)
    return (jnp.arange(x_TD.shape[0]) == last).astype(x_TD.dtype) @ x_TD


def reverse_alive(x_TD: jax.Array, alive_T: jax.Array) -> jax.Array:
    """Reverses the steps before the padding in time and leaves the padding where it is. Its own inverse."""
    steps = jnp.arange(x_TD.shape[0])
    length = jnp.sum(alive_T)
    return x_TD[jnp.where(steps < length, length - 1 - steps, steps)]


class Metacontroller(nnx.Module):
    """Networks of Tables A9 and A10 for a residual stream of ``width``."""

    def __init__(self, cfg: DiscoverConfig, width: int, rngs: nnx.Rngs):
        self.cfg, self.width = cfg, width
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.gru = nnx.GRUCell(width, cfg.history, rngs=rngs)
        self.sequence_in = linear(width, cfg.sequence_width, 1.0, rngs)
        recurrent = Recurrent(cfg.sequence_width, cfg.sequence_width, 4, 1.0, rngs)
        self.sequence_block = Block(recurrent, cfg.sequence_width, cfg.sequence_width, 1.0, rngs)
        self.sequence_out = linear(cfg.sequence_width, cfg.sequence, 1.0, rngs)
        self.encoder = MLP(width + cfg.history + cfg.sequence, cfg.encoder_hidden, 2 * cfg.code, 1.0, rngs)
        self.encoder.down.bias[...] = jnp.repeat(jnp.array([0.0, cfg.log_std_init]), cfg.code)
        self.switch = MLP(width + cfg.history + cfg.code, cfg.switch_hidden, 1, 1.0, rngs)
        self.switch.down.bias[...] = jnp.full(1, cfg.switch_bias)
        self.hyper_up = linear(cfg.code, cfg.hyper_hidden, 1.0, rngs)
        self.hyper_a = linear(cfg.hyper_hidden, cfg.rank * width, 1.0 / width, rngs)
        # A small B starts the controlled model close to the base model, while both factors receive gradients.
        self.hyper_b = linear(cfg.hyper_hidden, width * cfg.rank, 0.01, rngs)

    def init_carry(self) -> Carry:
        """The carry before the first step."""
        return Carry(jnp.zeros(self.cfg.history), jnp.zeros(self.cfg.code), jnp.bool_(True))

    def embed(self, e_TD: jax.Array, alive_T: jax.Array) -> jax.Array:
        """``s = f_emb(e_{1:T})`` at every step, [T, n_s]: acausal, padding left out.

        One vector per sequence (the paper's words), or with ``embedding = per_step`` the state of a backward reading.
        """
        x = self.sequence_in(self.norm(e_TD))
        if self.cfg.embedding == "per_step":
            x = reverse_alive(x, alive_T)
        x, _ = self.sequence_block(x, self.sequence_block.init_state(x.shape[0]), 0)
        if self.cfg.embedding == "per_step":
            return self.sequence_out(reverse_alive(x, alive_T))
        s = self.sequence_out(last_alive(x, alive_T))
        return jnp.broadcast_to(s, (x.shape[0], s.shape[0]))

    def posterior(self, e_D: jax.Array, history: jax.Array, s: jax.Array) -> Posterior:
        """``f_enc(e_t, h_{t-1}, s)``."""
        out = self.encoder(jnp.concatenate([self.norm(e_D), history, s], axis=-1))
        mean, raw = jnp.split(out, 2, axis=-1)
        # Bounded to exp(-4) .. exp(2): a collapsing variance would make the KL explode.
        return Posterior(mean, jnp.clip(raw, -4.0, 2.0))

    def switch_logit(self, e_D: jax.Array, carry: Carry) -> jax.Array:
        """The logit of ``f_switch(e_t, h_{t-1}, z_{t-1})``: causal, so it runs at test time."""
        return self.switch(jnp.concatenate([self.norm(e_D), carry.history, carry.code]))[0]

    def step(self, e_D: jax.Array, carry: Carry, proposal: jax.Array, beta: jax.Array) -> tuple[Carry, jax.Array]:
        """Integrates a proposed code, ``z_t = beta_t z~_t + (1 - beta_t) z_{t-1}`` (Eq. 2, 17).

        Args:
          e_D: the residual of this step.
          carry: the memory before it.
          proposal: [n_z], z~_t.
          beta: scalar in [0, 1] as acted on; 1 at the first step.

        Returns:
          The carry after the step and z_t.
        """
        code = self.integrate(carry.code, proposal, beta)
        return Carry(self.remember(carry.history, e_D), code, jnp.bool_(False)), code

    @staticmethod
    def integrate(code: jax.Array, proposal: jax.Array, beta: jax.Array) -> jax.Array:
        """Eq. 2, 17; with beta exactly 0 or 1 the code is bit-exactly held or replaced."""
        mixed = jnp.where(beta == 0, code, beta * proposal + (1 - beta) * code)
        return jnp.where(beta == 1, proposal, mixed)

    def remember(self, history: jax.Array, e_D: jax.Array) -> jax.Array:
        """``h_t = GRU(e_t, h_{t-1})``, [n_h]."""
        return self.gru(history, self.norm(e_D))[0]

    def beta(self, e_D: jax.Array, carry: Carry, gate: Gate, noise: Any) -> jax.Array:
        """beta_t as acted on: the gate's value, 1 at the first step."""
        return jnp.where(carry.first, 1.0, gate(self.switch_logit(e_D, carry), noise))

    def factors(self, code: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``U = B A = f_hyp(z)``: A [..., R, D] and B [..., D, R]."""
        hidden = nnx.relu(self.hyper_up(code))
        shape = code.shape[:-1]
        a = self.hyper_a(hidden).reshape(*shape, self.cfg.rank, self.width)
        return a, self.hyper_b(hidden).reshape(*shape, self.width, self.cfg.rank)

    def unroll(self, e_TD, alive_T, gate: Gate, noise_TZ: jax.Array, gate_noise_T: jax.Array):
        """Runs the cell over a sequence with codes proposed by the posterior.

        Args:
          e_TD: residual stream, [T, D].
          alive_T: bool [T], False for padding.
          gate: how beta acts.
          noise_TZ: standard normal [T, n_z].
          gate_noise_T: the gate's noise, [T].

        Returns:
          z_TZ, beta_T (1 at the first step) and the posterior over [T, n_z].
        """
        s_TS = self.embed(e_TD, alive_T)

        def remember(history, e_D):
            return self.remember(history, e_D), history

        # The history does not depend on the codes: with it known, all posteriors are one large product.
        _, history_TH = jax.lax.scan(remember, jnp.zeros(self.cfg.history), e_TD)
        posterior = self.posterior(e_TD, history_TH, s_TS)

        def integrate(carry, inputs):
            e_D, history, proposal, gate_noise = inputs
            carry = Carry(history, *carry)
            beta = self.beta(e_D, carry, gate, gate_noise)
            code = self.integrate(carry.code, proposal, beta)
            return (code, jnp.bool_(False)), (code, beta)

        start = self.init_carry()
        inputs = (e_TD, history_TH, posterior.sample(noise_TZ), gate_noise_T)
        _, (code_TZ, beta_T) = jax.lax.scan(integrate, (start.code, start.first), inputs)
        return code_TZ, beta_T, posterior
