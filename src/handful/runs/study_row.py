"""Row: one trial of a study, a line of its ``rows.jsonl``; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from handful.errors import RunError
from handful.runs.files import to_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: a run of the recipe with the settings of a cell and a seed."""

    settings: dict[str, Any]
    """The varied settings, as plain values."""

    seed: int
    """Seed of the split, the initial weights, the order and random layers."""

    status: str
    """``finished``, ``diverged`` (a loss was NaN or infinite) or ``failed``."""

    reason: str | None = None
    """Why it diverged or failed, in a sentence."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """The records of `Run.history`, each with ``trained_seconds``: seconds of training
    alone since the start."""

    seconds: float = 0.0
    """Seconds of training alone: data, validation and measurements are left out."""

    steps: int = 0
    """Optimisation steps done."""

    samples: int = 0
    """Samples trained on, each as often as it was seen."""

    epoch_samples: int | None = None
    """Samples of a whole epoch; None where the trial didn't get so far."""

    final: dict[str, float] = field(default_factory=dict)
    """The last value of each loss and metric of the history."""

    best: dict[str, float] = field(default_factory=dict)
    """The best value of each."""

    target: dict[str, float] | None = None
    """Where the target was first reached: ``epoch``, ``step``, ``samples``,
    ``seconds`` (of training alone); None if never."""

    train_eval: dict[str, float] = field(default_factory=dict)
    """``loss`` and metrics of the training data at the end, measured in `eval` mode."""

    generalization_gap: float | None = None
    """Final ``valid_loss`` less the ``loss`` of `train_eval`."""

    noise_start: dict[str, float | None] | None = None
    """Gradient noise before the first step; see `handful.studies.gradient_noise`."""

    noise_end: dict[str, float | None] | None = None
    """Gradient noise after the last step."""

    peak_memory_bytes: int | None = None
    """Most memory of the process, while it trained and validated, beyond what it had
    before the trial; None where the system doesn't tell."""

    identity: dict[str, Any] = field(default_factory=dict)
    """What the last bits of the numbers depend on."""

    weights: list[float] | None = None
    """The last weights, laid end to end in the order of the model's parameters; None
    where ``backend`` is not varied, whose rows alone are compared by them."""

    @property
    def key(self) -> tuple[str, int]:
        """What tells this trial from the study's others."""
        return settings_key(self.settings), self.seed


def settings_key(settings: Mapping[str, Any]) -> str:
    """Return a text that is the same for equal settings only."""
    return to_json(dict(sorted(settings.items())))


def format_setting(value: Any) -> str:
    """Return a setting as it is typed: ``sgd:momentum=0.9``, ``full``, ``none``."""
    if isinstance(value, Mapping) and "name" in value:
        args = ",".join(
            f"{k}={format_setting(v)}" for k, v in value.items() if k != "name"
        )
        return f"{value['name']}:{args}" if args else str(value["name"])
    if isinstance(value, list | tuple):
        return ";".join(map(format_setting, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as ``batch_size=10 lr=0.01``."""
    return " ".join(f"{k}={format_setting(v)}" for k, v in settings.items())


def row_to_json(row: Row) -> str:
    """Return a row as a line of ``rows.jsonl``, without its end."""
    return to_json(asdict(row))


def build_from(kind: type[T], values: Mapping[str, Any], *, file: Path) -> T:
    """Make a dataclass of what a file has of its fields; unknown keys are left out.

    Raises:
        RunError: The file lacks a field.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{k: v for k, v in values.items() if k in known})
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise RunError(f"{file} lacks {missing}; the file is damaged.") from None
