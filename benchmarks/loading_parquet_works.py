"""The jobs of the Parquet benchmark: each measures one way to read, in its own process.

``loading_parquet.py`` starts them; see `measure.answer`.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import answer

NUM_COLUMNS = 64
ROW_GROUP_ROWS = 65_536
FILE_ROWS = 8 * ROW_GROUP_ROWS
"""Rows of a file, made at a time: 129 MiB."""

Batches = Iterable[Any]
Ids = Callable[[Any], torch.Tensor]


def make_files(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files: random float32 columns, and the row's number as ``y``."""
    pa = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    rng = np.random.default_rng(0)
    folder, num_rows = Path(spec["folder"]), spec["rows"]
    for number, start in enumerate(range(0, num_rows, FILE_ROWS)):
        count = min(FILE_ROWS, num_rows - start)
        values = rng.standard_normal((NUM_COLUMNS, count), dtype=np.float32)
        columns = _columns(pa, values, spec["layout"])
        columns["y"] = pa.array(np.arange(start, start + count))
        path = folder / f"part-{number:03d}.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=ROW_GROUP_ROWS)
    sizes = [path.stat().st_size for path in folder.glob("*.parquet")]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _columns(pa: Any, values: Any, layout: str) -> dict[str, Any]:
    if layout == "vectors":
        flat = pa.array(np.ascontiguousarray(values.T).reshape(-1))
        return {"x": pa.FixedSizeListArray.from_arrays(flat, NUM_COLUMNS)}
    return {f"x{i}": pa.array(column) for i, column in enumerate(values)}


def open_handful(spec: Mapping[str, Any]) -> tuple[Batches, Ids]:
    """Read by the row group, shuffled within the window."""
    loader = importlib.import_module("handful.data.loader")
    files = importlib.import_module("handful.data.parquet_files")
    data = files.ParquetFiles(spec["folder"], target="y", window=spec.get("window"))
    batches = loader.DataLoader(data, spec["batch_size"], shuffle=True, seed=0)
    return batches, lambda batch: batch[1]


def open_stream(spec: Mapping[str, Any]) -> tuple[Batches, Ids]:
    """Stream in batches of Hugging Face's own, the fastest of its ways to do so."""
    data = _hugging_face(spec, streaming=True)
    shuffled = data.shuffle(seed=0, buffer_size=spec["buffer"]).with_format("torch")
    return shuffled.iter(batch_size=spec["batch_size"]), _ids


def open_stream_loader(spec: Mapping[str, Any]) -> tuple[Batches, Ids]:
    """Stream sample by sample into PyTorch's loader."""
    data = _hugging_face(spec, streaming=True)
    shuffled = data.shuffle(seed=0, buffer_size=spec["buffer"]).with_format("torch")
    return torch.utils.data.DataLoader(shuffled, spec["batch_size"]), _ids


def open_map(spec: Mapping[str, Any]) -> tuple[Batches, Ids]:
    """Shuffle the memory-mapped copy fully, in batches of Hugging Face's own."""
    data = _hugging_face(spec, streaming=False).shuffle(seed=0).with_format("torch")
    return data.iter(batch_size=spec["batch_size"]), _ids


def open_map_loader(spec: Mapping[str, Any]) -> tuple[Batches, Ids]:
    """Shuffle the memory-mapped copy fully, through PyTorch's loader."""
    data = _hugging_face(spec, streaming=False).with_format("torch")
    loader = torch.utils.data.DataLoader(data, spec["batch_size"], shuffle=True)
    return loader, _ids


def _ids(batch: Any) -> torch.Tensor:
    ids: torch.Tensor = batch["y"]
    return ids


def _hugging_face(spec: Mapping[str, Any], *, streaming: bool) -> Any:
    os.environ.update(
        HF_HOME=str(Path(spec["folder"]).parent / "hugging-face"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    datasets = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    paths = sorted(str(path) for path in Path(spec["folder"]).glob("*.parquet"))
    return datasets.load_dataset(
        "parquet", data_files=paths, split="train", streaming=streaming
    )


SIDES: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[Batches, Ids]]]] = {
    "handful": ("handful", open_handful),
    "stream": ("datasets, streaming, `iter`", open_stream),
    "stream-loader": ("datasets, streaming, PyTorch's loader", open_stream_loader),
    "map": ("datasets, memory map, `iter`", open_map),
    "map-loader": ("datasets, memory map, PyTorch's loader", open_map_loader),
}


KEPT: list[Any] = []
"""Iterators, so that none ends within a measurement."""


def measure_epoch(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Take the batches of one epoch, or those of the first seconds of it."""
    if spec["limit_mib"]:
        limit = spec["limit_mib"] * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    began = time.perf_counter()
    batches, ids_of = SIDES[spec["side"]][1](spec)
    opened = time.perf_counter()
    seconds, first, num_samples, total, squares = 0.0, 0.0, 0, 0, 0
    is_whole = True
    iterator = iter(batches)
    KEPT.append(iterator)
    for batch in iterator:
        ids = ids_of(batch)
        num_samples += len(ids)
        total += int(ids.sum())
        squares += int((ids * ids).sum())
        seconds = time.perf_counter() - opened
        first = first or seconds
        if seconds > spec["max_seconds"]:
            is_whole = False
            break
    if is_whole:
        check_epoch(spec["rows"], num_samples, total, squares)
    return {
        "samples": num_samples,
        "seconds": seconds,
        "first_seconds": first,
        "open_seconds": opened - began,
        "is_whole": is_whole,
        "peak_mib": _peak_bytes() / 2**20,
    }


def check_epoch(num_rows: int, count: int, total: int, squares: int) -> None:
    """Check that an epoch had each row's number once, by count and two sums."""
    there = (count, total, squares)
    expected = (
        num_rows,
        num_rows * (num_rows - 1) // 2,
        (num_rows - 1) * num_rows * (2 * num_rows - 1) // 6,
    )
    if there != expected:
        raise AssertionError(f"the epoch must have each row once: {there}, {expected}")


def _peak_bytes() -> int:
    """Return the most memory that was resident at a time, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def probe(_spec: Mapping[str, Any]) -> dict[str, Any]:
    """Say which versions there are."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "pyarrow", "datasets"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions}


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "make": make_files,
    "epoch": measure_epoch,
    "probe": probe,
}


def do_task(spec: dict[str, Any]) -> dict[str, Any]:
    """Do the task that a specification names, with as many threads as it says."""
    torch.set_num_threads(spec["threads"])
    return TASKS[spec["task"]](spec)


if __name__ == "__main__":
    answer(do_task)
    # Streams that were broken off may hang or crash while the interpreter ends.
    os._exit(0)
