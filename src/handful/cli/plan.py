"""What ``handful train`` is to do, decided before torch is imported."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.cli.settings import Settings, check_recipe_and_variant, settings_differ
from handful.cli.train_flags import spell_flag
from handful.errors import ArgumentError, CheckpointError

if TYPE_CHECKING:
    from handful.runs.run import Run

RUNS = Path("runs")
"""Where runs lie unless ``--out`` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be trained, and where."""

    recipe: str
    """Name of the recipe."""

    settings: Settings
    """The settings that differ from the recipe's, or all of a resumed run."""

    run_dir: Path | None
    """The run's folder; None for a new one in `RUNS`."""

    resume: bool = False
    """Whether the run in ``run_dir`` goes on."""

    replaces: bool = False
    """Whether a run in ``run_dir`` is to be deleted."""

    allow_changed: bool = False
    """Whether a resumed run may go on to other bits than it would have."""

    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings of a resumed run that change: name -> (before, now)."""


def plan_training(
    flags: Settings,
    *,
    config: Path | None,
    out: Path | None,
    resume: bool,
    fresh: bool,
) -> Plan:
    """Decide what to train and where, or say what is wrong; writes nothing.

    Args:
        flags: What the command's flags say.
        config: The file of ``--config``.
        out: The folder of ``--out``.
        resume: Whether a run goes on.
        fresh: Whether a run in ``out`` is replaced.

    Returns:
        The plan.

    Raises:
        ArgumentError: Arguments, the configuration or ``out`` cannot be used so.
        RunError: The run to go on with is damaged.
    """
    if resume and fresh:
        raise ArgumentError(
            "--resume and --fresh must not come together: one goes on with a run, "
            "the other deletes it."
        )
    given = _merge_config(flags, config)
    if resume:
        return _plan_resume(given, out)
    name = check_recipe_and_variant(given)
    replaces = out is not None and _check_new(out, fresh=fresh)
    return Plan(recipe=name, settings=given, run_dir=out, replaces=replaces)


def check_allow_changed(value: bool, resume: bool) -> bool:
    """Return whether a resumed run may change its bits.

    Raises:
        ArgumentError: No run is resumed.
    """
    if value and not resume:
        raise ArgumentError(
            "--allow-changed must go with --resume; got it alone. A new run has "
            "nothing that could have changed."
        )
    return value


@contextmanager
def replaced_run(path: Path) -> Iterator[None]:
    """Put the run in a folder aside; delete it once a new run is there.

    Where no new run came to be, for want of data perhaps, the old one is put back.

    Raises:
        RunError: Another training uses the run.
    """
    from handful.runs.folder import holds_run, lock_run, remove_run

    lock_run(path).release()
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(aside)
    try:
        yield
    finally:
        if holds_run(path):
            remove_run(aside)
        else:
            if path.exists():
                remove_empty(path)
            aside.rename(path)


@contextmanager
def removed_unless_begun(path: Path, is_new: bool) -> Iterator[None]:
    """Leave nothing of a run that an error ended before its first step.

    Args:
        path: The run's folder.
        is_new: Whether the run began here; one that goes on is left as it is.
    """
    existed, parent_existed = path.exists(), path.parent.exists()
    try:
        yield
    except Exception:
        if is_new and _has_no_step(path):
            from handful.runs.folder import remove_run

            remove_run(path)
            if existed:
                path.mkdir(exist_ok=True)
            elif not parent_existed and not any(path.parent.iterdir()):
                path.parent.rmdir()
        raise


def _has_no_step(path: Path) -> bool:
    from handful.runs.folder import holds_run
    from handful.runs.run import Run

    if not holds_run(path) or has_checkpoint(path):
        return False
    run = Run.load(path)
    return run.status == "failed" and not len(run.steps) and not run.history


def has_checkpoint(path: Path) -> bool:
    """Say whether a run's folder has a checkpoint, valid or not."""
    return any((path / "checkpoints").glob("step-*"))


def remove_empty(path: Path) -> None:
    """Delete a folder that holds nothing but empty folders and a lock."""
    (path / "run.lock").unlink(missing_ok=True)
    for entry in path.iterdir():
        entry.rmdir()
    path.rmdir()


def _merge_config(flags: Settings, config: Path | None) -> Settings:
    if config is None:
        return flags
    # pydantic and ruamel.yaml load only for those who need them.
    from handful.cli.config import read_config

    from_file = read_config(config)
    if flags.recipe and from_file.recipe and flags.recipe != from_file.recipe:
        raise ArgumentError(
            f"RECIPE must be the one that --config names; got {flags.recipe!r} on the "
            f"command line and {from_file.recipe!r} in {config}. Leave RECIPE out, or "
            "give another file."
        )
    return from_file.updated_by(flags)


def _check_new(out: Path, *, fresh: bool) -> bool:
    """Check that a new run can lie there; return whether an old one must go."""
    from handful.runs.folder import OWN_FILES, holds_run

    if not out.exists():
        return False
    if not out.is_dir():
        raise ArgumentError(f"--out must be a folder; got the file {str(out)!r}.")
    if not holds_run(out):
        if any(out.iterdir()):
            raise ArgumentError(
                f"--out must be a run's folder, or a new or empty one; {str(out)!r} "
                "holds other files. Choose another folder."
            )
        return False
    if not fresh:
        raise ArgumentError(
            f"--out must be a new folder; {str(out)!r} holds a run. Add --resume to go "
            "on with it or --fresh to delete it and start anew."
        )
    if Path.cwd().is_relative_to(out.resolve()):
        raise ArgumentError(
            f"--out must not be the current folder with --fresh; got {str(out)!r}. "
            "Go to another folder first."
        )
    known = {*OWN_FILES, "checkpoints"}
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in known)
    if others:
        raise ArgumentError(
            f"--fresh deletes only what handful wrote; {str(out)!r} also holds "
            f"{', '.join(others[:3])}. Move that away, or choose another folder."
        )
    return True


def _plan_resume(given: Settings, out: Path | None) -> Plan:
    from handful.cli.config import read_config
    from handful.runs.salvage import load_salvaged

    path = _find_run(given, out)
    run = load_salvaged(path)
    _check_has_checkpoint(path)
    stored = read_config(path / "config.yaml")
    if stored.recipe is None and given.recipe is None:
        raise ArgumentError(
            f"RECIPE must be given to resume {str(path)!r}: that run was not trained "
            "by name."
        )
    if stored.recipe and given.recipe and stored.recipe != given.recipe:
        raise ArgumentError(
            f"--resume must go on with the same recipe; got {given.recipe!r}, and the "
            f"run in {str(path)!r} is of {stored.recipe!r}."
        )
    if given.variant is not None and given.variant != stored.variant:
        raise ArgumentError(
            f"--resume must go on with the same variant; got {given.variant!r}, and "
            f"the run in {str(path)!r} is of {stored.variant or 'none'!r}."
        )
    settings = stored.updated_by(given)
    name = check_recipe_and_variant(settings)
    newest = _newest_step(path)
    _check_left(path, _count_epochs_done(run, newest), newest, given, settings)
    changes = settings_differ(run.config, given)
    for free in ("recipe", "data", "epochs", "max_steps"):
        changes.pop(free, None)
    _check_can_change(path, newest, changes)
    return Plan(
        recipe=name, settings=settings, run_dir=path, resume=True, changes=changes
    )


def _find_run(given: Settings, out: Path | None) -> Path:
    from handful.runs.folder import find_unfinished, holds_run

    if out is not None:
        if not holds_run(out):
            what = "holds no run" if out.exists() else "does not exist"
            raise ArgumentError(
                f"--resume must have a run to go on with; {str(out)!r} {what}. "
                "Leave --resume out to start one there."
            )
        return out
    name = check_recipe_and_variant(given)
    found = find_unfinished(RUNS, name)
    if found is None:
        raise ArgumentError(
            f"--resume must have a run to go on with; {str(RUNS)!r} holds no "
            f"unfinished run of {name!r}. Name a run's folder with --out, or leave "
            "--resume out."
        )
    return found


def _check_has_checkpoint(path: Path) -> None:
    if not has_checkpoint(path):
        raise ArgumentError(
            f"--resume must have a checkpoint to go on from; the run in {str(path)!r} "
            f"ended before its first. Start anew with --fresh --out "
            f"{shlex.quote(str(path))}."
        )


def _check_left(
    path: Path, epochs: int, steps: int, given: Settings, settings: Settings
) -> None:
    """Check that a run has something left to train.

    Args:
        path: Its folder.
        epochs: Epochs done.
        steps: Steps done.
        given: What was said now.
        settings: What counts.
    """
    limits = {
        "epochs": (epochs, settings.epochs, given.epochs),
        "max_steps": (
            steps,
            settings.options.get("max_steps"),
            given.options.get("max_steps"),
        ),
    }
    for name, (done, limit, said) in limits.items():
        if not done or limit is None or limit > done:
            continue
        flag, what = spell_flag(name), name.removeprefix("max_")
        if said is not None:
            raise ArgumentError(
                f"{flag} must be above {done}, the {what} that the run in "
                f"{str(path)!r} has done; got {said}."
            )
        raise ArgumentError(
            f"--resume must have {what} left to train; the run in {str(path)!r} has "
            f"all its {done} done. Add {flag} with a number above {done}."
        )


def _newest_step(path: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 without one."""
    names = (entry.name for entry in (path / "checkpoints").glob("step-*"))
    return max((int(n[5:]) for n in names if n[5:].isdigit()), default=0)


def _count_epochs_done(run: Run, newest: int) -> int:
    """Return how many epochs the newest checkpoint has; history may be one ahead."""
    whole = (record for record in run.history if not record.get("partial"))
    kept = (record for record in whole if record.get("step", 0) <= newest)
    return max((int(record.get("epoch", 0)) for record in kept), default=0)


def _check_can_change(
    path: Path, newest: int, changes: dict[str, tuple[Any, Any]]
) -> None:
    """Refuse changes that a resumed run could not follow.

    Raises:
        ArgumentError: What decides the last bits changes; or, where the run goes on
            in mid-epoch, what decides the batches.
    """
    for name in ("num_threads", "memory_format"):
        if name in changes:
            before, now = changes[name]
            raise ArgumentError(
                f"{spell_flag(name)} must be left out with --resume; got {now}. A run "
                f"goes on with what it began with, {before}: it decides the last bits."
            )
    wrong = [name for name in ("batch_size", "seed", "last_batch") if name in changes]
    if wrong and _is_in_mid_epoch(path / "checkpoints" / f"step-{newest:08d}"):
        before, now = changes[wrong[0]]
        raise ArgumentError(
            f"{spell_flag(wrong[0])} must stay {before} until the epoch is over; got "
            f"{now}. The run in {str(path)!r} stopped inside an epoch, and other "
            "batches would repeat samples or leave some out."
        )


def _is_in_mid_epoch(checkpoint: Path) -> bool:
    from handful.train.manifest import read_manifest

    try:
        feed = read_manifest(checkpoint).get("feed", {})
    except CheckpointError:  # The training says what is wrong with it.
        return False
    return bool(feed.get("delivered"))
