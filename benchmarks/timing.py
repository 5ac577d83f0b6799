"""How a row of `make bench` is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

SECONDS = 3.0
"""Time given to each row; at least three timings are taken."""
Row = dict[str, Any]


def measure(function: Callable, *args: Any) -> Row:
    """Fastest call in seconds (``s``) and in CPU seconds (``cpu_s``), compile time, and how many calls were timed.

    A call longer than a time slice shares its core with whatever else runs; its CPU seconds do not.
    """
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compile_s = time.perf_counter() - begin
    jax.block_until_ready(compiled(*args))
    walls: list[float] = []
    cpus: list[float] = []
    while len(walls) < 3 or sum(walls) < SECONDS:
        begin, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*args))
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - cpu)
    return {"s": min(walls), "cpu_s": min(cpus), "compile_s": round(compile_s, 2), "timings": len(walls)}
