"""Configuration: frozen dataclasses that refuse bad input in one sentence before anything compiles."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import types
import typing
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration problem: one sentence naming the field, the value and what was expected."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """gridworld-pinpad (App. A). Tasks are colour sequences; colour ``c`` is of subgoal ``c // subgoal_length``.

    ``moves`` is the number of actions: the paper's four, then up to four diagonal ones.
    """

    size: int = 7
    colours: int = 8
    walls: int = 4
    horizon: int = 100
    observation: Literal["absolute", "egocentric"] = "absolute"
    subgoal_length: int = 2
    moves: int = 4
    pretrain_tasks: tuple[tuple[int, ...], ...] = ()
    post_tasks: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Shortest-path experts (C.1.1). ``horizon`` bounds the length of a trajectory; 0 takes the environment's.

    ``epsilon`` is the noise of the pretraining data; controllers and metacontroller see the same expert without it.
    """

    epsilon: float = 0.0
    ties: Literal["uniform", "fixed"] = "uniform"
    horizon: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Base transformer (Table A16); ``layer`` is the number of blocks below the controlled residual."""

    width: int = 256
    depth: int = 6
    heads: int = 4
    head_width: int = 64
    mlp: int = 512
    buckets: int = 32
    max_distance: int = 128
    init_scale: float = 0.1
    layer: int = 3
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What every stage shares: the optimiser, its schedule, and how often to log and save.

    The paper uses AdamW throughout. ``muon`` orthogonalises the updates of matrices (with ``lr``) and leaves vectors to
    AdamW (at 0.3 ``lr``); a small base model on a small budget needs it to come near the Bayes reference.
    ``schedule`` is applied after ``warmup`` linear steps; ``grad_clip`` 0 means off. ``log_every`` updates form one
    compiled chunk; an evaluation on ``eval_batch`` fresh episodes ends each chunk.

    ``vary`` sweeps float fields of the section inside one program, ``((field, values), ...)``: every combination is
    trained with every seed.
    """

    seeds: int = 1
    steps: int = 1
    batch: int = 1
    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.03
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 0.0
    log_every: int = 1
    save_every: int = 1
    eval_batch: int = 256
    vary: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def rows(self) -> int:
        """Length of the seeds axis, S: every seed with every combination of ``vary``."""
        return self.seeds * math.prod(len(values) for _, values in self.vary)

    def varied(self) -> dict[str, tuple[float, ...]]:
        """Values of each varied field on the seeds axis: row r has seed ``r % seeds``, combination ``r // seeds``."""
        combinations = itertools.product(*(values for _, values in self.vary))
        rows = [combination for combination in combinations for _ in range(self.seeds)]
        return {name: column for (name, _), column in zip(self.vary, zip(*rows, strict=True), strict=True)}


@dataclasses.dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Base-model pretraining (Eq. 5, Table A4); ``obs_coef`` is lambda. States at ``snapshots`` updates are kept."""

    obs_coef: float = 0.01
    snapshots: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ProbeConfig(TrainConfig):
    """Linear probes of the subgoal at every layer (C.2, Table A6)."""


@dataclasses.dataclass(frozen=True)
class ControlConfig(TrainConfig):
    """Ground-truth controllers (C.3, Table A7) at each of ``layers``; none means ``model.layer``."""

    rank: int = 16
    layers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class DiscoverConfig(TrainConfig):
    """Metacontroller (D.2, Tables A9, A10).

    ``alpha`` is the final KL weight; it is ``alpha_start`` until update ``ramp_begin`` and linear from there to
    ``ramp_end`` (``ramp_end`` 0 means no ramp). ``gate`` is how beta acts: as it is (``soft``), always one
    (``forced``) or relaxed with Gumbel noise (``gumbel``, temperature ``gumbel_temperature``). ``log_std_init`` is
    where the posterior's log standard deviation starts: below 0, codes start almost noiseless and are worth using.
    For the first ``hold`` updates beta is the constant ``hold_beta`` (not where ``forced``), so that codes have to last
    before the switch learns when to renew them; its bias starts at ``switch_bias``. ``base`` is what happens to the
    base model: ``frozen``, or trained along on the same loss, from ``scratch`` or from the ``pretrained`` parameters.
    """

    base: Literal["frozen", "scratch", "pretrained"] = "frozen"
    alpha: float = 0.17
    alpha_start: float = 0.0
    ramp_begin: int = 0
    ramp_end: int = 0
    gate: Literal["soft", "forced", "gumbel"] = "soft"
    gumbel_temperature: float = 1.0
    embedding: Literal["sequence", "per_step"] = "sequence"
    log_std_init: float = 0.0
    hold: int = 0
    hold_beta: float = 0.1
    switch_bias: float = 0.0
    code: int = 8
    history: int = 32
    sequence: int = 32
    sequence_width: int = 256
    encoder_hidden: int = 64
    switch_hidden: int = 64
    hyper_hidden: int = 32
    rank: int = 16


@dataclasses.dataclass(frozen=True)
class CompileConfig(TrainConfig):
    """CompILE (Kipf et al. 2019; Tables A11, A12), with the base model trained along.

    At most ``segments``, each with a Poisson number of steps around ``poisson_rate``; boundaries are Gumbel-softmax
    samples at ``temperature``. ``kl_codes`` and ``kl_boundaries`` weigh the KLs. The encoder has the shape of the base
    model's first half; its heads have ``hidden`` units.
    """

    segments: int = 4
    temperature: float = 1.0
    poisson_rate: float = 10.0
    kl_codes: float = 0.1
    kl_boundaries: float = 0.1
    code: int = 8
    hidden: int = 32
    hyper_hidden: int = 32
    rank: int = 16
    log_std_init: float = 0.0
    encoder_width: int = 256
    encoder_heads: int = 4
    encoder_layers: int = 3


@dataclasses.dataclass(frozen=True)
class ReinforceConfig(TrainConfig):
    """Policy-gradient fine-tuning (Eq. 10, Table A13), in code space and on raw actions. ``batch`` counts episodes.

    ``controller`` decodes the codes: the metacontroller of ``discover`` or the module of ``compile``.
    """

    controller: Literal["metacontroller", "compile"] = "metacontroller"

    clip: float = 0.2
    epochs: int = 1
    minibatches: int = 1
    threshold: float = 0.5
    policy_width: int = 256
    policy_heads: int = 8
    raw_lr: float = 3e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: every stage's section and the root seed.

    ``snapshot`` is the number of updates of the base model that the other stages build on; 0 means all of them.
    """

    name: str = "gridworld"
    preset: str = "paper"
    seed: int = 0
    snapshot: int = 0
    env: EnvConfig = EnvConfig()
    expert: ExpertConfig = ExpertConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    probe: ProbeConfig = ProbeConfig()
    control: ControlConfig = ControlConfig()
    discover: DiscoverConfig = DiscoverConfig()
    compile: CompileConfig = CompileConfig()
    reinforce: ReinforceConfig = ReinforceConfig()


def from_dict(values: dict[str, Any]) -> Config:
    """Builds and validates a :class:`Config` from nested plain values.

    Raises:
      ConfigError: for an unknown, missing or ill-typed field or a value out of range.
    """
    config = _build(Config, values, "")
    _check_ranges(config)
    _check_env(config.env)
    _check_model(config.model)
    _check_stages(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The plain nested dictionary of a configuration, as written to ``config.json``."""
    return dataclasses.asdict(config)


def digest(config: Config) -> str:
    """A short hash of the resolved configuration."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]


def _build(cls: type, values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{path or 'config'} is {values!r}; expected a section with fields.")
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            hint = f" (did you mean {path}{close[0]}?)" if close else ""
            raise ConfigError(f"{path}{name} is not a field of the configuration{hint}.")
    return cls(**{name: _coerce(hints[name], value, path + name) for name, value in values.items()})


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """Checks ``value`` against a type hint; the only conversions are int to float and list to tuple."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{path} is {value!r}; expected one of {', '.join(map(repr, args))}.")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path} is {value!r}; expected a tuple.")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{path} is {value!r} with {len(value)} entries; expected {len(args)}.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_coerce(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    accepted = (int, float) if hint is float else hint
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, accepted):
        name = hint.__name__ if not isinstance(hint, types.UnionType) else str(hint)
        raise ConfigError(f"{path} is {value!r} of type {type(value).__name__}; expected {name}.")
    if hint is float:
        if not math.isfinite(value):
            raise ConfigError(f"{path} is {value!r}; expected a finite number.")
        return float(value)
    return value


_POSITIVE = {
    "size", "colours", "subgoal_length", "width", "depth", "heads", "head_width", "mlp", "buckets",
    "max_distance", "init_scale", "seeds", "steps", "batch", "lr", "log_every", "save_every", "eval_batch", "code",
    "history", "sequence", "sequence_width", "encoder_hidden", "switch_hidden", "hyper_hidden", "rank", "epochs",
    "minibatches", "policy_width", "policy_heads", "raw_lr", "clip", "gumbel_temperature", "segments", "temperature",
    "poisson_rate", "hidden", "encoder_width", "encoder_heads", "encoder_layers",
}  # fmt: skip


_ANY_SIGN = {"log_std_init", "switch_bias"}


def _check_ranges(section: Any, path: str = "") -> None:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{path}{field.name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            positive = field.name in _POSITIVE
            if (value < 0 and field.name not in _ANY_SIGN) or (positive and value == 0):
                raise ConfigError(f"{path}{field.name} is {value!r}; expected {'> 0' if positive else '>= 0'}.")
            if isinstance(value, int) and value >= 2**31:
                raise ConfigError(f"{path}{field.name} is {value!r}; expected less than 2**31.")


def _check_env(env: EnvConfig) -> None:
    cells = env.size**2
    if env.horizon == 0:
        raise ConfigError("env.horizon is 0; expected > 0.")
    if env.size > 31:
        raise ConfigError(f"env.size is {env.size}; expected at most 31.")
    if not 4 <= env.moves <= 8:
        raise ConfigError(f"env.moves is {env.moves}; expected 4 to 8.")
    if env.colours + env.walls + 1 > cells:
        raise ConfigError(
            f"env.colours is {env.colours} and env.walls is {env.walls}; expected colours + walls + 1 "
            f"<= size**2 = {cells}."
        )
    for field in ("pretrain_tasks", "post_tasks"):
        tasks = getattr(env, field)
        if not tasks:
            raise ConfigError(f"env.{field} is empty; expected at least one task.")
        for task in tasks:
            if not task or len(task) > env.horizon:
                raise ConfigError(
                    f"env.{field} has the task {task}; expected 1 to env.horizon = {env.horizon} colours."
                )
            if any(not 0 <= colour < env.colours for colour in task):
                raise ConfigError(
                    f"env.{field} has the task {task}; expected colours below env.colours = {env.colours}."
                )
            if any(a == b for a, b in zip(task, task[1:], strict=False)):
                raise ConfigError(f"env.{field} has the task {task}; expected no colour twice in a row.")


def _check_model(model: ModelConfig) -> None:
    if model.layer > model.depth:
        raise ConfigError(f"model.layer is {model.layer}; expected at most model.depth = {model.depth}.")
    if model.width % model.heads:
        raise ConfigError(f"model.width is {model.width}; expected a multiple of model.heads = {model.heads}.")
    if model.buckets < 2 or model.max_distance <= model.buckets // 2:
        raise ConfigError(
            f"model.max_distance is {model.max_distance}; expected more than half of model.buckets = "
            f"{model.buckets} >= 2."
        )


def _check_stages(config: Config) -> None:
    if config.expert.epsilon > 1:
        raise ConfigError(f"expert.epsilon is {config.expert.epsilon}; expected a probability.")
    if config.expert.horizon > config.env.horizon:
        raise ConfigError(
            f"expert.horizon is {config.expert.horizon}; expected at most env.horizon = {config.env.horizon}."
        )
    for name in ("pretrain", "probe", "control", "discover", "compile", "reinforce"):
        _check_train(name, getattr(config, name))
    for name in ("probe", "control", "discover", "compile", "reinforce"):
        if getattr(config, name).seeds % config.pretrain.rows:
            raise ConfigError(
                f"{name}.seeds is {getattr(config, name).seeds}; expected a multiple of {config.pretrain.rows}, the "
                "number of base models."
            )
    for snapshot in config.pretrain.snapshots:
        if not 0 < snapshot <= config.pretrain.steps or snapshot % config.pretrain.save_every:
            raise ConfigError(
                f"pretrain.snapshots has {snapshot}; expected multiples of pretrain.save_every = "
                f"{config.pretrain.save_every} up to pretrain.steps = {config.pretrain.steps}."
            )
    if config.snapshot and config.snapshot not in config.pretrain.snapshots:
        raise ConfigError(f"snapshot is {config.snapshot}; expected 0 or one of {config.pretrain.snapshots}.")
    for layer in config.control.layers:
        if not 0 <= layer <= config.model.depth:
            raise ConfigError(f"control.layers has {layer}; expected 0 to model.depth = {config.model.depth}.")
    if config.discover.hold_beta > 1:
        raise ConfigError(f"discover.hold_beta is {config.discover.hold_beta}; expected a number in [0, 1].")
    if config.discover.hold >= config.discover.steps:
        raise ConfigError(
            f"discover.hold is {config.discover.hold}; expected less than discover.steps = {config.discover.steps}, "
            "or the switch is never trained."
        )
    rl = config.reinforce
    controllers = config.compile.rows if rl.controller == "compile" else config.discover.rows
    if rl.seeds % controllers:
        raise ConfigError(
            f"reinforce.seeds is {rl.seeds}; expected a multiple of {controllers}, the number of metacontrollers."
        )
    if config.compile.encoder_width % config.compile.encoder_heads:
        raise ConfigError(
            f"compile.encoder_width is {config.compile.encoder_width}; expected a multiple of encoder_heads = "
            f"{config.compile.encoder_heads}."
        )
    if rl.batch % rl.minibatches:
        raise ConfigError(f"reinforce.batch is {rl.batch}; expected a multiple of minibatches = {rl.minibatches}.")
    if rl.policy_width % rl.policy_heads:
        raise ConfigError(
            f"reinforce.policy_width is {rl.policy_width}; expected a multiple of policy_heads = {rl.policy_heads}."
        )
    if rl.threshold >= 1:
        raise ConfigError(f"reinforce.threshold is {rl.threshold}; expected a number in [0, 1).")


VARIABLE = ("lr", "weight_decay", "raw_lr", "alpha", "obs_coef", "kl_codes", "kl_boundaries")
"""Fields that only scale something inside a compiled program, so that ``vary`` can give each row its own."""


def _check_train(name: str, train: TrainConfig) -> None:
    if any(not 0 <= beta < 1 for beta in train.betas):
        raise ConfigError(f"{name}.betas is {train.betas}; expected numbers in [0, 1).")
    if train.steps % train.log_every:
        raise ConfigError(f"{name}.steps is {train.steps}; expected a multiple of log_every = {train.log_every}.")
    if train.save_every % train.log_every:
        raise ConfigError(
            f"{name}.save_every is {train.save_every}; expected a multiple of log_every = {train.log_every}."
        )
    fields = [field.name for field in dataclasses.fields(train) if field.name in VARIABLE]
    for field, values in train.vary:
        if field not in fields or not values:
            raise ConfigError(f"{name}.vary has {(field, values)}; expected one of {fields} with its values.")
        for value in values:
            _check_ranges(dataclasses.replace(train, **{field: value}, vary=()), f"{name}.")
    if len({field for field, _ in train.vary}) < len(train.vary):
        raise ConfigError(f"{name}.vary is {train.vary}; expected each field once.")
