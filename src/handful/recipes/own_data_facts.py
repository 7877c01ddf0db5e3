"""The recipe of own data, and what is said of them: nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handful.train.recipe import Recipe


@dataclass(frozen=True)
class Baseline:
    """The result of saying the same of every row of the test part.

    Attributes:
        metric: ``"accuracy"`` or ``"rmse"``.
        value: What it reaches.
        how: What is said.
    """

    metric: str
    value: float
    how: str


@dataclass(frozen=True)
class Facts:
    """What is told of own data.

    Attributes:
        found: What was read.
        left_out: What is not used, and why.
        predicted: The target.
        sizes: Rows of the training, validation and test parts.
        seed: What divided them.
        unit: What they are counted in, ``"rows"`` or ``"images"``.
        baseline: What a model must beat on the test part.
        schema: What the columns are, or the classes; plain values.
    """

    found: str
    left_out: tuple[str, ...]
    predicted: str
    sizes: tuple[int, int, int]
    seed: int
    unit: str
    baseline: Baseline
    schema: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield the lines that are printed before a training."""
        yield f"data    {self.found}"
        for text in self.left_out:
            yield f"        without {text}"
        yield f"target  {self.predicted}"
        train, valid, test = (f"{size:,}" for size in self.sizes)
        yield f"parts   train {train}, valid {valid}, test {test}; seed {self.seed}"
        yield f"to beat {self._describe_baseline()}"

    def result_lines(self, measured: Mapping[str, float]) -> Iterator[str]:
        """Yield the lines that are printed after a training.

        Args:
            measured: What `evaluate_run` returned for the test part.
        """
        values = ", ".join(
            f"{name.removeprefix('test_')} {value:.4g}"
            for name, value in measured.items()
            if name != "test_loss"
        )
        yield f"test    {values} on {self.sizes[2]:,} {self.unit} never trained on"
        yield f"to beat {self._describe_baseline()}"

    def _describe_baseline(self) -> str:
        return f"{self.baseline.metric} {self.baseline.value:.4g}, {self.baseline.how}"


@dataclass(frozen=True, kw_only=True)
class OwnDataRecipe(Recipe):
    """A recipe that was made for data of the user's.

    Attributes:
        facts: What was found.
        divide: Makes the recipe of the same data, divided into parts by another seed.
    """

    facts: Facts
    divide: Callable[[int], OwnDataRecipe]
