"""Measure what a loader leaves behind: ``measure_leaks.py CASE EPOCHS CYCLES``.

Prints JSON: the growth of anonymous memory in bytes per epoch, and what the process
holds before and after loaders were opened and dropped in the middle of a pass. It runs
in a process of its own, so that nothing else allocates or opens files meanwhile.
"""

from __future__ import annotations

import copy
import gc
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from handful import (
    Columns,
    DataLoader,
    JsonLines,
    PadCollate,
    ParquetFiles,
    read_csv,
    read_npz,
)
from handful.data.image_files import ImageFiles
from handful.data.transforms import ScaleBytes

WARM_UP_EPOCHS = 3
IMAGE_WORKERS = {"images": 0, "threads": 2}
LINE_WORKERS: dict[str, dict[str, Any]] = {
    "lines": {},
    "line-threads": {"num_workers": 2, "worker_type": "thread"},
}
FILES = ("parquet", "csv", "kept", "npz", *LINE_WORKERS)
"""Cases whose files are opened anew in each cycle."""


class OneByOne(TensorDataset):
    """A data set that only PyTorch's path can read, being a class of its own."""


def make_images(folder: str, num_workers: int) -> DataLoader:
    """Make a loader whose epoch is of 36 images, 5 MB as floats."""
    paths = [Path(folder) / f"{number}.jpg" for number in range(36)]
    rng = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return DataLoader(
        ImageFiles(paths, range(36), 112),
        8,
        shuffle=True,
        seed=0,
        num_workers=num_workers,
        batch_transform=ScaleBytes(),
    )


def write_files(case: str, folder: Path) -> None:
    """Write the files of a reader: 2,048 rows of 512 numbers and a label, or 64."""
    rows = np.random.default_rng(0).random((2048, 512)).astype(np.float32).round(2)
    labels = np.arange(2048)
    names = [f"x{number}" for number in range(512)]
    if case == "parquet":
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
        columns = {**dict(zip(names, rows.T, strict=True)), "y": labels}
        parquet.write_table(arrow.table(columns), folder / "t.parquet", 256)
    elif case in ("csv", "kept"):
        lines = [",".join([*names, "y"])]
        lines += [
            ",".join([*map(str, row), str(label % 7)])
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
        ]
        path = folder / "t.csv"
        path.write_text("\n".join(lines))
        os.utime(path, (1e9, 1e9))
    elif case == "npz":
        np.savez(folder / "t.npz", X=rows, y=labels)
    else:
        lines = [
            json.dumps({"x": row, "y": 1})
            for row in (1000 * rows[:256]).astype(int).tolist()
        ]
        (folder / "t.jsonl").write_text("\n".join(lines))


def open_files(case: str, folder: Path) -> DataLoader:
    """Open the files of a reader, and make a loader of it."""
    options: dict[str, Any] = {"batch_size": 32, "shuffle": True, "seed": 0}
    if case == "parquet":
        files = ParquetFiles(folder / "t.parquet", target="y", window=512)
        return DataLoader(files, **options)
    if case in ("csv", "kept"):
        cache = folder / "copies" if case == "kept" else False
        return DataLoader(
            read_csv(folder / "t.csv", target="y", cache=cache).data, **options
        )
    if case == "npz":
        return DataLoader(read_npz(folder / "t.npz"), **options)
    data = JsonLines(folder / "t.jsonl")
    return DataLoader(data, collate_fn=PadCollate(), **options, **LINE_WORKERS[case])


def make_loader(case: str, folder: str) -> DataLoader:
    """Make a loader whose epoch is of some 4 MB."""
    if case in FILES:
        write_files(case, Path(folder))
        return open_files(case, Path(folder))
    if case in IMAGE_WORKERS:
        return make_images(folder, IMAGE_WORKERS[case])
    x, y = torch.zeros(2048, 512), torch.arange(2048)
    if case == "batched":
        return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    if case == "seeded":
        return DataLoader(Columns(x, y), batch_size=30, shuffle=True, seed=0)
    if case == "transformed":
        bytes_ = x.repeat(1, 2).to(torch.uint8)
        return DataLoader(bytes_, batch_size=32, batch_transform=ScaleBytes())
    workers = {"pytorch": 0, "workers": 2}[case]
    return DataLoader(OneByOne(x, y), batch_size=32, shuffle=True, num_workers=workers)


def anonymous_bytes() -> int:
    """Return the resident anonymous memory of this process."""
    gc.collect()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


def growth_per_epoch(loader: DataLoader, num_epochs: int) -> float:
    """Return how much memory an epoch leaves, in bytes."""
    for _ in range(WARM_UP_EPOCHS):
        read(loader)
    before = anonymous_bytes()
    for _ in range(num_epochs):
        read(loader)
    return (anonymous_bytes() - before) / num_epochs


def read(loader: DataLoader) -> None:
    """Read an epoch as a training does, and look at every batch."""
    for batch in loader:
        if isinstance(batch, dict):
            next(iter(batch.values())).sum()
        else:
            (batch if isinstance(batch, torch.Tensor) else batch[0]).sum()


def open_and_drop(loader: DataLoader) -> None:
    """Begin a pass and drop it after a few batches."""
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    del iterator
    gc.collect()


def holdings() -> dict[str, int]:
    """Count what the process holds of the system."""
    own = Path("/proc/self")
    children = [pid for task in (own / "task").iterdir() for pid in children_of(task)]
    maps = (own / "maps").read_text(encoding="utf-8").splitlines()
    names = [str(pid) for pid in (os.getpid(), *children)]
    shared = [
        p for p in Path("/dev/shm").iterdir() if set(p.name.split("_")) & {*names}
    ]
    return {
        "processes": len(children),
        "threads": len(list((own / "task").iterdir())),
        "descriptors": len(list((own / "fd").iterdir())),
        "shared segments": sum("/dev/shm/" in line for line in maps) + len(shared),
    }


def children_of(task: Path) -> list[str]:
    """List the processes that a thread has started; none if it has just ended."""
    try:
        return (task / "children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def settled_holdings(expected: dict[str, int]) -> dict[str, int]:
    """Count again for a while, since a thread's end is seen a moment after it."""
    for _ in range(50):
        found = holdings()
        if found == expected:
            break
        time.sleep(0.05)
    return found


def main(case: str, num_epochs: int, num_cycles: int, folder: str) -> dict[str, Any]:
    """Measure one case."""
    gc.collect()
    gc.freeze()  # Collections are then quick: the modules' objects are left out.
    loader = make_loader(case, folder)
    growth = growth_per_epoch(loader, num_epochs)
    open_and_drop(loader)  # What is started once for all, is started here.
    time.sleep(0.5)  # Ended workers' pipes are closed by a thread.
    before = holdings()
    for _ in range(num_cycles):
        if case in FILES:
            open_and_drop(open_files(case, Path(folder)))
        else:
            # Threads are kept by their loader: each cycle has another one.
            open_and_drop(copy.deepcopy(loader) if case in IMAGE_WORKERS else loader)
    return {
        "path": loader.path,
        "growth": growth,
        "before": before,
        "after": settled_holdings(before),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases, epochs, cycles = sys.argv[1:]
    result = {}
    for name in cases.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            result[name] = main(name, int(epochs), int(cycles), scratch)
    sys.stdout.write(json.dumps(result))
