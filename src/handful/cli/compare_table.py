"""The table of a study: a line for each cell, and what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from handful.cli.tables import format_figure, format_table
from handful.runs.study import Study
from handful.runs.study_agreement import Agreement, measure_agreement
from handful.runs.study_row import format_setting, format_settings
from handful.runs.study_table import Cell, Summary

_GAP = 2  # between columns, as `format_table` has it


@dataclass(frozen=True)
class _Column:
    """A heading and a text for each cell of the study."""

    header: str
    texts: list[str]

    @property
    def width(self) -> int:
        return max(map(len, [self.header, *self.texts]))


def describe_study(study: Study, *, width: int | None = None) -> str:
    """Return a study as text: what was the same, a line per cell, and how to read it.

    Args:
        study: The study.
        width: Characters of a line; a table that is wider goes on below, the settings
            repeated. None for any.
    """
    cells = study.table()
    settings = _setting_columns(study, cells)
    tables = [
        format_table(
            [column.header for column in block],
            list(zip(*(column.texts for column in block), strict=True)),
            left=len(settings),
        )
        for block in _split_columns(settings, _value_columns(study, cells), width)
    ]
    return "\n\n".join([_describe_setup(study), *tables, "\n".join(_notes(study))])


def choose_name(study: Study) -> str:
    """Return the loss by which a study's cells are told apart."""
    return "valid_loss" if "valid_loss" in study.names else "train_loss"


def _describe_setup(study: Study) -> str:
    """Return what was the same for all trials: ``wine  optimizer=sgd  5 epochs``."""
    parts = [study.recipe, *_shared(study)]
    epochs = study.epochs or study.settings.get("epochs")
    if study.budget is not None:
        parts.append(f"budget {study.budget}")
    elif epochs and not {"epochs", "max_steps"} & set(study.axes):
        parts.append("1 epoch" if epochs == 1 else f"{epochs} epochs")
    seeds = study.seeds
    parts.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")
    return "  ".join(parts)


def _shared(study: Study) -> list[str]:
    """Return the settings that a study names and doesn't vary."""
    return [
        format_settings({name: values[0]})
        for name, values in study.axes.items()
        if name not in _varied(study)
    ]


def _varied(study: Study) -> list[str]:
    """Return the axes of several values; all where none has."""
    several = [name for name, values in study.axes.items() if len(values) > 1]
    return several or list(study.axes)


def _setting_columns(study: Study, cells: Sequence[Cell]) -> list[_Column]:
    return [
        _Column(name, [format_setting(cell.settings[name]) for cell in cells])
        for name in _varied(study)
    ]


def _value_columns(study: Study, cells: Sequence[Cell]) -> list[_Column]:
    names = [n for n in study.names if n.startswith(("train_", "valid_"))]
    columns = [
        _Column(
            name, [_describe_summary(name, cell.values.get(name)) for cell in cells]
        )
        for name in names
    ]
    columns.append(_seconds_column("seconds", [cell.seconds for cell in cells]))
    columns += _agreement_columns(measure_agreement(study))
    counts = {
        "diverged": [cell.num_diverged for cell in cells],
        "failed": [cell.num_failed for cell in cells],
    }
    for header, found in counts.items():
        if any(found):
            columns.append(_count_column(study, header, found))
    if study.target:
        columns.append(
            _count_column(study, study.target, [cell.num_reached for cell in cells])
        )
        times = [cell.target_seconds for cell in cells]
        columns.append(_seconds_column("after seconds", times))
    return columns


def _count_column(study: Study, header: str, counts: Sequence[int]) -> _Column:
    return _Column(header, [f"{count} of {len(study.seeds)}" for count in counts])


def _agreement_columns(found: Sequence[Agreement]) -> list[_Column]:
    if not found:
        return []
    times = [one.step_seconds for one in found]
    return [
        _Column("µs/step", [_describe_microseconds(time) for time in times]),
        _Column("weights differ", [_describe_difference(a.weights) for a in found]),
        _Column("losses differ", [_describe_difference(a.losses) for a in found]),
    ]


def _describe_microseconds(seconds: Summary | None) -> str:
    if seconds is None:
        return "-"
    spread = "" if math.isnan(seconds.std) else f" ± {seconds.std * 1e6:,.0f}"
    return f"{seconds.mean * 1e6:,.0f}{spread}"


def _describe_difference(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"


def _describe_summary(name: str, summary: Summary | None) -> str:
    if summary is None:
        return "-"
    mean = format_figure(name, summary.mean)
    if math.isnan(summary.std):
        return mean
    return f"{mean} ± {format_figure(name, summary.std)}"


def _seconds_column(header: str, times: Sequence[Summary | None]) -> _Column:
    """Return mean times with as many digits as the least one needs to have two."""
    means = [time.mean for time in times if time and 0 < time.mean < math.inf]
    least = min(means, default=1.0)
    digits = min(max(1 - math.floor(math.log10(least)), 1), 6)
    texts = ["-" if time is None else f"{time.mean:.{digits}f}" for time in times]
    return _Column(header, texts)


def _split_columns(
    settings: list[_Column], values: Sequence[_Column], width: int | None
) -> list[list[_Column]]:
    """Return the columns of each table, as many as fit, each with the settings."""
    start = sum(column.width + _GAP for column in settings)
    blocks, used = [list(settings)], start
    for column in values:
        is_first = len(blocks[-1]) == len(settings)
        if width is not None and not is_first and used + column.width > width:
            blocks.append(list(settings))
            used = start
        blocks[-1].append(column)
        used += column.width + _GAP
    return blocks


def _notes(study: Study) -> list[str]:
    """Return how the table is to be read, and which cell is best."""
    is_mean = len(study.seeds) > 1
    values = "mean ± standard deviation over the seeds" if is_mean else "one seed"
    if any(row.status != "finished" for row in study.rows):
        values += ", of the trials that finished"
    mean = "mean, " if is_mean else ""
    notes = [
        f"Values: {values}.",
        f"Seconds: {mean}of training alone, without validation.",
    ]
    if any(row.status == "diverged" for row in study.rows):
        notes.append("Diverged: a loss became NaN or infinite.")
    if study.target:
        notes.append(
            f"After seconds: {mean}until {study.target}, where it was reached."
        )
    if "backend" in study.axes:
        first = f"backend={study.axes['backend'][0]}"
        notes.append(f"Differ: greatest distance from {first}, of weights, of losses.")
    return [*notes, *_best_note(study)]


def _best_note(study: Study) -> list[str]:
    name = choose_name(study)
    best = study.best(name) if name in study.names else None
    if best is None or len(study.cells) == 1:
        return []
    shown = format_settings({key: best.settings[key] for key in _varied(study)})
    value = _describe_summary(name, best.values[name])
    return [f"Best {name}: {value} with {shown}."]
