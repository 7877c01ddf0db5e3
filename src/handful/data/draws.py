"""Draws: the random numbers that PyTorch's loader draws for one pass.

PyTorch draws two numbers: a seed for workers when the iterator is made, and a seed of
the order when the first index is asked for; a loader with a generator of its own draws
the order itself from it. `Draws` draws the same numbers at the same moments, remembers
them for a state, and repeats them for a pass that goes on from one.
"""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor


class Draws:
    """The numbers of one pass, drawn now or remembered.

    Args:
        generator: The loader's own generator; None for torch's global one.
        state: What `begun` or `ahead` returned, for a pass that is to be repeated.
        base_seed: The workers' seed where they go on from the pass before, for which
            none is drawn.

    Attributes:
        base_seed: The workers' seed.
    """

    def __init__(
        self,
        generator: torch.Generator | None,
        state: dict[str, Any] | None = None,
        *,
        base_seed: int | None = None,
    ) -> None:
        known = state or {}
        self._own = generator
        self._order_seed: int | None = known.get("order_seed")
        self._private: torch.Generator | None = None
        if "generator" in known and generator is not None:
            generator.set_state(unpack_bytes(known["generator"]))
        elif "generator" in known:
            # The global generator moves on as it would; the numbers are the state's.
            self._private = torch.Generator()
            self._private.set_state(unpack_bytes(known["generator"]))
        if base_seed is None:
            base_seed = known.get("base_seed")
        self.base_seed = self._draw() if base_seed is None else int(base_seed)
        if generator is not None:
            self._start = _state_of(generator)

    def begun(self, *, at_start: bool) -> dict[str, Any]:
        """Return what repeats this pass, as plain values.

        Args:
            at_start: Whether no batch was delivered: the order may be drawn yet.
        """
        state: dict[str, Any] = {"base_seed": self.base_seed}
        if self._own is not None:
            return {**state, "generator": self._start}
        if self._order_seed is None and at_start:
            return {**state, "generator": _state_of(self._private)}
        return {**state, "order_seed": self._order_seed}

    @staticmethod
    def ahead(
        generator: torch.Generator | None, base_seed: int | None = None
    ) -> dict[str, Any]:
        """Return what makes the next pass draw what it would draw now.

        Args:
            generator: The loader's own generator; None for torch's global one.
            base_seed: The seed of workers that go on to the next pass.
        """
        state: dict[str, Any] = {"generator": _state_of(generator)}
        if base_seed is not None:
            state["base_seed"] = base_seed
        return state

    def order(self, num_samples: int) -> Tensor:
        """Draw the order of the samples as PyTorch's RandomSampler does.

        Args:
            num_samples: Number of samples, N.

        Returns:
            A permutation, shape ``(N,)``, int64.
        """
        if self._own is not None:
            return torch.randperm(num_samples, generator=self._own)
        self.settle_order()
        assert self._order_seed is not None
        generator = torch.Generator()
        generator.manual_seed(self._order_seed)
        return torch.randperm(num_samples, generator=generator)

    def settle_order(self) -> None:
        """Draw the seed of the order now, where there is one to draw."""
        if self._own is None and self._order_seed is None:
            self._order_seed = self._draw()

    def end_order(self, num_samples: int) -> None:
        """Draw what RandomSampler draws, unused, when its indices run out."""
        if self._own is not None:
            torch.randperm(num_samples, generator=self._own)

    def _draw(self) -> int:
        number = _draw_seed(self._own)
        return number if self._private is None else _draw_seed(self._private)


def pack_bytes(values: Tensor) -> str:
    """Return a tensor of bytes as text."""
    return base64.b64encode(values.cpu().numpy().tobytes()).decode()


def unpack_bytes(text: str) -> Tensor:
    """Return the tensor of bytes that `pack_bytes` was given."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _state_of(generator: torch.Generator | None) -> str:
    state = torch.get_rng_state() if generator is None else generator.get_state()
    return pack_bytes(state)


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
