"""Collation: a batch's samples put together, and then transformed.

The transform is part of the loader's ``collate_fn``, so that it runs in the workers and
is kept by whoever builds another loader of this one's attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Collation = Callable[[Any], Any]
"""Puts a list of samples together to a batch."""


class TransformedCollation:
    """Puts samples together, then transforms the batch.

    Args:
        collate: Puts them together.
        transform: Applied to the batch.
    """

    def __init__(self, collate: Collation, transform: Collation) -> None:
        self.collate = collate
        self.transform = transform

    def __call__(self, samples: Any) -> Any:
        """Return the transformed batch of some samples."""
        return self.transform(self.collate(samples))


def bare_collation(collate: Any) -> Any:
    """Return a collation without its transform."""
    return collate.collate if isinstance(collate, TransformedCollation) else collate
