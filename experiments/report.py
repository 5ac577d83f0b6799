"""Draws `report.html` from what the stages have left in a workdir.

python -m experiments.report --config=configs/gridworld.py:tiny --workdir=runs/gridworld-tiny
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common, discover, expert_data, figure, reinforce
from internal_rl import build, checkpoints, config, plots
from internal_rl import report as page
from internal_rl.envs import render
from internal_rl.learning.rollout import Actor, code_actor

EXAMPLES = 5
CANDIDATES = 64
"""Episodes played to find one to animate."""


def switch_examples(cfg: config.Config, controller: Any, base: Any) -> list[dict[str, np.ndarray]]:
    """beta and true subgoals along fresh expert trajectories, for one metacontroller."""
    key, noise_key = jax.random.split(common.stage_key(cfg, "examples"))

    def run(controller, base):
        batch = expert_data.clean(cfg, {}, key, EXAMPLES)
        result = discover.unrolled(cfg, base, controller, batch, noise_key, cfg.discover.steps)
        return {"beta": result.beta, "subgoal": batch.subgoal, "leg": batch.leg, "alive": batch.alive}

    columns = jax.device_get(jax.jit(run)(controller, base))
    return [{name: values[i] for name, values in columns.items()} for i in range(EXAMPLES)]


def _play(cfg: config.Config, policy: Any, controller: Any, base: Any, keys: jax.Array) -> dict[str, np.ndarray]:
    """Everything an animation shows, for each of the episodes [B, T + 1, ...]."""

    def one(key):
        env = build.latent_env(cfg, base, controller)
        actor: Actor = code_actor(env, build.policy(cfg)[0], policy)
        reset_key, key = jax.random.split(key)

        def step(carry, t):
            state, memory = carry
            code, _, memory = actor.act(state, memory, t, jax.random.fold_in(key, t))
            after = env.step(state, code)
            shown = {
                "agent": state.inner.agent, "progress": state.progress, "done": state.done, "code": after.carry.code,
                "switched": env.acts(state), "reward": after.reward,
            }  # fmt: skip
            return (after, memory), shown

        start = env.reset(reset_key)
        (end, _), shown = jax.lax.scan(step, (start, actor.memory), jnp.arange(env.horizon))
        layout = {"colours": start.inner.colours, "walls": start.inner.walls, "sequence": start.inner.sequence}
        return shown | layout | {"last_agent": end.inner.agent, "last_progress": end.progress}

    return jax.device_get(jax.jit(jax.vmap(one))(keys))


def animation(cfg: config.Config, policy: Any, controller: Any, base: Any) -> tuple[bytes, bool]:
    """The first solved episode among ``CANDIDATES`` (else the one that came furthest) as a GIF, and if it is solved."""
    keys = jax.random.split(common.stage_key(cfg, "animation"), CANDIDATES)
    played = _play(cfg, policy, controller, base, keys)
    solved = played["reward"].sum(1) > 0
    chosen = int(np.argmax(solved if solved.any() else played["last_progress"]))
    episode = {name: values[chosen] for name, values in played.items()}
    length = int(np.sum(~episode["done"]))
    agents = [*episode["agent"][:length], episode["last_agent"]]
    progress = [*episode["progress"][:length], episode["last_progress"]]
    goals = [int(colour) for colour in episode["sequence"] if colour >= 0]
    frames = []
    for t in range(length + 1):
        end = t == length
        caption = render.Caption(
            step=t,
            target=None if progress[t] >= len(goals) else goals[progress[t]],
            code=episode["code"][min(t, length - 1)],
            switched=bool(not end and episode["switched"][t]),
            note=("solved" if solved[chosen] else "failed") if end else "",
        )
        frames.append(
            render.frame(
                cfg.env.size, episode["colours"], episode["walls"], agents[t], trail=agents[:t],
                visited=goals[: progress[t]], caption=caption,
            )
        )  # fmt: skip
    return render.gif(frames, fps=3), bool(solved[chosen])


def curves(cfg: config.Config, workdir: Path) -> dict[str, dict[str, Any]]:
    """Success of the training episodes against episodes seen; each point averages the episodes since the last."""
    result = {}
    for label, folder in (("internal RL", "reinforce"), ("raw-action RL", "raw")):
        rows = common.rows(workdir / folder)
        episodes = [row["step"] * cfg.reinforce.batch for row in rows]
        result[label] = {"episodes": episodes, "success": [row["success"] for row in rows]}
    return result


def figures(cfg: config.Config, workdir: Path, results: dict[str, Any]) -> tuple[list[page.Card], list[page.Card]]:
    """The report's animations and figures."""
    base, controller, _ = discover.load(cfg, workdir)
    abstract = jax.eval_shape(lambda: reinforce.initial(cfg))
    state, _ = checkpoints.load_final(workdir, "reinforce", abstract, cfg.reinforce.steps)
    last = common.rows(workdir / "reinforce")[-1]["success"]
    seed = int(np.argsort(last)[len(last) // 2])
    picked = [
        jax.tree.map(lambda x: x[seed % jax.tree.leaves(tree)[0].shape[0]], tree)  # noqa: B023
        for tree in (state.params, controller, base)
    ]
    gif, solved = animation(cfg, *picked)
    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if build.subgoals(cfg) <= 26 else None
    discovered = figure.stamp(
        cfg, f"{cfg.discover.seeds} metacontrollers", f"{cfg.discover.steps:,} updates x {cfg.discover.batch}"
    )
    reinforced = figure.stamp(
        cfg, f"{cfg.reinforce.seeds} policies each", f"{cfg.reinforce.steps:,} updates x {cfg.reinforce.batch}"
    )
    losses = plots.loss_curves(
        {name: common.rows(workdir / name) for name in ("pretrain", "control", "discover")},
        {
            name: {"Bayes": results["bayes_nll"], "goal known": results["goal_known_nll"]}
            for name in ("pretrain", "control", "discover")
        },
        stamp=figure.stamp(
            cfg, f"{cfg.pretrain.seeds} base models, {cfg.discover.seeds} metacontrollers", "training batches"
        ),
    )
    success = curves(cfg, workdir)
    ceiling = results["solvable_share"]
    f1, said = results["alignment_f1_tol1"]["median"], results["metacontroller"]
    cards = [
        page.Card(
            "Success against episodes", "As Fig. 8: internal RL and raw-action RL on the post-training task with the "
            "same update and the same number of episodes; median and quartiles over seeds.",
            plots.png(plots.success_curves(success, ceiling, stamp=reinforced)),
        ),
        page.Card(
            "The same on a logarithmic axis", "Where each starts: raw sampling hardly ever makes the transitions that "
            "pretraining never showed; random codes do.",
            plots.png(plots.success_curves(success, ceiling, "log", stamp=reinforced)),
        ),
        page.Card(
            "The switch against the true subgoals", "As Fig. A3: beta along fresh expert trajectories of one "
            "metacontroller, the one whose policy is the median of the seeds; shaded: the true subgoal, which it "
            "never saw.",
            plots.png(plots.switches(switch_examples(cfg, *picked[1:]), names=names, stamp=discovered)),
            f"F1 with one step of tolerance over all seeds: {f1:.2f}. Of the variance of codes where the subgoal "
            f"changes, the subgoal explains {said['code_subgoal']['median']:.2f}, the next action "
            f"{said['code_action']['median']:.2f}.",
        ),
        page.Card(
            "Losses", "Action NLL and KL per step. Bayes is the floor of any model that does not know the task, goal "
            "known that of a perfectly controlled one.",
            plots.png(losses),
        ),
    ]  # fmt: skip
    note = (
        f"The first solved of {CANDIDATES} layouts"
        if solved
        else f"None of {CANDIDATES} layouts was solved; shown is the furthest"
    )
    moving = page.Card(
        "An episode of internal RL", f"{note}, played by the median seed. Bars: the code z; the strip marks the steps "
        "at which the switch fired and the policy chose a new one.", gif,
    )  # fmt: skip
    return [moving], cards


def run(cfg: config.Config, workdir: Path) -> None:
    """Writes the report and prints the table of results."""
    path = workdir / "results.json"
    if not path.exists():
        raise config.ConfigError(f"{path} does not exist; run experiments.reproduce with this --workdir first.")
    results = json.loads(path.read_text(encoding="utf-8"))
    digest = json.dumps([results, checkpoints.provenance()["git"]], sort_keys=True)
    target = workdir / "report.html"
    done = workdir / "report.done.json"

    def draw():
        animations, cards = figures(cfg, workdir, results)
        made = checkpoints.provenance()
        page.write(
            target,
            results=results,
            figures=cards,
            animations=animations,
            provenance={"config": config.to_dict(cfg), "seeds": f"root {cfg.seed}", **made},
        )
        return {}

    if not target.exists():
        done.unlink(missing_ok=True)
    common.cached(done, digest, draw)
    print(page.table(results))
    print(f"report: {target}")


if __name__ == "__main__":
    common.main(run)
