"""gridworld-pinpad: `--config=configs/gridworld.py:PRESET` with PRESET one of paper, tiny, smoke.

  paper  the tables of the paper (one GPU; `docs/gpu_queue.md` gives time and memory)
  tiny   the same method on 5x5 cells with 5 colours, for two CPU cores (`make reproduce`)
  smoke  seconds, for tests; learns nothing
"""

import dataclasses
import itertools

import ml_collections

from internal_rl import config as c

# Table A1: subgoals A..D are the colour pairs 0-1, 2-3, 4-5, 6-7.
TABLE_A1 = "ACA ACB ADB BAC BDB BDC CAC CAD CBD DBA DBD DCA ADC BAD CBA DCB".split()


def pairs(letters: str) -> tuple[int, ...]:
    """'ACA' -> (0, 1, 4, 5, 0, 1)."""
    return tuple(2 * "ABCD".index(letter) + i for letter in letters for i in (0, 1))


def paper() -> c.Config:
    return c.Config(
        preset="paper",
        env=c.EnvConfig(pretrain_tasks=tuple(map(pairs, TABLE_A1)), post_tasks=(pairs("ABCDAB"),)),
        pretrain=c.PretrainConfig(seeds=1, steps=256_000, batch=1024, log_every=1000, save_every=8000),
        control=c.ControlConfig(seeds=1, steps=3_200, batch=512, lr=1e-3, log_every=200, save_every=1600),
        discover=c.DiscoverConfig(seeds=3, steps=64_000, batch=512, lr=1e-3, log_every=1000, save_every=8000),
        reinforce=c.ReinforceConfig(
            seeds=3, steps=100_000, batch=1024, lr=3e-5, weight_decay=0.0, log_every=500, save_every=5000
        ),
    )


def sequences(colours: int, length: int, held_out: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """All colour sequences of a length that use none of the transitions of ``held_out``."""
    banned = set(zip(held_out, held_out[1:], strict=False))
    banned |= {(colour, colour) for colour in range(colours)}
    return tuple(
        task
        for task in itertools.product(range(colours), repeat=length)
        if banned.isdisjoint(zip(task, task[1:], strict=False))
    )


def tiny() -> c.Config:
    post = (0, 1, 2, 3)
    return c.Config(
        preset="tiny",
        env=c.EnvConfig(
            size=5,
            colours=5,
            walls=0,
            horizon=32,
            observation="egocentric",
            subgoal_length=1,
            pretrain_tasks=sequences(5, 3, post),
            post_tasks=(post,),
        ),
        expert=c.ExpertConfig(ties="fixed", horizon=20),
        model=c.ModelConfig(width=64, depth=4, heads=4, head_width=16, mlp=256, max_distance=32, init_scale=1.0, layer=2),
        pretrain=c.PretrainConfig(
            seeds=1, steps=8000, batch=128, lr=2e-3, schedule="cosine", warmup=200, log_every=100, save_every=1000, obs_coef=0.0
        ),
        control=c.ControlConfig(seeds=1, steps=1000, batch=64, lr=2e-3, log_every=100, save_every=500),
        discover=c.DiscoverConfig(
            seeds=3, steps=4000, batch=128, lr=2e-3, warmup=100, alpha=0.05, alpha_start=0.02, ramp_begin=1000,
            ramp_end=2000, sequence_width=128, rank=8, log_every=100, save_every=1000,
        ),
        reinforce=c.ReinforceConfig(
            seeds=3, steps=400, batch=512, lr=1e-3, raw_lr=3e-4, weight_decay=0.0, policy_width=64, policy_heads=4,
            log_every=10, save_every=100,
        ),
    )  # fmt: skip


def smoke() -> c.Config:
    train = {"steps": 4, "batch": 4, "log_every": 2, "save_every": 2, "eval_batch": 8}
    small = tiny()
    return dataclasses.replace(
        small,
        preset="smoke",
        env=dataclasses.replace(small.env, horizon=16),
        expert=dataclasses.replace(small.expert, horizon=12),
        model=dataclasses.replace(small.model, width=16, depth=2, heads=2, head_width=8, mlp=16, layer=1),
        pretrain=dataclasses.replace(small.pretrain, **train),
        control=dataclasses.replace(small.control, rank=2, **train),
        discover=dataclasses.replace(
            small.discover, **train, seeds=2, rank=2, code=3, history=4, sequence=4, sequence_width=8,
            encoder_hidden=8, switch_hidden=8, hyper_hidden=8,
        ),
        reinforce=dataclasses.replace(small.reinforce, **train, seeds=2, policy_width=8, policy_heads=2),
    )  # fmt: skip


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The named preset as a locked ``ConfigDict``."""
    presets = {"paper": paper, "tiny": tiny, "smoke": smoke}
    if preset not in presets:
        raise c.ConfigError(f"The preset is {preset!r}; expected one of {', '.join(presets)}.")
    return ml_collections.ConfigDict(c.to_dict(presets[preset]())).lock()
