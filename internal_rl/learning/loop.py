"""The training loop: ``jit(scan(update))`` over seeds in chunks; metrics, progress, checkpoints and a polite stop.

This is the only impure room of the learner: it alone knows the disk, the clock, the terminal and signals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl import checkpoints
from internal_rl.config import Config, digest

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, state saved; the same command continues
PLAIN_LINE_SECONDS = 10.0
_FINITE = "the train state"
Chunk = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]
Save = Callable[[int, Any], None]


class NonFiniteError(RuntimeError):
    """A metric or the train state ceased to be finite, worded as one sentence."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training. ``update`` and ``evaluate`` are pure and see one seed; the loop adds the seeds axis S.

    Attributes:
      name: folder inside the workdir and label of the progress line.
      update: ``(state, context) -> (state, {metric: scalar})``, one update.
      evaluate: ``(state, context) -> {metric: scalar}`` at the end of every chunk, or None.
      steps: the number of updates that finish the stage.
      log_every: updates per compiled chunk; divides ``steps`` and ``save_every``.
      save_every: updates between checkpoints.
      context_axes: the ``vmap`` axes of the context; None shares one context among all seeds.
      headline: the metrics of the progress line.
      keep: updates whose checkpoints are never dropped; multiples of ``save_every``.
    """

    name: str
    update: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]
    evaluate: Callable[[Any, Any], dict[str, jax.Array]] | None
    steps: int
    log_every: int
    save_every: int
    context_axes: Any = None
    headline: tuple[str, ...] = ()
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if chunks would not end at ``steps`` and at every save."""
        if self.steps % self.log_every or self.save_every % self.log_every:
            raise ValueError(f"log_every = {self.log_every} must divide {self.steps = } and {self.save_every = }")


def run(
    stage: Stage, state: Any, context: Any, *, workdir: str | os.PathLike[str], config: Config, parents: dict[str, str]
) -> Any:
    """Trains a stage to its end, going on from its newest sound checkpoint if there is one.

    A finished stage compiles nothing and returns at once. Each chunk appends one row to
    ``<workdir>/<stage>/metrics.jsonl``: ``step``, ``wall_s`` (seconds of training without compilation, summed over
    resumed runs) and per metric its mean over the chunk for each seed [S].

    Args:
      stage: what to do.
      state: the first train state, leaves [S, ...] with fields ``step`` (int32 [S]) and ``key`` ([S]), never donated
        itself; or a function of no arguments that builds it, jitted and run only when there is no checkpoint.
      context: frozen pytree handed to every update.
      workdir: the run's folder.
      config: the resolved configuration, whose digest goes into the checkpoints.
      parents: stage name -> digest of the checkpoint the context came from.

    Returns:
      The final train state.

    Raises:
      NonFiniteError: naming stage, steps, metric and seed; the last good checkpoint stays.
      CheckpointError: if the stage's checkpoints are unusable or belong to other parents.
      SystemExit: with code ``STOPPED`` after SIGTERM or Ctrl-C, once the state is saved.
    """
    store = checkpoints.stage_checkpoints(workdir, stage.name, stage.keep)
    state, step, wall_s = _resume(stage, store, state, workdir, parents)
    if step == stage.steps:
        return state
    with _stop_requests() as stop:
        state = jax.tree.map(_own, jax.jit(state)() if callable(state) else state)
        chunk = compile_chunk(stage, state, context)
        metadata = {"config": digest(config), "parents": parents}
        with contextlib.closing(_Log(stage, Path(workdir), step, wall_s)) as log:

            def save(step: int, state: Any) -> None:
                store.save(step, state, metadata | {"wall_s": log.wall_s()})

            return _train(stage, chunk, state, context, step, save, log, stop)


def _resume(
    stage: Stage, store: checkpoints.Checkpoints, state: Any, workdir: str | os.PathLike[str], parents: dict[str, str]
) -> tuple[Any, int, float]:
    """The state to go on from (``state`` itself if there is no checkpoint), its step and its seconds of training."""
    found = store.restore_latest(jax.eval_shape(state) if callable(state) else checkpoints.abstract(state))
    if found is None:
        return state, 0, 0.0
    restored, step, metadata = found
    checkpoints.check_parents(workdir, stage.name, metadata["parents"], parents)
    if step > stage.steps or step % stage.log_every:
        wanted = f"a multiple of log_every = {stage.log_every} up to steps = {stage.steps}"
        raise checkpoints.CheckpointError(f"Stage {stage.name} in {workdir} is at update {step}; expected {wanted}.")
    return restored, step, metadata["wall_s"]


def compile_chunk(stage: Stage, state: Any, context: Any) -> Chunk:
    """Compiles ``log_every`` updates and the evaluation into ``(state, context) -> (state, {metric: float32 [S]})``.

    The state is donated. The extra metric ``_FINITE`` is NaN for a seed whose new state is not finite: the loss of the
    last update was computed before that update.
    """

    def one_seed(state: Any, context: Any) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = jax.lax.scan(lambda state, _: stage.update(state, context), state, length=stage.log_every)
        metrics = {name: values.mean(0, dtype=jnp.float32) for name, values in metrics.items()}
        if stage.evaluate is not None:
            scores = stage.evaluate(state, context)
            if clash := metrics.keys() & scores.keys():
                raise ValueError(f"{stage.name}: update and evaluate both report {sorted(clash)}")
            metrics |= {name: values.astype(jnp.float32) for name, values in scores.items()}
        for name, values in metrics.items():
            if values.ndim:
                raise ValueError(f"{stage.name}: the metric {name} has shape {values.shape}; expected a scalar")
        return state, metrics | {_FINITE: _nan_unless_finite(state)}

    chunk = over_seeds(one_seed, stage.context_axes)
    return jax.jit(chunk, donate_argnums=0).lower(state, context).compile()


def over_seeds(function: Callable[[Any, Any], Any], context_axes: Any) -> Callable[[Any, Any], Any]:
    """``function(state, context)`` for every seed of the leading axis of ``state``, in one program.

    Side by side (``vmap``) on an accelerator. On a CPU one after the other: seeds side by side win nothing there and
    fall out of its caches.

    Args:
      function: sees one seed.
      context_axes: as in :class:`Stage`.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes=(0, context_axes))

    def one_by_one(state: Any, context: Any) -> Any:
        def row(i: jax.Array) -> Any:
            pick = lambda values: jax.tree.map(lambda x: x[i], values)  # noqa: E731
            own = jax.tree.map(
                lambda axis, part: part if axis is None else pick(part),
                context_axes,
                context,
                is_leaf=lambda axis: axis is None,
            )
            return function(pick(state), own)

        return jax.lax.map(row, jnp.arange(len(jax.tree.leaves(state)[0])))

    return one_by_one


def _train(
    stage: Stage, chunk: Chunk, state: Any, context: Any, step: int, save: Save, log: _Log, stop: list[str]
) -> Any:
    """The loop over chunks; the metrics of one are fetched once the next is on its way, unless a save needs them."""
    pending = None
    stopping = bool(stop)
    while step < stage.steps and not stopping:
        state, metrics = chunk(state, context)
        step += stage.log_every
        if pending is not None:
            log.record(*pending)
        pending = (step, metrics)
        stopping = bool(stop)
        if stopping or step == stage.steps or step % stage.save_every == 0:
            log.record(*pending)  # checked before the state is saved
            pending = None
            save(step, state)
    if stop:  # also after the last update, or the caller would go on to the next stage
        log.close()
        print(
            f"{stage.name}: stopped by {stop[0]} at update {step} of {stage.steps}; the same command continues.",
            file=sys.stderr,
        )
        raise SystemExit(STOPPED)
    return state


class _Log:
    """Checks, writes and shows the metrics of finished chunks, and keeps the clock."""

    def __init__(self, stage: Stage, workdir: Path, step: int, wall_s: float):
        path = workdir / stage.name / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        truncate_metrics(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._stage = stage
        self._start = time.monotonic() - wall_s
        self._progress = _Progress(stage.name, stage.steps, step, sys.stderr)

    def wall_s(self) -> float:
        return time.monotonic() - self._start

    def record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Fetches the metrics [S] of the chunk that ends at ``step``.

        Raises:
          NonFiniteError: before anything of this chunk is written.
        """
        fetched: dict[str, np.ndarray] = jax.device_get(metrics)
        for name, values in fetched.items():
            if not np.isfinite(values).all():
                seed = int(np.flatnonzero(~np.isfinite(values))[0])
                raise NonFiniteError(
                    f"Stage {self._stage.name} stopped: {name} of seed {seed} is {values[seed]} between updates "
                    f"{step - self._stage.log_every} and {step}; the last good checkpoint is kept."
                )
        del fetched[_FINITE]
        row = {"step": step, "wall_s": round(self.wall_s(), 3)}
        # str of a float32 is its shortest exact form, a quarter of the digits of the float64 it converts to.
        row |= {name: [float(str(value)) for value in values] for name, values in fetched.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._progress.show(step, {name: float(np.median(fetched[name])) for name in self._stage.headline})

    def close(self) -> None:
        self._file.close()
        self._progress.close()


class _Progress:
    """One live line on a terminal; elsewhere a plain line at most every ``PLAIN_LINE_SECONDS``, and the last."""

    def __init__(self, name: str, total: int, step: int, stream: TextIO):
        self._name, self._total, self._first, self._stream = name, total, step, stream
        self._start, self._printed, self._open = time.monotonic(), -float("inf"), False

    def show(self, step: int, headline: dict[str, float]) -> None:
        now = time.monotonic()
        rate = (step - self._first) / max(now - self._start, 1e-9)
        scores = "".join(f"  {name} {value:.4g}" for name, value in headline.items())
        left = datetime.timedelta(seconds=round((self._total - step) / rate))
        line = f"{self._name} {step}/{self._total}{scores}  {rate:.3g} updates/s  {left} left"
        if self._stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", file=self._stream, flush=True)
            self._open = True
        elif now - self._printed >= PLAIN_LINE_SECONDS or step == self._total:
            print(line, file=self._stream, flush=True)
            self._printed = now

    def close(self) -> None:
        if self._open:
            print(file=self._stream, flush=True)
        self._open = False


def truncate_metrics(path: Path, step: int) -> None:
    """Drops the rows beyond ``step`` and whatever follows a torn line, as left by a killed run."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            sound = line.endswith("\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            break
        kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[str]]:
    """Notes SIGTERM and the first Ctrl-C in a list that is read at chunk boundaries; a second one acts as usual.

    Handlers belong to the main thread, and in a distributed run to the cluster's own preemption service.
    """
    requests: list[str] = []
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield requests
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _: Any) -> None:
        requests.append(signal.Signals(number).name)
        signal.signal(number, previous[number])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield requests
    finally:
        for number in numbers:
            signal.signal(number, previous[number])


def _own(leaf: Any) -> jax.Array:
    """A fresh strongly typed copy, so that donation takes neither the caller's buffer nor one buffer twice."""
    return jnp.array(leaf, dtype=leaf.dtype, copy=True)


def _nan_unless_finite(state: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool).all()
    return jnp.where(finite, 1.0, jnp.nan)
