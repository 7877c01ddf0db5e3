"""Writes orders.json: pieces of orders that no version may change.

A run that stopped in the middle of an epoch goes on with the order it began. If the
test that reads this file fails, mend the code; run this script only when the order is
changed on purpose, and say so in the change log, since such runs can't be resumed:

    python tests/golden/make_orders.py
"""

from __future__ import annotations

import json
from pathlib import Path

from handful.data.order import PERMUTATION_LIMIT, make_order, order_fingerprint

ORDERS = Path(__file__).with_name("orders.json")

SIZES = (1, 2, 10, 1_000, 100_000, PERMUTATION_LIMIT + 1, 10**9, 2**40 + 12_345, 2**62)


def describe_orders() -> list[dict[str, object]]:
    """Return sizes, seeds and epochs with the indices at a few of their positions."""
    rows: list[dict[str, object]] = []
    for num_samples in SIZES:
        for seed, epoch in ((0, 0), (0, 1), (2**63 - 1, 10_000)):
            order = make_order(num_samples, seed=seed, epoch=epoch)
            count = min(8, num_samples)
            starts = {0, (num_samples - count) // 2, num_samples - count}
            rows.extend(
                {
                    "num_samples": num_samples,
                    "seed": seed,
                    "epoch": epoch,
                    "start": start,
                    "indices": order.indices(start, start + count).tolist(),
                }
                for start in sorted(starts)
            )
    return rows


def write_orders() -> None:
    """Write the file anew, one order to a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in describe_orders())
    ORDERS.write_text(
        f'{{\n"fingerprint": "{order_fingerprint()}",\n"orders": [\n{lines}\n]\n}}\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    write_orders()
