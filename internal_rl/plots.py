"""Figures in one style. Every function returns a Matplotlib ``Figure``; ``png`` turns it into bytes.

Figures are made without pyplot: no global state, no display, nothing to close.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internal_rl.envs.render import PALETTE

INK, GREY = "#17181c", "#6b7280"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Line colours in order of use (Okabe and Ito): dark enough for thin lines on white."""
MARKS = ("o", "s", "^", "D", "v", "P")

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}


def _styled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function in the house style, which titles and legends read when they are made."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapped


@_styled
def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


@_styled
def loss_curves(
    rows_by_stage: Mapping[str, Sequence[Mapping[str, Any]]],
    references: Mapping[str, Mapping[str, float]] | None = None,
    *,
    metrics: Sequence[str] = ("nll", "kl"),
    stamp: str = "",
) -> Figure:
    """Losses against updates, one panel a stage, with dashed reference levels.

    Args:
      rows_by_stage: for each stage, rows of ``metrics.jsonl``: ``step`` and metrics, numbers or lists over seeds. A
        metric is drawn from the rows that have it; non-finite values leave gaps.
      references: for each stage, label -> level, in the metrics' unit (nats per step).
      metrics: names to draw where present.
      stamp: footer, the run's provenance in a line.

    Raises:
      ValueError: if there is no stage, or no row of a stage has any of the metrics.
    """
    if not rows_by_stage:
        raise ValueError("rows_by_stage is empty; expected at least one stage.")
    columns = len(rows_by_stage) if len(rows_by_stage) <= 3 else 2
    lines = -(-len(rows_by_stage) // columns)
    figure, panels = _panels(lines, columns, (max(9.2 / columns, 3.4) * columns, 2.9 * lines), stamp)
    for axes, (stage, rows) in zip(panels, rows_by_stage.items(), strict=False):
        present = [name for name in metrics if any(name in row for row in rows)]
        if not present:
            raise ValueError(f"no row of {stage} has one of the metrics {', '.join(metrics)}.")
        for i, name in enumerate(present):
            chosen = [row for row in rows if name in row]
            values_NS = np.array([np.atleast_1d(np.asarray(row[name], float)) for row in chosen])
            _band(axes, [row["step"] for row in chosen], values_NS, LINES[i], name)
        for i, (label, level) in enumerate((references or {}).get(stage, {}).items()):
            axes.axhline(level, color=INK, lw=1.1, ls=("--", ":", "-.")[i % 3], label=f"{label} {level:.3f}")
        axes.set(title=stage, xlabel="update", ylabel="nats per step")
        if "kl" in present:  # starts far above the NLL it is traded against; linear near 0, where a reference may lie
            axes.set_yscale("symlog", linthresh=0.1)
            axes.set_ylim(bottom=-0.01)
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.legend()
    for axes in panels[len(rows_by_stage) :]:
        axes.set_visible(False)
    return figure


@_styled
def switches(examples: Sequence[Mapping[str, Any]], *, names: Sequence[str] | None = None, stamp: str = "") -> Figure:
    """The switch against the true subgoals, one panel a trajectory, as Fig. A3.

    Args:
      examples: dicts with ``beta`` float [T], ``subgoal`` int [T], ``alive`` bool [T]; dead steps are cut.
      names: names of the subgoals; their numbers by default.
      stamp: footer, the run's provenance in a line.

    Raises:
      ValueError: if there is no example or one has no step alive.
    """
    if not examples or not all(np.any(example["alive"]) for example in examples):
        raise ValueError("expected at least one example, each with a step alive.")
    figure, panels = _panels(len(examples), 1, (8.6, 0.75 + 1.15 * len(examples)), stamp, sharex=True)
    for axes, example in zip(panels, examples, strict=True):
        alive = np.asarray(example["alive"], bool)
        _switch_panel(axes, np.asarray(example["beta"], float)[alive], np.asarray(example["subgoal"])[alive], names)
        axes.set_ylabel(r"$\beta_t$")
    panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.16), ncols=3, borderaxespad=0.0)
    panels[0].set_xlim(-0.5, max(int(np.sum(example["alive"])) for example in examples) - 0.5)
    panels[-1].set_xlabel("time step")
    return figure


def _switch_panel(axes: Axes, beta: np.ndarray, subgoal: np.ndarray, names: Sequence[str] | None) -> None:
    """Draws one trajectory: ``beta`` float [T], ``subgoal`` int [T], alive steps only."""
    starts = np.flatnonzero(np.diff(subgoal, prepend=subgoal[0] - 1))
    for start, stop in zip(starts, [*starts[1:], len(subgoal)], strict=True):
        goal = int(subgoal[start])
        axes.axvspan(start - 0.5, stop - 0.5, color=PALETTE[goal % len(PALETTE)], alpha=0.28, lw=0)
        label = names[goal] if names else str(goal)
        axes.text((start + stop - 1) / 2, 1.1, label, ha="center", va="bottom", fontsize=9, color=INK)
    steps = np.arange(len(beta))
    axes.plot(steps, beta, color=INK, lw=1.1, marker=".", ms=4, label=r"switch $\beta_t$")
    axes.axhline(0.5, color=GREY, lw=0.9, ls=":")
    hard = beta > 0.5
    # The first step writes the first code whatever beta says, so it is no discovery: drawn hollow.
    axes.plot(0, 1.0, ls="none", marker="v", ms=7, mfc="white", mec=INK, label="first code")
    later = steps[hard & (steps > 0)]
    axes.plot(later, np.ones(len(later)), ls="none", marker="v", ms=7, color=INK, label=r"hard switch, $\beta_t$ > 0.5")
    axes.set(ylim=(-0.06, 1.12), yticks=(0, 0.5, 1))
    axes.grid(False)


@_styled
def success_curves(
    curves: Mapping[str, Mapping[str, Any]],
    ceiling: float | None,
    scale: str = "linear",
    *,
    resolution: float | None = None,
    stamp: str = "",
) -> Figure:
    """Success against episodes seen, median and quartiles over seeds, as Fig. 8.

    A logarithmic axis has no zero: points without success are open marks on a line labelled 0, below what can be shown.

    Args:
      curves: name -> ``episodes`` [N], increasing, and ``success`` [N, S] in [0, 1]; non-finite values are left out.
      ceiling: solvable share of the layouts, a dashed line; None for no line.
      scale: ``linear`` or ``log``, of the y-axis.
      resolution: smallest non-zero success a point can show, one over the episodes it was measured on. By default, one
        over the smallest spacing of ``episodes``, right when each point averages the episodes since the one before.
      stamp: footer, the run's provenance in a line.

    Raises:
      ValueError: for no curves, an unknown scale, or shapes that do not match.
    """
    if scale not in ("linear", "log") or not curves:
        raise ValueError(
            f"scale is {scale!r}, curves {list(curves)}; expected 'linear' or 'log' and at least one curve."
        )
    curves = {name: _curve(name, curve) for name, curve in curves.items()}
    figure, (axes,) = _panels(1, 1, (6.6, 4.1), stamp)
    floor = _log_axis(axes, resolution or min(map(_resolution, curves.values()))) if scale == "log" else 0.0
    for i, (name, (episodes, success_NS)) in enumerate(curves.items()):
        _band(axes, episodes, success_NS, LINES[i % len(LINES)], name, floor, MARKS[i % len(MARKS)])
    if ceiling is not None:
        axes.axhline(ceiling, color=INK, lw=1.1, ls="--", label=f"solvable layouts {ceiling:.2f}")
    if scale == "linear":
        axes.set_ylim(-0.02, 1.02)
    axes.set(xlabel="episodes seen", ylabel="success rate")
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    # Above the axes: curves, the ceiling and the zero line may lie anywhere inside.
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.06 if scale == "log" else 1.0), ncols=3, borderaxespad=0.0)
    return figure


def _curve(name: str, curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    episodes, success_NS = np.asarray(curve["episodes"], float), np.asarray(curve["success"], float)
    if success_NS.ndim != 2 or episodes.shape != success_NS.shape[:1] or not episodes.size:
        raise ValueError(f"{name}: episodes {episodes.shape}, success {success_NS.shape}; expected [N] and [N, S].")
    return episodes, success_NS


def _resolution(curve: tuple[np.ndarray, np.ndarray]) -> float:
    episodes = curve[0]
    gaps = np.diff(episodes) if len(episodes) > 1 else episodes
    return 1.0 / max(float(np.min(gaps)), 1.0)


def _log_axis(axes: Axes, resolution: float) -> float:
    """Makes the y-axis logarithmic with a place for zero; returns that place."""
    floor = resolution / 3
    axes.set_yscale("log")
    axes.set_ylim(floor / 1.6, 1.6)
    axes.axhspan(floor / 1.6, resolution / 1.7, color="#f1f2f4", lw=0)
    decades = 10.0 ** np.arange(np.ceil(np.log10(resolution)), 1)
    axes.set_yticks([floor, *decades], ["0", *(f"{d:g}" for d in decades)])
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    note = f"open marks at 0: no success; the least a point can show is {resolution:.1g}"
    axes.set_title(note, fontsize=8, color=GREY, fontweight="normal", loc="left")
    return floor


def _band(
    axes: Axes,
    x: Sequence[float],
    values_NS: np.ndarray,
    colour: str,
    label: str,
    floor: float = 0.0,
    mark: str = "",
) -> None:
    """Median line and quartile band over seeds, ``values_NS`` [N, S]; with a floor, zeros lie on it as open marks."""
    values_NS = np.where(np.isfinite(values_NS), values_NS, np.nan)
    known = ~np.all(np.isnan(values_NS), axis=1)
    x, quartiles = np.asarray(x, float)[known], np.nanquantile(values_NS[known], [0.25, 0.5, 0.75], axis=1)
    low, median, high = np.maximum(quartiles, floor) if floor else quartiles
    axes.plot(x, median, color=colour, label=label, marker=mark if len(x) <= 2 else "")
    if values_NS.shape[1] > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    if floor:
        zero = quartiles[1] == 0
        thin = x[zero][:: max(1, int(np.sum(zero)) // 25)]
        axes.plot(thin, np.full(len(thin), floor), ls="none", marker=mark, ms=4.5, mfc="white", mec=colour)


def _panels(
    lines: int, columns: int, size: tuple[float, float], stamp: str, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with ``lines * columns`` axes and a footer."""
    figure = Figure(figsize=size)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=sharex).ravel().tolist()
    if stamp:
        figure.supxlabel(stamp, fontsize=7, color=GREY, x=0.995, ha="right")
    return figure, panels
