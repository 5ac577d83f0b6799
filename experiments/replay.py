"""Episodes of internal RL as animations: the grid, or a body with physics from above and, where it works, rendered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from internal_rl import build, config
from internal_rl.envs import render
from internal_rl.learning.rollout import Actor, code_actor
from internal_rl.page import Card

CANDIDATES = 64
"""Episodes played to find one to show."""
FRAMES = 120
"""Most frames of an animation; longer episodes are shown in larger steps."""
Draw = Callable[[Any, int, list[int], render.Caption], np.ndarray]
"""``(states [T + 1, ...], t, visited colours, caption) -> image``."""


def play(cfg: config.Config, policy: Any, controller: Any, base: Any, keys: jax.Array) -> dict[str, Any]:
    """Everything an animation shows, for each of the episodes; ``state`` is the environment's, [B, T + 1, ...]."""

    def one(key):
        env = build.latent_env(cfg, base, controller)
        actor: Actor = code_actor(env, build.policy(cfg)[0], policy)
        reset_key, key = jax.random.split(key)

        def step(carry, t):
            state, memory = carry
            code, _, memory = actor.act(state, memory, t, jax.random.fold_in(key, t))
            after = env.step(state, code)
            return (after, memory), (state.inner, {"code": after.carry.code, "switched": env.acts(state)})

        (end, _), (states, shown) = jax.lax.scan(step, (env.reset(reset_key), actor.memory), jnp.arange(env.horizon))
        whole = jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), states, end.inner)
        return shown | {"state": whole}

    return jax.device_get(jax.jit(jax.vmap(one))(keys))


def chosen(played: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The shortest solved episode (else the one that came furthest), and whether it is solved."""
    state = played["state"]
    solved = np.any(state.reward > 0, axis=1)
    length = np.sum(~state.done, axis=1)
    best = np.where(solved, 1e6 - length, state.progress[:, -1])
    pick = int(np.argmax(best))
    return jax.tree.map(lambda x: x[pick], played), bool(solved[pick])


def images(episode: dict[str, Any], solved: bool, draw: Draw) -> Iterator[np.ndarray]:
    """The frames of an episode, the last of which says how it ended."""
    state = episode["state"]
    length = int(np.sum(~state.done))
    goals = [int(colour) for colour in state.sequence[0] if colour >= 0]
    stride = -(-length // FRAMES)
    for t in [*range(0, length, stride), length]:
        end, progress = t == length, int(state.progress[t])
        caption = render.Caption(
            step=t,
            target=None if progress >= len(goals) else goals[progress],
            code=episode["code"][min(t, length - 1)],
            switched=bool(not end and np.any(episode["switched"][t : t + stride])),
            note=("solved" if solved else "failed") if end else "",
        )
        yield draw(state, t, goals[:progress], caption)


def on_grid(cfg: config.Config) -> Draw:
    """The grid."""

    def draw(state, t, visited, caption):
        return render.frame(
            cfg.env.size, state.colours[0], state.walls[0], state.agent[t], trail=state.agent[:t], visited=visited,
            caption=caption,
        )  # fmt: skip

    return draw


def from_above(cfg: config.Config) -> Draw:
    """A body with physics from above."""
    from internal_rl.envs import top_view  # imports MuJoCo

    env = build.post_env(cfg)

    def draw(state, t, visited, caption):
        return top_view.frame(
            env, state.colours[0], state.walls[0], state.qpos[t], trail=state.qpos[:t, :2], visited=visited,
            caption=caption,
        )  # fmt: skip

    return draw


def rendered(cfg: config.Config, episode: dict[str, Any], solved: bool) -> bytes | None:
    """A GIF of a rendered episode; None, and a sentence on stderr, where MuJoCo cannot render."""
    from internal_rl.envs import clip  # imports MuJoCo

    env = build.post_env(cfg)

    def draw(state, t, visited, caption):
        del visited
        return clip.frame(view, env, state.colours[0], state.walls[0], state.qpos[t], caption)

    try:
        with clip.Renderer(env) as view:
            return render.gif(list(images(episode, solved, draw)), fps=10)
    except clip.RendererError as error:
        print(f"no rendered clip: {error}", file=sys.stderr)
        return None


def pictures(cfg: config.Config, episode: dict[str, Any], text: str) -> list[Card]:
    """An episode as an environment of one's own pictures it, if it does."""
    env = build.post_env(cfg)
    if not hasattr(env, "picture"):
        return []
    state = episode["state"]
    length = int(np.sum(~state.done))
    drawn = [env.picture(jax.tree.map(lambda x, t=t: x[t], state)) for t in range(length + 1)]
    return [Card("An episode of internal RL", text, render.gif(drawn, fps=3))]


def cards(cfg: config.Config, policy: Any, controller: Any, base: Any) -> list[Card]:
    """An episode of internal RL as cards of the report."""
    keys = jax.random.split(common.stage_key(cfg, "animation"), CANDIDATES)
    episode, solved = chosen(play(cfg, policy, controller, base, keys))
    note = (
        f"The shortest solved episode among {CANDIDATES} layouts"
        if solved
        else f"None of {CANDIDATES} layouts was solved; shown is the furthest"
    )
    text = (
        f"{note}, played by the median seed. Bars: the code z; the strip marks the steps at which the switch fired and "
        "the policy chose a new one."
    )
    if not cfg.env.grid and not cfg.env.physics:
        return pictures(cfg, episode, f"{note}, played by the median seed.")
    drawn = images(episode, solved, (on_grid if cfg.env.grid else from_above)(cfg))
    shown = [Card("An episode of internal RL", text, render.gif(list(drawn), fps=3 if cfg.env.grid else 10))]
    if cfg.env.physics and (clip := rendered(cfg, episode, solved)):
        shown.append(Card("The same episode, rendered", "By MuJoCo; coloured cells and walls are rules.", clip))
    return shown
