"""The state of a whole training: taken into a checkpoint, and put back from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handful.errors import CheckpointError, HandfulError
from handful.train.checkpoint import Checkpoint
from handful.train.generators import capture_generators, restore_generators

if TYPE_CHECKING:
    from handful.train.loop import Loop


def capture(loop: Loop) -> Checkpoint:
    """Return the state of a training, with its own tensors.

    Its progress is the checkpoint's own, but for the states of generators, which are
    as `pack_within` takes them.
    """
    state, averages = loop.state, loop.averages
    return Checkpoint(
        model=loop.model.state_dict(),
        optimizer=loop.optimizer.state_dict(),
        averages={} if averages is None else averages.state_dict(),
        progress={
            "step": state.step,
            "epoch": state.epoch,
            "samples": state.samples,
            "lr": state.lr,
            "seconds": loop.seconds_since_record,
            "records": len(state.run.history),
            "ending": loop.ending,
            "generators": capture_generators(),
            "feed": loop.feed.state_dict(),
            "log": loop.log.state_dict(),
            "observed": loop.observed.state_dict() if loop.feed.delivered else {},
            "precision": loop.precision.state_dict(),
            "nonfinite": {} if loop.nonfinite is None else loop.nonfinite.state_dict(),
            "micro_batch_size": loop.memory.size,
            "schedule": loop.rates.state_dict(),
            "averages": {} if averages is None else averages.progress,
        },
    )


def restore(loop: Loop, checkpoint: Checkpoint) -> None:
    """Put a training back to a checkpoint.

    What was recorded only because the run ended there is forgotten if it now goes on:
    a run that is continued is the run that was never stopped.

    Args:
        loop: The training, which has not begun; its run has the history.
        checkpoint: What `capture` returned, by way of the disk.

    Raises:
        CheckpointError: The checkpoint is of another model, optimiser or loader.
    """
    _check_optimizer(loop, checkpoint)
    try:
        _restore_weights(loop, checkpoint)
        _restore_places(loop, checkpoint)
        _restore_history(loop, checkpoint.progress.get("ending"))
    except HandfulError:
        raise
    except _MISFITS as error:
        reason = str(error).replace("\n", " ")
        raise CheckpointError(
            f"the checkpoint of {loop.state.run.path} does not fit: {reason}"
        ) from None
    loop.recorder.restore_kept(loop.monitor.best_step)


_MISFITS = (RuntimeError, LookupError, TypeError, ValueError, AttributeError)
"""What restoring a state of something else may raise."""


def _check_optimizer(loop: Loop, checkpoint: Checkpoint) -> None:
    kernel = str(checkpoint.progress.get("identity", {}).get("optimizer_kernel", ""))
    name = kernel.partition(" ")[0]
    if name not in ("", type(loop.optimizer).__name__):
        raise CheckpointError(
            f"optimizer must be the one that {loop.state.run.path} was trained with; "
            f"got {type(loop.optimizer).__name__}, and its state is of {kernel}."
        )
    _check_groups(
        [len(group["params"]) for group in checkpoint.optimizer["param_groups"]],
        [len(group["params"]) for group in loop.optimizer.param_groups],
    )


def _check_groups(saved: list[int], here: list[int]) -> None:
    """Compare the parameters of each group, of a checkpoint and of the optimiser."""
    if len(saved) != len(here):
        raise CheckpointError(
            f"the optimizer of the checkpoint had {_count(len(saved), 'group')} of "
            f"parameters, here {len(here)}. Groups that a callback added must be there "
            "before fit: give the Trainer an optimizer that has them all."
        )
    for number, (before, now) in enumerate(zip(saved, here, strict=True)):
        if before != now:
            raise CheckpointError(
                f"group {number} of the checkpoint's optimizer had "
                f"{_count(before, 'parameter')}, here {now}. Give the Trainer an "
                "optimizer with the same parameters in each group."
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _restore_weights(loop: Loop, checkpoint: Checkpoint) -> None:
    loop.model.load_state_dict(checkpoint.model)
    saved = dict(checkpoint.optimizer)
    if not loop.rates.changes_groups:  # the optimiser's own settings count
        saved["param_groups"] = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict(saved)
    if loop.averages is not None and checkpoint.averages:
        progress = checkpoint.progress["averages"]
        loop.averages.load_state_dict(checkpoint.averages, progress)


def _restore_places(loop: Loop, checkpoint: Checkpoint) -> None:
    state, progress = loop.state, checkpoint.progress
    loop.feed.load_state_dict(progress.get("feed", {}))
    loop.log.load_state_dict(progress.get("log", {}))
    if progress.get("observed"):
        loop.observed.load_state_dict(progress["observed"])
    loop.precision.load_state_dict(progress.get("precision", {}))
    loop.memory.go_on_with(progress.get("micro_batch_size"))
    if loop.nonfinite is not None:
        loop.nonfinite.load_state_dict(progress.get("nonfinite", {}))
    loop.rates.load_state_dict(progress.get("schedule", {}))
    restore_generators(progress["generators"])
    state.step = int(progress["step"])
    state.epoch = int(progress["epoch"])
    state.samples = int(progress["samples"])
    state.lr = float(progress.get("lr", loop.rates.lr))
    loop.carried_seconds = float(progress.get("seconds", 0.0))


def _restore_history(loop: Loop, ending: str | None) -> None:
    """Go through the history; if the run goes on, without its ending."""
    history = loop.state.run.history
    rest = _without_ending(history, ending)
    loop.review(rest)
    if loop.is_done():
        loop.review(history[-1:])
        return
    if ending == "record":
        loop.carried_seconds += history[-1].get("seconds", 0.0)
    history[:] = rest


def _without_ending(
    history: list[dict[str, Any]], ending: str | None
) -> list[dict[str, Any]]:
    if ending is None:
        return list(history)
    rest, last = history[:-1], history[-1]
    if ending == "validation":
        rest.append({k: v for k, v in last.items() if not k.startswith("valid_")})
    return rest
