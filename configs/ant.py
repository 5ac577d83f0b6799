"""ant-pinpad: `--config=configs/ant.py:PRESET` with PRESET one of paper, tiny, smoke.

paper  the paper's 4x4 grid, tasks and tables, with fine physics (0.01 s x 5), for a GPU
tiny   the same task with coarse physics (0.025 s x 2) and a small Hawk that is told cells, for two CPU cores
smoke  a puck instead of the ant, minutes, for tests; learns nothing
"""

import dataclasses

import ml_collections

from configs.gridworld import TABLE_A2, colours
from internal_rl import config as c


def paper() -> c.Config:
    """Tables A2, A3, A5, A8, A10, A12, A14 and A15.

    The expert's recipe is ours: the paper's is 256,000 updates of batch 1024 on a sequence model.
    """
    return c.Config(
        name="ant",
        preset="paper",
        env=c.EnvConfig(
            body="ant", size=4, colours=4, walls=1, horizon=500, subgoal_length=1,
            pretrain_tasks=tuple(map(colours, TABLE_A2)), post_tasks=((0, 1, 2, 3),),
        ),
        ant_expert=c.AntExpertConfig(
            steps=2000, batch=256, lr=5e-4, schedule="cosine", weight_decay=0.0, grad_clip=1.0, log_every=25,
            save_every=100, eval_batch=256,
        ),
        data=c.DataConfig(episodes=100_000, clean_episodes=100_000, batch=4096),
        model=c.ModelConfig(
            mixer="recurrent", width=256, depth=8, heads=8, lru_width=256, mlp=512, init_scale=0.1, layer=4
        ),
        pretrain=c.PretrainConfig(seeds=1, steps=204_800, batch=512, obs_coef=10.0, log_every=800, save_every=6400),
        probe=c.ProbeConfig(steps=8_000, batch=256, lr=1e-3, weight_decay=0.0, log_every=500, save_every=4000),
        control=c.ControlConfig(seeds=1, steps=3_200, batch=256, lr=3e-4, rank=0, log_every=200, save_every=1600),
        discover=c.DiscoverConfig(
            seeds=3, steps=32_000, batch=128, lr=3e-4, rank=0, log_every=500, save_every=4000
        ),
        compile=c.CompileConfig(seeds=3, steps=32_000, batch=128, lr=3e-4, rank=0, log_every=500, save_every=4000),
        reinforce=c.ReinforceConfig(
            seeds=3, steps=51_200, batch=256, lr=3e-5, weight_decay=0.0, log_every=400, save_every=3200
        ),
    )  # fmt: skip


def tiny() -> c.Config:
    """``paper`` with physics at half the price (policies move between the two), and everything else small."""
    large = paper()
    return dataclasses.replace(
        large,
        preset="tiny",
        env=dataclasses.replace(large.env, timestep=0.025, substeps=2, observation="egocentric"),
        # 95 in 100 successes of the expert take less than half of the environment's time.
        expert=c.ExpertConfig(horizon=250),
        data=c.DataConfig(episodes=24_576, clean_episodes=4096, batch=256, turns=True),
        model=dataclasses.replace(
            large.model, width=64, depth=4, heads=4, lru_width=64, mlp=128, init_scale=1.0, layer=0, components=4
        ),
        pretrain=c.PretrainConfig(
            steps=11_000, batch=8, brief=192, brief_steps=24, optimiser="muon", lr=0.02, schedule="cosine", warmup=200,
            weight_decay=0.1, betas=(0.9, 0.95), grad_clip=1.0, obs_coef=0.003, way_coef=400.0, way_coef_end=3.0,
            log_every=200, save_every=1000, eval_batch=128,
        ),
        probe=c.ProbeConfig(
            steps=300, batch=32, lr=1e-2, weight_decay=0.0, log_every=100, save_every=300, eval_batch=128
        ),
        control=c.ControlConfig(
            steps=1200, batch=16, lr=1e-2, schedule="cosine", weight_decay=0.0, rank=0, way_coef=80.0, layers=(0, 2),
            log_every=50, save_every=300, eval_batch=64,
        ),
        discover=c.DiscoverConfig(
            seeds=2, steps=1500, batch=16, lr=1e-3, warmup=50, betas=(0.9, 0.95), grad_clip=1.0, alpha=0.1,
            alpha_start=0.01, ramp_begin=700, ramp_end=1100, hold=600, hold_beta=0.03, switch_bias=-3.0, rank=0,
            log_std_init=-2.0, way_coef=40.0, embedding="per_step", sequence_width=64, log_every=100, save_every=500,
            eval_batch=128,
        ),
        compile=c.CompileConfig(
            seeds=2, steps=1500, batch=16, lr=1e-3, warmup=50, betas=(0.9, 0.95), grad_clip=1.0, poisson_rate=45.0,
            rank=0, encoder_width=64, encoder_layers=2, log_every=100, save_every=500, eval_batch=128,
        ),
        reinforce=c.ReinforceConfig(
            seeds=2, steps=100, batch=128, lr=1e-3, weight_decay=0.0, policy_width=64, policy_heads=4, log_every=5,
            save_every=25, eval_batch=128,
        ),
    )  # fmt: skip


def smoke() -> c.Config:
    """Every stage on a puck, a few updates each."""
    small = tiny()
    train = {"steps": 4, "batch": 4, "eval_batch": 4, "log_every": 2, "save_every": 2}
    return dataclasses.replace(
        small,
        preset="smoke",
        env=dataclasses.replace(
            small.env, body="puck", size=3, colours=3, walls=0, cell=1.0, horizon=40,
            pretrain_tasks=tuple(map(colours, ("01", "12"))), post_tasks=(colours("02"),),
        ),
        expert=c.ExpertConfig(horizon=40),
        data=c.DataConfig(episodes=40, clean_episodes=40, batch=64),
        model=dataclasses.replace(small.model, width=8, depth=2, heads=2, lru_width=8, mlp=8, layer=1),
        pretrain=dataclasses.replace(small.pretrain, **train, brief=4, brief_steps=8, warmup=1),
        probe=dataclasses.replace(small.probe, **train),
        control=dataclasses.replace(small.control, **train, brief=4, brief_steps=8, layers=()),
        discover=dataclasses.replace(
            small.discover, **train, warmup=1, hold=2, code=3, history=4, sequence=4, sequence_width=8,
            encoder_hidden=8, switch_hidden=8, hyper_hidden=4,
        ),
        compile=dataclasses.replace(
            small.compile, **train, warmup=1, code=3, hidden=4, hyper_hidden=4, encoder_width=8, encoder_heads=2,
            encoder_layers=1,
        ),
        reinforce=dataclasses.replace(small.reinforce, **train, policy_width=8, policy_heads=2),
    )  # fmt: skip


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The named preset as a locked ``ConfigDict``."""
    presets = {"paper": paper, "tiny": tiny, "smoke": smoke}
    if preset not in presets:
        raise c.ConfigError(f"The preset is {preset!r}; expected one of {', '.join(presets)}.")
    return ml_collections.ConfigDict(c.to_dict(presets[preset]())).lock()
