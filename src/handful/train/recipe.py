"""Recipe: what to train, said once and frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from handful.errors import ArgumentError, unknown_choice
from handful.train.choices import (
    Choice,
    check_batch_size,
    check_epochs,
    check_lr,
    check_num_workers,
    parse_loss,
    parse_optimizer,
    parse_schedule,
)
from handful.train.options import check_options

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

LAST_BATCHES = ("keep", "drop")
"""What becomes of a last batch that is smaller than the others."""

WORKER_TYPES = ("process", "thread")
"""What can read data ahead of the training."""

Splits: TypeAlias = "tuple[Dataset[Any], Dataset[Any] | None, Dataset[Any] | None]"
"""Training, validation and test data; the last two may be None."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train: data, model, loss, optimiser and settings.

    A recipe makes its data and its model anew on each call, so that every run and
    every trial of a study starts from a fresh one.

    Example:
        >>> recipe = Recipe(
        ...     name="mine",
        ...     make_data=lambda seed: (None, None, None),
        ...     make_model=lambda: None,
        ...     loss="mse",
        ...     lr=0.1,
        ... )
        >>> recipe.override(lr=0.01).lr
        0.01
    """

    name: str
    """Its name, part of the run's folder: letters, digits, ``-`` and ``_``."""

    make_data: Callable[[int], Splits]
    """``make_data(seed) -> (train, valid, test)``: map-style data sets; valid and test
    may be None."""

    make_model: Callable[[], nn.Module]
    """Make the model, its weights drawn from torch's global generator."""

    summary: str = ""
    """One line for lists."""

    loss: (
        str | Choice | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] | None
    ) = "cross_entropy"
    """A name, with arguments where wanted (``"cross_entropy:label_smoothing=0.1"``), or
    a callable of (output, target) that returns the batch's mean loss; None where
    ``options`` has a ``step``."""

    optimizer: str | Choice | Mapping[str, Any] = "adam"
    """Name of a `torch.optim` optimiser, with arguments where wanted:
    ``"sgd:momentum=0.9"``."""

    lr: float = 1e-3
    """Learning rate at the start."""

    batch_size: int | str = 32
    """Samples a step, or ``"full"``."""

    last_batch: str = "keep"
    """``"drop"`` to leave out an epoch's last batch where it is smaller."""

    num_workers: int = 0
    """How many processes or threads read the data ahead; data in arrays need none."""

    worker_type: str | None = None
    """``"process"`` or ``"thread"``; None for threads where images are read, otherwise
    processes."""

    epochs: int | None = 10
    """Passes over the training set; None where ``options`` has ``max_steps``."""

    schedule: str | Choice | Mapping[str, Any] | None = None
    """Name of a schedule, with arguments where wanted: ``"step:step_size=10"``."""

    metrics: tuple[str, ...] = ()
    """Names of the metrics measured on validation data."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Trainer` and of `Trainer.fit` by name, such as
    ``{"clip_norm": 1.0, "valid_every": 500}``; see `handful.train.options.OPTIONS`."""

    batch_transform: Callable[[Any], Any] | None = None
    """Applied to every batch, for example `handful.data.transforms.ScaleBytes`."""

    eval_transform: Callable[[Any], Any] | None = None
    """Applied instead to batches of validation and test data; None for the same, which
    must then draw no random numbers."""

    shuffle: bool = True
    """Draw a new order of the training samples each epoch."""

    class_names: tuple[str, ...] = ()
    """What the labels 0, 1, … mean."""

    batch_line: str | None = None
    """Format of the line that ``--print batch`` prints, with the fields ``step``,
    ``epoch``, ``epochs``, ``loss`` and ``lr``; None for handful's own."""

    epoch_line: str | None = None
    """Format of the line of an epoch, with the fields of its history record and
    ``epochs``; None for handful's own."""

    variants: Mapping[str, Recipe] = field(default_factory=dict)
    """Other versions of it by name, such as ``as-seed``."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ArgumentError(
                "name of a recipe must be letters, digits, - and _; "
                f"got {self.name!r}. It becomes part of a folder's name."
            )
        if self.eval_transform is None and getattr(
            self.batch_transform, "is_random", False
        ):
            raise ArgumentError(
                "eval_transform must be given when batch_transform draws random "
                f"numbers; got {self.batch_transform!r}. Give its fixed part."
            )
        check_lr(self.lr)
        check_batch_size(self.batch_size)
        check_last_batch(self.last_batch)
        check_num_workers(self.num_workers)
        if self.worker_type is not None:
            check_worker_type(self.worker_type)
        object.__setattr__(self, "optimizer", parse_optimizer(self.optimizer))
        object.__setattr__(self, "schedule", parse_schedule(self.schedule))
        object.__setattr__(self, "options", check_options(self.options))
        self._check_length()
        self._check_loss()

    def _check_length(self) -> None:
        if self.epochs is not None:
            check_epochs(self.epochs)
        elif self.options.get("max_steps") is None:
            raise ArgumentError(
                "epochs must be given unless options has max_steps; got None. "
                "Both end a training, whichever comes first."
            )

    def _check_loss(self) -> None:
        has_step = self.options.get("step") is not None
        if (self.loss is None) != has_step:
            raise ArgumentError(
                "loss must be None if options has a step, and only then: a step "
                f"computes the loss by itself; got loss={self.loss!r}."
            )
        if isinstance(self.loss, str | Mapping | Choice):
            parse_loss(self.loss)

    def override(self, **settings: Any) -> Recipe:
        """Return a copy with other settings; those that are None stay as they are.

        Args:
            **settings: Values by the names of this class's fields.

        Returns:
            The copy.

        Raises:
            ArgumentError: A setting has a value that cannot be used.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        return replace(self, **given)

    def variant(self, name: str) -> Recipe:
        """Return the variant of that name.

        Raises:
            ArgumentError: There is none.
        """
        try:
            return self.variants[name]
        except KeyError:
            raise ArgumentError(
                f"recipe {self.name!r} has no variant {name!r}; it has "
                f"{', '.join(self.variants) or 'none'}."
            ) from None


def check_last_batch(value: object, *, name: str = "last_batch") -> str:
    """Return ``"keep"`` or ``"drop"``.

    Raises:
        ArgumentError: The value is neither.
    """
    if not isinstance(value, str) or value not in LAST_BATCHES:
        raise unknown_choice(name, value, LAST_BATCHES)
    return value


def check_worker_type(value: object, *, name: str = "worker_type") -> str:
    """Return ``"process"`` or ``"thread"``.

    Raises:
        ArgumentError: The value is neither.
    """
    if not isinstance(value, str) or value not in WORKER_TYPES:
        raise unknown_choice(name, value, WORKER_TYPES)
    return value
