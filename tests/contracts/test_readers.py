"""What every reader of files owes its loader: all rows once, and a place to go on from.

Each reader is read without workers, by two threads and by two processes, as far as that
makes a difference for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handful import (
    DataLoader,
    ImageFiles,
    JsonLines,
    PadCollate,
    ParquetFiles,
    read_csv,
    read_npy,
    read_npz,
)
from handful.data.idx import read_idx

COUNT, SIZE = 22, 4

pytest.importorskip("pyarrow", reason="pyarrow is missing")

Opened = tuple[Any, dict[str, Any]]


def open_csv(folder: Path, cache: bool | Path = False) -> Opened:
    path = folder / "t.csv"
    path.write_text("x,kind,y\n" + "".join(f"{i},k{i % 3},0.5\n" for i in range(COUNT)))
    os.utime(path, (1e9, 1e9))
    return read_csv(path, target="y", cache=cache).data, {}


def open_kept(folder: Path) -> Opened:
    open_csv(folder, folder / "copies")
    return open_csv(folder, folder / "copies")


def open_parquet(folder: Path) -> Opened:
    arrow, parquet = (
        pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet")
    )
    table = arrow.table({"x": np.arange(COUNT, dtype=np.float32), "y": [0.5] * COUNT})
    parquet.write_table(table, folder / "t.parquet", row_group_size=5)
    return ParquetFiles(folder / "t.parquet", target="y", window=8), {}


def open_npy(folder: Path) -> Opened:
    np.save(folder / "t.npy", np.arange(COUNT, dtype=np.float32))
    return read_npy(folder / "t.npy"), {}


def open_npz(folder: Path) -> Opened:
    np.savez(folder / "t.npz", X=np.arange(COUNT), y=np.zeros(COUNT))
    return read_npz(folder / "t.npz"), {}


def open_idx(folder: Path) -> Opened:
    head = bytes([0, 0, 8, 1]) + COUNT.to_bytes(4, "big")
    (folder / "t.idx").write_bytes(head + bytes(range(COUNT)))
    return read_idx(folder / "t.idx"), {}


def open_lines(folder: Path) -> Opened:
    lines = [json.dumps({"x": i, "tokens": [i] * (i % 5)}) for i in range(COUNT)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return JsonLines(folder / "t.jsonl"), {"collate_fn": PadCollate()}


def open_images(folder: Path) -> Opened:
    paths = [folder / f"{i}.png" for i in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 7), (number, number, number)).save(path)
    return ImageFiles(paths, range(COUNT), 6, flip=0.5), {}


READERS: dict[str, Callable[[Path], Opened]] = {
    "csv": open_csv,
    "csv, kept": open_kept,
    "parquet": open_parquet,
    "npy": open_npy,
    "npz": open_npz,
    "idx": open_idx,
    "json lines": open_lines,
    "images": open_images,
}
WORKERS: dict[str, dict[str, Any]] = {
    "0": {},
    "2 threads": {"num_workers": 2, "worker_type": "thread"},
    "2 processes": {"num_workers": 2, "worker_type": "process"},
}
ONE_BY_ONE = ("json lines", "images")
"""Those that workers read, sample by sample; of the others rows are gathered."""

ALONE = ("parquet",)
"""Those that have a thread of their own, and refuse workers."""

CASES = [
    (reader, workers)
    for reader in READERS
    for workers in WORKERS
    if workers == "0"
    or reader in ONE_BY_ONE
    or (workers == "2 processes" and reader not in ALONE)
]


def ids_of(batch: Any) -> list[int]:
    """Return the numbers of a batch's rows."""
    if isinstance(batch, dict):
        batch = batch["X"] if "X" in batch else batch["x"]
    elif not isinstance(batch, torch.Tensor):
        images, other = batch[0], batch[-1]
        batch = other if images.ndim == 4 else images
    return [int(number) for number in batch.flatten().tolist()]


def bytes_of(batch: Any) -> list[bytes]:
    """Return all of a batch, to compare."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    arrays = [batch] if isinstance(batch, torch.Tensor) else batch
    return [array.numpy().tobytes() for array in arrays]


@pytest.mark.parametrize(("reader", "workers"), CASES)
def test_a_pass_has_each_row_once_and_goes_on_at_every_batch(
    tmp_path: Path, reader: str, workers: str
) -> None:
    data, options = READERS[reader](tmp_path)

    def make() -> DataLoader[Any]:
        own = {**options, **WORKERS[workers]}
        return DataLoader(data, SIZE, shuffle=True, seed=3, **own)

    loader = make()
    whole, states = [], [json.dumps(loader.state_dict())]
    for batch in loader:
        whole.append(batch)
        states.append(json.dumps(loader.state_dict()))
    assert sorted(i for batch in whole for i in ids_of(batch)) == list(range(COUNT))
    following = [bytes_of(batch) for batch in loader]
    passes = [bytes_of(batch) for batch in whole]
    assert following != passes
    is_costly = workers == "2 processes" and reader in ONE_BY_ONE
    for delivered in range(0, len(states), 2 if is_costly else 1):
        other = make()
        other.load_state_dict(json.loads(states[delivered]))
        rest = [bytes_of(batch) for batch in other]
        assert rest == passes[delivered:]
        if not is_costly:
            assert [bytes_of(batch) for batch in other] == following


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_the_batches_are_the_same(tmp_path: Path, reader: str) -> None:
    data, options = READERS[reader](tmp_path)
    found = [
        [bytes_of(b) for b in DataLoader(data, SIZE, seed=3, shuffle=True, **options)],
    ]
    for workers in ("2 threads", "2 processes"):
        if (reader, workers) in CASES:
            own = {**options, **WORKERS[workers]}
            loader = DataLoader(data, SIZE, seed=3, shuffle=True, **own)
            found.append([bytes_of(batch) for batch in loader])
    assert all(batches == found[0] for batches in found)
