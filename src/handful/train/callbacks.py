"""Callbacks: code of the user's that runs during a training; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from handful.runs.run import Run

__all__ = ["Callback", "FitState"]


@dataclass(slots=True)
class FitState:
    """Where a training stands: one object for the whole fit, updated in place.

    Copy what you want to keep; the next step overwrites it.
    """

    run: Run
    """The run so far."""

    epochs: int | None
    """Epochs of the whole run; None when only steps were asked for."""

    steps_per_epoch: int | None
    """Steps of an epoch; None when the loader has no length."""

    max_steps: int | None = None
    """Steps after which the run ends; None when only epochs were asked for."""

    epoch: int = 0
    """The current epoch, from 1 on; 0 before the first."""

    step: int = 0
    """Optimisation steps done in the whole run."""

    samples: int = 0
    """Samples seen in the whole run."""

    lr: float = 0.0
    """Learning rate of the last step, that of the first group of parameters."""

    loss: Any = None
    """Mean loss of the last step, a tensor of shape ``()`` on the training's device;
    None before the first step. Reading it (``float(state.loss)``) waits for the
    device, so don't read it at each step of a fast training."""

    model: Any = None
    """The model, on the training's device."""

    optimizer: Any = None
    """The optimiser."""

    stop: str | None = None
    """Set it to a reason, and the training ends after the current step."""


class Callback:
    """Base of callbacks: override the methods that you need.

    A training calls them in the thread that trains. An exception raised in one ends
    the training. `on_gradients` and `on_step` are called only where a class overrides
    them, so that a callback for epochs costs nothing per step::

        on_run_start
          for each step:    forward, backward, on_gradients, update, on_step
          for each epoch:   validation, on_epoch_end
          in between, where validation is asked for every few steps:
                            validation, on_validation
        on_run_end

    Example:
        >>> class Best(Callback):
        ...     "Keep the lowest validation loss."
        ...
        ...     def __init__(self):
        ...         self.loss = float("inf")
        ...
        ...     def on_epoch_end(self, state, record):
        ...         self.loss = min(self.loss, record["valid_loss"])
        >>> best = Best()
        >>> best.on_epoch_end(None, {"epoch": 1, "valid_loss": 0.25})
        >>> best.loss
        0.25
    """

    sees_each_step: ClassVar[bool] = True
    """Whether `on_step` has to be called after each step, or is content to be called
    after several at most a tenth of a second apart."""

    def on_run_start(self, state: FitState) -> None:
        """Act before the first step; of a resumed run, before the first new one."""

    def on_gradients(self, state: FitState) -> None:
        """Act when the gradients are there, before they are clipped and used."""

    def on_step(self, state: FitState) -> None:
        """Act after an optimisation step."""

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Act after a validation in the middle of an epoch.

        Args:
            state: Where the training stands.
            record: The line of the history, which has ``partial``: true.
        """

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Act after an epoch and its validation.

        Args:
            state: Where the training stands.
            record: The epoch's line of the history: ``epoch``, ``train_loss`` and so
                on.
        """

    def on_run_end(self, state: FitState) -> None:
        """Act at the end, also after an error or Ctrl-C."""


def overrides(callback: Callback, moment: str) -> bool:
    """Say whether a callback's class overrides a moment of `Callback`."""
    return getattr(type(callback), moment) is not getattr(Callback, moment)


def is_foreign(value: object) -> bool:
    """Say whether an object's class is neither handful's nor torch's."""
    return type(value).__module__.partition(".")[0] not in ("handful", "torch")
