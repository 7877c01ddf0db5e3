"""Copies of a training's state that wait to be saved, and the memory that they use."""

from __future__ import annotations

from collections.abc import Iterable

from handful.train.checkpoint import Checkpoint
from handful.train.snapshot import copy_checkpoint


class WaitingStates:
    """The newest state and the best one, as copies, where they are not on the disk yet.

    Memory of copies that nobody needs any more is used for the next.

    Attributes:
        last: The newest.
        best: The best, often the same.
    """

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.best: Checkpoint | None = None
        self._spare: list[Checkpoint] = []

    def copy(self, checkpoint: Checkpoint, *, is_best: bool) -> None:
        """Copy a state into memory that nobody refers to, interrupted or not."""
        self._release_last()
        if is_best:
            self._release_best()
        spare = self._spare.pop() if self._spare else None
        copied = copy_checkpoint(checkpoint, spare)
        self.last = copied
        if is_best:
            self.best = copied

    def take(self) -> list[Checkpoint]:
        """Return what waits, the oldest first; it is the caller's from now on."""
        found = {step_of(c): c for c in (self.best, self.last) if c is not None}
        self.best = self.last = None
        return [found[step] for step in sorted(found)]

    def forget(self) -> None:
        """Let what waits be overwritten."""
        self._release_last()
        self._release_best()

    def give_back(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Let what was taken be overwritten."""
        self._spare.extend(checkpoints)

    def put_back(
        self, checkpoints: Iterable[Checkpoint], best_step: int | None
    ) -> None:
        """Let what was taken wait again, as far as nothing newer took its place.

        Args:
            checkpoints: What `take` returned.
            best_step: The step of the best state so far.
        """
        for checkpoint in checkpoints:
            is_needed = False
            if self.best is None and step_of(checkpoint) == best_step:
                self.best, is_needed = checkpoint, True
            if self.last is None or step_of(self.last) < step_of(checkpoint):
                self._release_last()
                self.last, is_needed = checkpoint, True
            if not is_needed:
                self._spare.append(checkpoint)

    def _release_last(self) -> None:
        last, self.last = self.last, None
        if last is not None and last is not self.best:
            self._spare.append(last)

    def _release_best(self) -> None:
        best, self.best = self.best, None
        if best is not None and best is not self.last:
            self._spare.append(best)


def step_of(checkpoint: Checkpoint) -> int:
    """Return the step that a state is of."""
    return int(checkpoint.progress["step"])
