"""Trains the ant's expert by PPO (C.1.1) and measures it on unseen layouts of all tasks.

python -m experiments.ant_expert --config=configs/ant.py:tiny --workdir=runs/ant-tiny
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import common
from internal_rl import build, checkpoints
from internal_rl.config import Config, ConfigError
from internal_rl.envs.ant import Ant
from internal_rl.experts import ant_expert
from internal_rl.experts.guided import Guided, begin
from internal_rl.learning import loop, ppo, updates
from internal_rl.models.actor_critic import ActorCritic

GATES = {"pretrain": 0.8, "post": 0.7}
"""Success rates of the paper's expert."""


def game(env: Ant) -> ppo.Game:
    """The task as the expert learns it; counts the endings."""

    def step(guided, view, action):
        torques = view.torques(action)
        after = env.step(guided.state, torques)
        reward = ant_expert.reward(env, guided, view.heading, torques, after)
        success = after.reward > 0
        terminal = after.done & (success | (after.t < env.horizon))
        counts = {"episodes": after.done, "successes": success, "broken": after.broken}
        return guided.replace(state=after), reward, terminal, counts

    return ppo.Game(lambda key: begin(env, key), lambda guided: ant_expert.view(env, guided), step)


def network(cfg: Config) -> tuple[nnx.GraphDef, build.Init]:
    """The expert's policy and value function."""
    width = cfg.ant_expert.width
    return build.functional(lambda rngs: ActorCritic(ant_expert.OBSERVATION, ant_expert.ACTIONS, width, rngs))


def stage(cfg: Config) -> loop.Stage:
    """The training stage."""
    train, (net_def, _) = cfg.ant_expert, network(cfg)
    played = game(build.pretrain_env(cfg))

    def update(state, context):
        net_of = lambda params: nnx.merge(net_def, params)  # noqa: E731
        after, metrics = ppo.update_of(played, net_of, train, updates.optimiser(train))(state, context)
        ended = jnp.maximum(metrics["episodes"], 1)
        return after, metrics | {"success": metrics["successes"] / ended}

    return loop.Stage(
        "ant_expert", update, None, train.steps, train.log_every, train.save_every, {"vary": 0},
        headline=("success", "reward", "value_error"),
    )  # fmt: skip


def initial(cfg: Config) -> ppo.PPOState:
    """The train state before the first update, leaves [S, ...]."""
    train, (_, init) = cfg.ant_expert, network(cfg)
    played, tx = game(build.pretrain_env(cfg)), updates.optimiser(train)

    def start(key):
        init_key, root = jax.random.split(key)
        return ppo.init(init(init_key), tx, root, played, train.batch)

    return jax.vmap(start)(common.row_keys(cfg, train, "ant_expert"))


def act(cfg: Config, env: Ant, params: Any, normaliser: ppo.Normaliser, guided: Guided, noise: Any):
    """The expert's torques [8]: its mean, plus its spread times ``noise`` [8]."""
    view = ant_expert.view(env, guided)
    mean, log_std, _ = nnx.merge(network(cfg)[0], params)(normaliser(view.obs))
    return view.torques(mean + jnp.exp(log_std) * noise)


def measure(cfg: Config, env: Ant, params: Any, normaliser: ppo.Normaliser, key: jax.Array, episodes: int):
    """Whole episodes with mean actions on fresh layouts.

    ``success`` is the share of all layouts, ``of_solvable`` of those that can be solved, ``solvable`` their share,
    ``length`` the mean number of steps of a success, ``broken`` the number of episodes whose physics diverged.
    """

    def one(key):
        start = begin(env, key)

        def step(guided, _):
            torques = act(cfg, env, params, normaliser, guided, 0.0)
            return guided.replace(state=env.step(guided.state, torques)), guided.state.reward

        end, reward = jax.lax.scan(step, start, length=env.horizon)
        return jnp.sum(reward) + end.state.reward, ~start.state.done, end.state

    success, solvable, end = jax.vmap(one)(jax.random.split(key, episodes))
    return {
        "success": jnp.mean(success),
        "of_solvable": jnp.sum(success) / jnp.maximum(jnp.sum(solvable), 1),
        "solvable": jnp.mean(solvable),
        "length": jnp.sum(success * end.t) / jnp.maximum(jnp.sum(success), 1),
        "broken": jnp.sum(end.broken, dtype=jnp.float32),
    }


def load(cfg: Config, workdir: Path) -> tuple[ppo.PPOState, str]:
    """The trained state of the first seed, and its checkpoint's digest."""
    abstract = jax.eval_shape(lambda: initial(cfg))
    state, digest = checkpoints.load_final(workdir, "ant_expert", abstract, cfg.ant_expert.steps)
    return jax.tree.map(lambda x: x[0], state), digest


def run(cfg: Config, workdir: Path) -> dict[str, Any]:
    """Trains (or finishes training) and returns the stage's summary: numbers per row [S].

    Raises:
      ConfigError: for a body without this expert.
    """
    if cfg.env.body != "ant":
        raise ConfigError(f"env.body is {cfg.env.body!r}; expected 'ant', whose expert this is.")
    context = {"vary": common.vary(cfg.ant_expert)}
    state = loop.run(stage(cfg), lambda: initial(cfg), context, workdir=workdir, config=cfg, parents={})

    def summarise():
        key, episodes = common.stage_key(cfg, "ant_expert summary"), 4 * cfg.ant_expert.eval_batch
        envs = {"pretrain": build.pretrain_env(cfg), "post": build.post_env(cfg)}
        return {
            name: common.lists(
                jax.jit(
                    loop.over_seeds(
                        lambda state, _, env=env: measure(cfg, env, state.params, state.normaliser, key, episodes), None
                    )
                )(state, None)
            )
            for name, env in envs.items()
        }

    return common.cached(workdir / "ant_expert" / "summary.json", checkpoints.leaf_digest(state), summarise)


if __name__ == "__main__":
    common.main(run)
