"""Steps that do not fit into memory: an error that says what to do, or smaller parts.

::

    keep generators and buffers
    forward, backward of all micro-batches   - out of memory -> put all back,
    clip, update                                halve the micro-batch, again

A process that the system kills for memory learns nothing of it: only what an allocator
refuses can be met here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from handful.errors import TrainingError
from handful.train.batches import count_samples
from handful.train.checks import notes_on_accumulation
from handful.train.engine import EagerEngine, StepResult
from handful.train.feed import Feed
from handful.train.generators import capture_generators, put_back_generators
from handful.train.kept_buffers import KeptBuffers
from handful.train.memory_errors import (
    describe_request,
    free_memory,
    is_out_of_memory,
)
from handful.train.train_metrics import TrainMetrics


class StepMemory:
    """Does steps, and meets those that do not fit into memory.

    Args:
        policy: ``"raise"``, or ``"split"`` to halve the micro-batch until the step
            fits; the smaller size stays.
        engine: Does the steps.
        feed: Has handed out the micro-batches, and cuts them anew.
        model: The model.
        observed: Looks at the outputs; None for nothing.
        on_split: Takes a sentence that says what was done.

    Attributes:
        size: Most samples that go through the model at once, None as long as every
            step has fitted.
        splits: Whether a step may be split.
    """

    def __init__(
        self,
        policy: str,
        *,
        engine: EagerEngine,
        feed: Feed,
        model: nn.Module,
        observed: TrainMetrics | None,
        on_split: Callable[[str], None],
    ) -> None:
        self.size: int | None = None
        self.splits = policy == "split"
        self._engine = engine
        self._feed = feed
        self._model = model
        self._observed = observed
        self._on_split = on_split
        self._buffers: KeptBuffers | None = None

    def step(self, batches: Sequence[Any]) -> StepResult:
        """Do a step.

        Args:
            batches: The step's micro-batches.

        Raises:
            TrainingError: It does not fit, and may not or can't be split further.
        """
        put_back = self._keep() if self.splits else None
        while True:
            try:
                return self._engine.step(batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                asked = describe_request(error)
            # The error is gone, and with it what its traceback held.
            size = max(map(count_samples, batches))
            if put_back is None or self._engine.is_filled or size == 1:
                raise self._explain(asked, size)
            put_back()
            batches = self._halve(size, asked)

    def go_on_with(self, size: int | None) -> None:
        """Let at most so many samples go through the model at once, as a run had it."""
        if size is not None:
            self.size = size
            self._feed.limit_micro_batches(size)

    def _keep(self) -> Callable[[], None]:
        """Return what puts back all that an attempt changes."""
        if self._buffers is None:
            self._buffers = KeptBuffers(self._model)
        buffers, generators = self._buffers, capture_generators()
        buffers.keep()
        observed = None if self._observed is None else self._observed.state_dict()

        def put_back() -> None:
            self._engine.recover()
            buffers.put_back()
            put_back_generators(generators)
            if self._observed is not None and observed is not None:
                self._observed.start()
                self._observed.load_state_dict(observed)
            free_memory()

        return put_back

    def _halve(self, size: int, asked: str) -> list[Any]:
        self.size = size // 2
        self._feed.limit_micro_batches(self.size)
        batches = self._feed.split_again()
        note = notes_on_accumulation(self._model)
        said = (
            f"A step with {size} samples at once did not fit into memory ({asked}); it "
            f"was begun anew, and from it on {self.size} go through the model at once."
        )
        self._on_split(said if note is None else f"{said} {note}")
        return batches

    def _explain(self, asked: str, size: int) -> TrainingError:
        said = f"a step with {size} samples at once must fit into memory; {asked}."
        if self._engine.is_filled:
            return TrainingError(
                f"{said} The gradients were there: the optimizer's update did not fit. "
                "Take an optimizer that keeps less, such as sgd, or a smaller model."
            )
        if size == 1:
            return TrainingError(f"{said} It can't be split: take a smaller model.")
        return TrainingError(
            f"{said} Set micro_batch_size={size // 2}, or on_out_of_memory='split', "
            "which finds the size; the gradients stay those of the whole batch."
        )
