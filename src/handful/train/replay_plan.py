"""The plan of a replay: what must be computed each time, and where results may lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from handful.train.program import Operation, Place, Program, find_places
from handful.train.recording import ALIGNMENT

VALUELESS = frozenset(
    {"ones_like", "zeros_like", "full_like", "empty_like", "new_empty", "new_zeros"}
    | {"new_ones", "new_full", "empty_strided", "new_empty_strided", "empty"}
)
"""Operations whose result does not depend on the numbers of their tensors."""

UNFILLED = frozenset({"empty_like", "new_empty", "empty_strided", "empty"})
"""Of those, the ones whose result has no numbers yet."""


@dataclass(frozen=True)
class Plan:
    """What a replay does.

    Attributes:
        order: Operations to call, in their order.
        constants: Operations to call once, before.
        folded: The memories that these make, whose numbers are there from then on.
        last_use: For each memory that an operation makes, the last one that needs it.
    """

    order: tuple[int, ...]
    constants: tuple[int, ...]
    folded: frozenset[int]
    last_use: dict[int, int]


def make_plan(program: Program) -> Plan:
    """Return what has to be computed for a program's results."""
    needed = _find_needed(program)
    folded = _find_folded(program, needed)
    made = {index: is_made_by(program, index) for index in needed}
    constants = [index for index in needed if made[index] and made[index] <= folded]
    order = [index for index in needed if index not in set(constants)]
    last_use: dict[int, int] = {}
    for index in order:
        operation = program.operations[index]
        for place in [*operation.places, *filter(None, operation.outputs)]:
            last_use[place.memory] = index
    for place in find_places(program.results):
        last_use[place.memory] = len(program.operations)
    return Plan(tuple(order), tuple(constants), frozenset(folded), last_use)


def is_made_by(program: Program, index: int) -> set[int]:
    """Return the memories that an operation makes."""
    return {
        place.memory
        for place in program.operations[index].outputs
        if place is not None
        and program.memories[place.memory].kind == "made"
        and program.memories[place.memory].source[0] == index
    }


def share_blocks(
    sizes: Sequence[tuple[int, int, int, int]],
) -> tuple[dict[int, int], list[int]]:
    """Give memories blocks, the same one to those that are not needed together.

    Args:
        sizes: Of each memory, in the order in which they are made: its number, its
            bytes, the operation that makes it and the last that needs it.

    Returns:
        Memory -> block, and the bytes of each block.
    """
    blocks: dict[int, int] = {}
    totals: list[int] = []
    busy_until: list[int] = []
    for memory, size, made_at, needed_until in sizes:
        free = [b for b in range(len(totals)) if busy_until[b] < made_at]
        # The smallest that is large enough, but no more than twice of it.
        fitting = [b for b in free if size <= totals[b] <= 2 * size]
        if fitting:
            block = min(fitting, key=totals.__getitem__)
        else:
            block = len(totals)
            totals.append(-(-size // ALIGNMENT) * ALIGNMENT)
            busy_until.append(-1)
        blocks[memory] = block
        busy_until[block] = needed_until
    return blocks, totals


def _find_needed(program: Program) -> list[int]:
    """Return the operations whose effect is seen after the program, in their order."""
    needed = {place.memory for place in find_places(program.results)}
    order: list[int] = []
    for index in reversed(range(len(program.operations))):
        operation = program.operations[index]
        if not _is_needed(program, operation, needed):
            continue
        order.append(index)
        needed |= {place.memory for place in operation.places}
    return order[::-1]


def _is_needed(program: Program, operation: Operation, needed: set[int]) -> bool:
    written = operation.written
    if operation.is_random or any(
        program.memories[memory].kind != "made" for memory in written
    ):
        return True
    if any(_is_index(place) for place in operation.places):
        return True  # it may find one that is out of range, and say so
    gives = {place.memory for place in operation.outputs if place is not None}
    return bool((gives | set(written)) & needed)


def _find_folded(program: Program, order: Sequence[int]) -> set[int]:
    """Return the memories that have the same numbers in each run."""
    written = {m for index in order for m in program.operations[index].written}
    folded: set[int] = set()
    for index in order:
        operation = program.operations[index]
        made = is_made_by(program, index)
        if not made or operation.is_random or operation.written:
            continue
        is_fixed = operation.name in VALUELESS or all(
            place.memory in folded - written for place in operation.places
        )
        unwritten = not made & written or operation.name in UNFILLED
        if is_fixed and unwritten:
            folded |= made
    return folded


def _is_index(place: Place) -> bool:
    dtype = place.dtype
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def is_dense(place: Place) -> bool:
    """Say whether a tensor fills its memory from the beginning without gaps."""
    if place.offset:
        return False
    count = 1
    pairs = sorted(zip(place.stride, place.shape, strict=True))
    for stride, size in pairs:
        if size != 1 and stride != count:
            return False
        count *= size
    return count > 0


def num_bytes(place: Place) -> int:
    """Return the bytes of a tensor without gaps."""
    size = torch.empty(0, dtype=place.dtype).element_size()
    for length in place.shape:
        size *= length
    return size
