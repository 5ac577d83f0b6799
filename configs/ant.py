"""ant-pinpad: `--config=configs/ant.py:PRESET` with PRESET one of paper, tiny.

paper  the paper's 4x4 grid and tasks with fine physics (0.01 s x 5)
tiny   the same with coarse physics (0.025 s x 2), for two CPU cores
"""

import dataclasses

import ml_collections

from configs.gridworld import TABLE_A2, colours
from internal_rl import config as c


def paper() -> c.Config:
    """Tables A2 and A3; the expert's recipe is ours (the paper's is 256,000 updates of batch 1024, on an SSM)."""
    return c.Config(
        name="ant",
        preset="paper",
        env=c.EnvConfig(
            body="ant", size=4, colours=4, walls=1, horizon=500, subgoal_length=1,
            pretrain_tasks=tuple(map(colours, TABLE_A2)), post_tasks=((0, 1, 2, 3),),
        ),
        ant_expert=c.AntExpertConfig(
            steps=1500, batch=256, lr=5e-4, schedule="cosine", weight_decay=0.0, grad_clip=1.0, log_every=25,
            save_every=100, eval_batch=256,
        ),
    )  # fmt: skip


def tiny() -> c.Config:
    """``paper`` with physics at half the price; policies move between the two."""
    large = paper()
    return dataclasses.replace(large, preset="tiny", env=dataclasses.replace(large.env, timestep=0.025, substeps=2))


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The named preset as a locked ``ConfigDict``."""
    presets = {"paper": paper, "tiny": tiny}
    if preset not in presets:
        raise c.ConfigError(f"The preset is {preset!r}; expected one of {', '.join(presets)}.")
    return ml_collections.ConfigDict(c.to_dict(presets[preset]())).lock()
