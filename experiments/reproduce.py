"""The whole gridworld pipeline, stage after stage, to `results.json` and `report.html`; run again, it goes on.

python -m experiments.reproduce --config=configs/gridworld.py:tiny --workdir=runs/gridworld-tiny
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments import common, control, discover, pretrain, raw, reinforce, report
from internal_rl.analysis.statistics import quartiles
from internal_rl.config import Config


def collect(workdir: Path, base: dict, steered: dict, found: dict, learned: dict) -> dict[str, Any]:
    """The summaries of all stages as ``results.json`` holds them, quartiles over the rows of each stage."""
    shares = base["solvable_share"]
    found = {name: quartiles(values) for name, values in found.items()}
    results: dict[str, Any] = {
        "base_nll": quartiles(base["held_out_nll"])["median"],
        "bayes_nll": quartiles(base["bayes_nll"])["median"],
        "goal_known_nll": quartiles(base["goal_known_nll"])["median"],
        "bayes_gap": quartiles(base["gap"]),
        "solvable_share": shares["post"],
        "solvable_share_pretrain": shares["pretrain"],
        "ground_truth_control": {"nll": quartiles(steered["held_out_nll"]), "success": quartiles(steered["success"])},
        "metacontroller": {
            "nll": found["held_out_nll"],
            "kl": found["held_out_kl"],
            "switches": found["switches"],
            "code_subgoal": found["code_subgoal"],
            "code_action": found["code_action"],
        },
    }
    for tolerance in (0, 1, 2):
        for score in ("precision", "recall", "f1"):
            results[f"alignment_{score}_tol{tolerance}"] = found[f"{score}_tol{tolerance}"]
    for name, summary in learned.items():
        before, after = summary["before"], summary["after"]
        results[name] = {
            "initial_success": quartiles(before["success"]),
            "final_success": quartiles(after["success"]),
            "final_share_of_solvable": quartiles([value / shares["post"] for value in after["success"]]),
            "initial_decisions": quartiles(before["decisions"]),
            "final_decisions": quartiles(after["decisions"]),
        }
    folders = ("pretrain", "control", "discover", "reinforce", "raw")
    results["wall_s"] = {name: common.rows(workdir / name)[-1]["wall_s"] for name in folders}
    return results


def _gate(passed: bool, sentence: str) -> None:
    """A gate informs and does not stop: what a failed stage does to the later ones is itself worth seeing."""
    print(f"gate {'passed' if passed else 'FAILED'}: {sentence}", file=sys.stderr)


def run(cfg: Config, workdir: Path) -> None:
    """Runs what is missing and prints the results and where the report is."""
    base = pretrain.run(cfg, workdir)
    gap = quartiles(base["gap"])["median"]
    _gate(
        gap <= pretrain.GATE, f"the base model stands {gap:.3f} of the way from Bayes to uniform (<= {pretrain.GATE})."
    )
    steered = control.run(cfg, workdir)[str(control.layers(cfg)[0])]
    share = quartiles(steered["success"])["median"] / base["solvable_share"]["post"]
    _gate(share >= control.GATE, f"true subgoals solve {share:.2f} of what is solvable (>= {control.GATE}).")
    found = discover.run(cfg, workdir)
    f1 = quartiles(found["f1_tol1"])["median"]
    _gate(f1 >= discover.GATE, f"hard switches match subgoal changes with F1 {f1:.2f} (>= {discover.GATE}).")
    said = [quartiles(found[f"code_{name}"])["median"] for name in ("subgoal", "action")]
    print(
        f"codes: the true subgoal explains {said[0]:.2f} of their variance where it changes, the next action "
        f"{said[1]:.2f}.",
        file=sys.stderr,
    )
    learned = {"internal_rl": reinforce.run(cfg, workdir), "raw_rl": raw.run(cfg, workdir)}
    common.write_json(workdir / "results.json", collect(workdir, base, steered, found, learned))
    report.run(cfg, workdir)


if __name__ == "__main__":
    common.main(run)
