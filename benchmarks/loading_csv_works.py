"""The jobs of the CSV benchmark: each reads the file on one side and times it.

A job is started by ``loading_csv.py``. PyTorch is imported before anything is timed;
what a side needs besides is timed apart. The file is in the page cache.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import answer
from torch import Tensor

NUMBERS = [f"x{i}" for i in range(26)]
CATEGORIES = {"city": 50, "kind": 4, "code": 300}
TARGET = "label"
CLASSES = 5


def write_file(spec: dict[str, Any]) -> dict[str, Any]:
    """Write the CSV file: 26 numbers, 3 texts and a class a row."""
    arrow = importlib.import_module("pyarrow")
    csv = importlib.import_module("pyarrow.csv")
    rows, generator = spec["rows"], np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for place, name in enumerate(NUMBERS):
        values = generator.standard_normal(rows)
        scale, digits = ((1, 4), (1000, 2), (1, 6))[place % 3]
        columns[name] = (values * scale).round(digits)
    for name, count in {**CATEGORIES, TARGET: CLASSES}.items():
        texts = arrow.array([f"{name}{i}" for i in range(count)])
        columns[name] = texts.take(arrow.array(generator.integers(0, count, rows)))
    path = Path(spec["path"])
    with path.open("wb") as file:
        file.write(f"{','.join(columns)}\n".encode())
        options = csv.WriteOptions(include_header=False, quoting_style="none")
        csv.write_csv(arrow.table(columns), file, options)
    settled = time.time() - 60  # Of a file that was just written nothing is kept.
    os.utime(path, (settled, settled))
    return {"file_bytes": path.stat().st_size}


def read_pandas(path: str) -> tuple[Tensor, Tensor, Tensor]:
    """Read the file as users of pandas do."""
    pandas = importlib.import_module("pandas")
    frame = pandas.read_csv(path)
    numbers = torch.from_numpy(frame[NUMBERS].to_numpy("float32", copy=True))
    codes = [
        frame[name].astype("category").cat.codes.to_numpy("int64")
        for name in (*CATEGORIES, TARGET)
    ]
    stacked = torch.from_numpy(np.stack(codes[:-1], axis=1))
    return numbers, stacked, torch.from_numpy(codes[-1].copy())


def make_loader(side: str, spec: dict[str, Any]) -> Any:
    """Read the file and return a loader of its rows, shuffled."""
    path, batch_size = spec["path"], spec["batch_size"]
    if side != "pandas":
        handful = importlib.import_module("handful")
        read_csv = importlib.import_module("handful.data.csv_file").read_csv
        cache = spec["cache"] if side == "kept" else False
        data = read_csv(path, target=TARGET, cache=cache).data
        return handful.DataLoader(data, batch_size=batch_size, shuffle=True)
    data = torch.utils.data.TensorDataset(*read_pandas(path))
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True)


def keep_copy(spec: dict[str, Any]) -> dict[str, Any]:
    """Read the file once, so that there is a copy of what was read."""
    started = time.perf_counter()
    make_loader("kept", spec)
    (copy,) = Path(spec["cache"]).iterdir()
    return {
        "copy_bytes": copy.stat().st_size,
        "keep_seconds": time.perf_counter() - started,
    }


def measure_side(spec: dict[str, Any]) -> dict[str, Any]:
    """Return seconds of a side's imports, to its first batch, and of an epoch."""
    torch.set_num_threads(spec["threads"])
    ours = ("handful.data.loader", "handful.data.csv_file")
    modules = {
        "handful": (*ours, "pyarrow.csv"),
        "kept": ours,
        "pandas": ("pandas",),
    }[spec["side"]]
    started = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    imported, cpu_before = time.perf_counter(), time.process_time()
    loader = make_loader(spec["side"], spec)
    next(iter(loader))
    first, cpu_after = time.perf_counter(), time.process_time()
    rows = sum(len(target) for _, _, target in loader)
    ended = time.perf_counter()
    return {
        "imports": imported - started,
        "first": first - imported,
        "first_cpu": cpu_after - cpu_before,
        "epoch": ended - first,
        "rows": rows,
        "sums": add_up(loader),
    }


def add_up(batches: Iterable[list[Tensor]]) -> list[float]:
    """Return sums that tell whether both sides read the same."""
    totals = [0.0, 0.0, 0.0]
    for batch in batches:
        for place, values in enumerate(batch):
            totals[place] += float(values.double().sum())
    return [round(total, 3) for total in totals]


def probe(_: dict[str, Any]) -> dict[str, Any]:
    """Return the versions of what is measured."""
    names = ("torch", "numpy", "pyarrow", "pandas")
    return {"versions": {name: metadata.version(name) for name in names}}


WORKS = {
    "write": write_file,
    "keep": keep_copy,
    "measure": measure_side,
    "probe": probe,
}


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Do a job."""
    return WORKS[spec["task"]](spec)


if __name__ == "__main__":
    answer(work)
