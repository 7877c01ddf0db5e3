"""Loader advice: what holds a loader up, and what to do, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from handful.data.loader_candidates import COLUMNS, HANDFUL
from handful.data.loader_parts import SampleParts
from handful.data.loader_trials import AS_IT_IS, Trial

CAUSES = (
    *("slow decode", "slow transform", "tiny rows", "slow disk"),
    *("slow model", "pickling cost", "nothing"),
)
"""What `find_cause` returns."""

LITTLE_WAITING = 0.1
"""A step that waits for less than this share of its time has no need of more."""

TINY_SECONDS, TINY_BYTES = 1e-4, 2**16
"""A row is tiny if making it takes less, and its arrays are not larger."""

WORTHWHILE = 1.1
"""Settings are advised that give at least so many times as many samples a second."""

AS_GOOD = 0.95
"""Of settings that reach this share of the best rate, the simplest is taken."""

_HINTS = {
    "slow decode": "smaller files, or samples decoded once and kept, would help",
    "slow transform": "a cheaper transform, or one of whole batches, would help",
    "tiny rows": "a data set with __getitems__, for a batch at once, would help",
    "slow disk": "a nearer copy of the data, or larger files, would help",
    "pickling cost": "smaller samples, or tensors in place of objects, would help",
}


def find_cause(
    parts: SampleParts | None,
    *,
    waiting: float | None = None,
    transforming: float | None = None,
) -> str:
    """Name what holds a loader up; the definitions stand in `LoaderProfile`.

    Args:
        parts: What a sample costs; None where samples are gathered from arrays.
        waiting: Share of its time that the step waits for data; None without a step.
        transforming: Of samples from arrays, the share of the time that the loader's
            ``batch_transform`` takes.

    Returns:
        One of `CAUSES`.
    """
    if waiting is not None and waiting < LITTLE_WAITING:
        return "slow model"
    if parts is None:
        is_slow = transforming is not None and transforming >= 0.5
        return "slow transform" if is_slow else "nothing"
    if parts.sending is not None and parts.sending > parts.making:
        return "pickling cost"
    if parts.waiting >= parts.making / 2:
        return "slow disk"
    if parts.making < TINY_SECONDS and parts.num_bytes <= TINY_BYTES:
        return "nothing" if parts.is_read_at_once else "tiny rows"
    return "slow transform" if _is_transform(parts) else "slow decode"


def _is_transform(parts: SampleParts) -> bool:
    own = (parts.collating or 0.0) if parts.is_collated_by_user else 0.0
    if own >= parts.making / 2:
        return True
    if parts.transforming is not None:
        return parts.transforming + own >= parts.making / 2
    return parts.locked >= 0.5


def choose_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial to advise: nearly the best, and the simplest of those.

    Args:
        trials: What was measured, all alone or all with the step; the first is the
            loader as it is.
    """
    best = max(trial.score for trial in trials)
    if trials[0].score * WORTHWHILE > best:
        return trials[0]
    good = [trial for trial in trials if trial.score >= AS_GOOD * best]
    return min(good, key=lambda trial: (trial.cost, -trial.score))


def write_advice(
    cause: str,
    chosen: Trial | None,
    gain: float,
    *,
    waiting: float | None = None,
    has_step: bool = False,
    lacked_time: bool = False,
) -> str:
    """Return the one sentence that says what to do.

    Args:
        cause: What holds the loader up.
        chosen: The settings to take; None where there was nothing to choose from.
        gain: How many times as many samples a second they gave.
        waiting: Share of its time that the step waits for data.
        has_step: Whether the rates are those of training.
        lacked_time: Whether settings were left out because the time was over.
    """
    if cause == "slow model" and waiting is not None:
        most = 1 / max(1 - waiting, 0.5)
        return (
            f"Leave the loader as it is: the step waits for data {waiting:.0%} of its "
            f"time, so that no loader could train more than {most:.2f} times as fast."
        )
    if chosen is None or chosen.name == AS_IT_IS:
        hint = _HINTS.get(cause)
        tail = f"; {hint}" if hint else ""
        tried = "nothing measured is clearly faster"
        if lacked_time:
            tried += ", though more time would allow more to be measured"
        if chosen is None:
            tried = "it has no settings that could be varied"
        return f"Leave the loader's settings as they are: {tried}{tail}."
    what = "samples trained a second" if has_step else "samples a second"
    return f"{describe_change(chosen)}: {gain:.3g} times as many {what} (measured)."


def describe_change(trial: Trial) -> str:
    """Return what is to be done for a trial's settings, as the start of a sentence."""
    settings = trial.settings
    listed = [f"{name}={value!r}" for name, value in settings.items()]
    text = ", ".join(listed[:-1]) + " and " * bool(listed[1:]) + "".join(listed[-1:])
    if settings.get("worker_type") == "thread":
        text += ", if the data set may be read by several threads at a time"
    if trial.needs == COLUMNS:
        begin = "Put the samples in arrays (handful.Columns) for handful.DataLoader"
        return f"{begin}, with {text}" if text else begin
    if trial.needs == HANDFUL:
        begin = "Import DataLoader from handful in place of PyTorch's"
        return f"{begin}, with {text}" if text else begin
    return f"Set {text}"
