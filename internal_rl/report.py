"""The report of a run: ``report.html``, self-contained, and the table of results for the terminal.

Every verdict is computed here from the measured numbers; a number that is missing is called ``not measured``.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title>"""

_STYLE = Path(__file__).with_suffix(".css")

UNIFORM_NLL = math.log(4)
"""Nats per step of guessing uniformly among the grid's four actions."""

REACHED, MISSED, UNKNOWN = "reached", "missed", "not measured"


@dataclasses.dataclass(frozen=True)
class Card:
    """A figure of the report: ``figure`` holds the bytes of a PNG or GIF, ``caption`` and ``verdict`` are plain text.

    ``caption`` says what is drawn, ``verdict`` what it shows in this run.
    """

    title: str
    caption: str
    figure: bytes
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table of results; ``target`` and ``verdict`` are empty for plain measurements."""

    metric: str
    value: str
    target: str = ""
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Stat:
    """A number, or the median of one over seeds with its quartiles (else None)."""

    median: float
    q25: float | None = None
    q75: float | None = None

    def __str__(self) -> str:
        if self.q25 is None or self.q75 is None:
            return _number(self.median)
        return f"{_number(self.median)} [{_number(self.q25)}, {_number(self.q75)}]"


def write(
    path: str | os.PathLike[str],
    *,
    results: Mapping[str, Any],
    figures: Sequence[Card] = (),
    animations: Sequence[Card] = (),
    provenance: Mapping[str, Any],
) -> Path:
    """Writes the report, replacing an older one only once the new one is complete.

    Args:
      path: the file to write; its folder is made if needed.
      results: as in ``results.json``, see :func:`rows`.
      figures: cards with figures.
      animations: cards with animations, shown first.
      provenance: name -> text, number or mapping; ``config`` is shown folded, as JSON.

    Returns:
      The absolute path of the report.

    Raises:
      ValueError: if a card's figure is neither PNG nor GIF.
    """
    body = [
        f"<header><p class='kicker'>{_esc(_title(provenance))}</p><h1>{_esc(headline(results))}</h1></header>",
        _table_html(rows(results)),
        *(_card_html(card) for card in [*animations, *figures]),
        _provenance_html({**provenance, **_wall(results)}),
    ]
    style = f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>"
    page = "\n".join([_HEAD.format(title=_esc(_title(provenance))), style, "<main>", *body, "</main></html>\n"])
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def headline(results: Mapping[str, Any]) -> str:
    """The result in one or two sentences, from the measured numbers alone."""
    internal, raw = _stat(results, "internal_rl.final_success"), _stat(results, "raw_rl.final_success")
    ceiling = _stat(results, "solvable_share")
    if internal is None:
        return "This run has not reached internal RL yet."
    text = f"Internal RL solves {_percent(internal.median)} of the post-training episodes"
    if ceiling and ceiling.median > 0:
        text += f", {_percent(internal.median / ceiling.median)} of what is solvable"
    if raw is None:
        return text + "."
    return f"{text}; raw-action RL with as many episodes solves {_percent(raw.median)}."


def rows(results: Mapping[str, Any]) -> list[Row]:
    """The table of results with targets and verdicts.

    Args:
      results: ``base_nll``, ``bayes_nll``, ``goal_known_nll`` (nats per step), ``solvable_share`` (of post-training
        layouts), ``solvable_share_pretrain``,
        ``ground_truth_control.success``, ``alignment_f1_tol1``, ``{internal_rl,raw_rl}.{initial,final}_success``. Each
        is a number or ``{"median", "q25", "q75"}`` over seeds; dotted names are nested mappings or keys with a dot.
    """
    ceiling = _value(results, "solvable_share")
    internal = _value(results, "internal_rl.final_success")
    base, bayes = _value(results, "base_nll"), _value(results, "bayes_nll")
    gap = None if base is None or bayes is None else (base - bayes) / (UNIFORM_NLL - bayes)
    plain = [
        ("Base model, NLL (nats per step)", "base_nll"),
        ("Bayes reference, NLL", "bayes_nll"),
        ("Goal-known reference, NLL", "goal_known_nll"),
        ("Solvable pretraining layouts", "solvable_share_pretrain"),
        ("Solvable post-training layouts", "solvable_share"),
    ]
    judged = [
        (
            "Ground-truth controllers, success",
            "ground_truth_control.success",
            ">=",
            _scaled(ceiling, 0.7),
            "0.7 of solvable",
        ),
        ("Switches against subgoal changes, F1 (tolerance 1)", "alignment_f1_tol1", ">=", 0.8),
        ("Internal RL, success before", "internal_rl.initial_success"),
        ("Internal RL, success after", "internal_rl.final_success", ">=", _scaled(ceiling, 0.6), "0.6 of solvable"),
        ("Raw-action RL, success before", "raw_rl.initial_success"),
        ("Raw-action RL, success after", "raw_rl.final_success", "<", _scaled(internal, 0.25), "1/4 of internal RL"),
    ]
    lines = [_row(label, _stat(results, name), *target) for label, name, *target in plain + judged]
    lines.insert(3, _row("Base model's share of the way from Bayes to uniform", gap, "<=", 0.05))
    return lines


def table(results: Mapping[str, Any]) -> str:
    """The results as aligned plain text, with targets, verdicts and the wall time of each stage."""
    lines = [("metric", "value", "target", "verdict"), *(dataclasses.astuple(row) for row in rows(results))]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for stages in _wall(results).values():
        text.append("wall time: " + ", ".join(f"{stage} {spent}" for stage, spent in stages.items()))
    return "\n".join(text)


def _lookup(results: Mapping[str, Any], name: str) -> Any:
    if name in results:
        return results[name]
    head, _, rest = name.partition(".")
    inner = results.get(head)
    return _lookup(inner, rest) if rest and isinstance(inner, Mapping) else None


def _stat(results: Mapping[str, Any], name: str) -> Stat | None:
    """The statistic called ``name``; None if it is missing or not finite."""
    value = _lookup(results, name)
    stat = Stat(value["median"], value.get("q25"), value.get("q75")) if isinstance(value, Mapping) else Stat(value)
    return stat if isinstance(stat.median, (int, float)) and math.isfinite(stat.median) else None


def _value(results: Mapping[str, Any], name: str) -> float | None:
    stat = _stat(results, name)
    return stat and stat.median


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _row(metric: str, value: Stat | float | None, sign: str = "", bound: float | None = None, note: str = "") -> Row:
    """Compares the median with ``bound``; without a ``sign`` there is no target, without a number no verdict."""
    shown = UNKNOWN if value is None else str(value if isinstance(value, Stat) else Stat(value))
    if not sign:
        return Row(metric, shown)
    target = " ".join(filter(None, [sign, "?" if bound is None else _number(bound), note and f"({note})"]))
    if value is None or bound is None:
        return Row(metric, shown, target, UNKNOWN)
    number = value.median if isinstance(value, Stat) else value
    met = {"<=": number <= bound, ">=": number >= bound, "<": number < bound}[sign]
    return Row(metric, shown, target, REACHED if met else MISSED)


def _number(value: float) -> str:
    """Three decimals, or two significant digits where three decimals would hide a small number; exact zero is 0."""
    return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _wall(results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Wall times as ``{"wall time": {stage: text}}``, empty where there are none."""
    times = results.get("wall_s") or {}
    return {"wall time": {stage: _duration(seconds) for stage, seconds in times.items()}} if times else {}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _esc(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _title(provenance: Mapping[str, Any]) -> str:
    config = provenance.get("config") or {}
    return " ".join(["internal_rl", *(str(config[key]) for key in ("name", "preset") if key in config)])


def _table_html(lines: Sequence[Row]) -> str:
    body = "".join(
        f"<tr><th scope='row'>{_esc(line.metric)}</th><td class='num'>{_esc(line.value)}</td>"
        f"<td class='num'>{_esc(_signs(line.target))}</td><td>{_badge(line.verdict)}</td></tr>"
        for line in lines
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("metric", "value", "target", "verdict"))
    note = "Values over seeds are medians with [lower, upper] quartiles. Unsolvable layouts count as failures."
    return (
        f"<section><h2>Numbers</h2><div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div><p class='note'>{note}</p></section>"
    )


def _signs(target: str) -> str:
    return target.replace("<=", "≤").replace(">=", "≥")


def _badge(verdict: str) -> str:
    kind = {REACHED: "good", MISSED: "bad"}.get(verdict, "none")
    return f"<span class='badge {kind}'>{_esc(verdict)}</span>" if verdict else ""


def _card_html(card: Card) -> str:
    kinds = {b"\x89PNG": "png", b"GIF8": "gif"}
    kind = kinds.get(card.figure[:4])
    if kind is None:
        raise ValueError(f"the figure of {card.title!r} is neither PNG nor GIF.")
    data = base64.b64encode(card.figure).decode("ascii")
    verdict = f"<p class='verdict'>{_esc(card.verdict)}</p>" if card.verdict else ""
    return (
        f"<section class='{kind}'><h2>{_esc(card.title)}</h2>{verdict}<figure><img alt='{_esc(card.title)}' "
        f"src='data:image/{kind};base64,{data}'><figcaption>{_esc(card.caption)}</figcaption></figure></section>"
    )


def _provenance_html(provenance: Mapping[str, Any]) -> str:
    entries = "".join(
        f"<dt>{_esc(name.replace('_', ' '))}</dt><dd>{_plain(value)}</dd>"
        for name, value in provenance.items()
        if name != "config"
    )
    config = json.dumps(provenance.get("config", {}), indent=2, default=str)
    config = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), config)  # a short list on one line
    details = f"<details><summary>Resolved configuration</summary><pre>{_esc(config)}</pre></details>"
    return f"<section><h2>Provenance</h2><dl>{entries}</dl>{details}</section>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{_esc(key)}: {_esc(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return _esc(", ".join(map(str, value)))
    return _esc(value)
