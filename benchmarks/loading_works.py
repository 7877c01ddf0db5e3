"""The jobs of the loading benchmark: each builds one side of a work and times it.

A job is started by ``loading.py`` and times whole epochs: making the iterator, drawing
the order, every batch and its labels. The first epoch is not counted.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from operator import itemgetter
from pathlib import Path
from typing import Any

import loading_peers
import numpy as np
import torch
from measure import answer, round_times
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

CHECKOUT = Path(__file__).resolve().parent.parent
KEPT_BATCHES = 100
MASK = 2**64 - 1
ROWS = {
    "bytes": 60_000,
    "floats": 60_000,
    "narrow": 1_000_000,
    "own": 60_000,
    "slow": 2_000,
}
QUICK_ROWS, QUICK_SLOW_ROWS = 3_000, 200
SLOW_LOOPS = 40_000
"""How often a slow transform goes round in Python: about a millisecond."""
MAP_ROW_BYTES = 3_072


@dataclass(frozen=True)
class Epochs:
    """A side's batches.

    Attributes:
        begin: Begins an epoch and returns its batches.
        num_samples: Samples an epoch.
        columns: Gives the arrays of a batch.
    """

    begin: Callable[[], Iterable[Any]]
    num_samples: int
    columns: Callable[[Any], Iterable[Any]] = iter


class OwnDataset(Dataset[Any]):
    """A data set as users write them: one sample at a time, nothing else."""

    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        self.rows = rows
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.rows[index], self.labels[index]


class SlowDataset(OwnDataset):
    """One whose transform is a millisecond of Python for each sample."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, label = super().__getitem__(index)
        total = 0
        for number in range(SLOW_LOOPS):
            total ^= number
        return row ^ (total & 0xFF), label


class TutorialMnist(Dataset[Any]):
    """MNIST as PyTorch's tutorials load it: a PIL image, then ToTensor, per sample."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index], int(self.labels[index])
        return to_tensor(Image.fromarray(image.numpy())), label


class MappedRows(Dataset[Any]):
    """Rows of a memory map, each copied out of it."""

    def __init__(self, path: str) -> None:
        self.rows = np.load(path, mmap_mode="r")
        self.labels = labels_of(len(self.rows)).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(np.array(self.rows[index])), self.labels[index]


def to_tensor(image: Image.Image) -> Tensor:
    """Do what torchvision's ``ToTensor`` does to a PIL image of bytes, step by step."""
    values = torch.from_numpy(np.array(image, np.uint8, copy=True))
    values = values.view(image.size[1], image.size[0], len(image.getbands()))
    values = values.permute((2, 0, 1)).contiguous()
    return values.to(dtype=torch.get_default_dtype()).div(255)


def labels_of(count: int) -> Tensor:
    """Return labels from 0 to 9, int64."""
    return torch.randint(10, (count,), generator=torch.Generator().manual_seed(1))


def make_epochs(spec: dict[str, Any]) -> Epochs:
    """Build the side that a specification names."""
    if spec["side"] not in ("torch", "handful"):
        rows, labels = make_rows(spec)
        return Epochs(
            *loading_peers.PEERS[spec["side"]].make(
                rows, labels, spec["batch_size"], spec["threads"]
            )
        )
    ours = spec["side"] == "handful"
    dataset, options = make_dataset(spec, ours)
    options |= {"batch_size": spec["batch_size"], "shuffle": True}
    if ours:
        loader = importlib.import_module("handful").DataLoader(dataset, **options)
        return Epochs(lambda: loader, len(loader.dataset))
    torch_loader = DataLoader(dataset, **options)
    # Ours counts the batches it has handed out, for its state: so does a user of this.
    return Epochs(lambda: map(itemgetter(1), enumerate(torch_loader)), len(dataset))


def make_dataset(spec: dict[str, Any], ours: bool) -> tuple[Any, dict[str, Any]]:
    """Return what the loader reads, and further arguments of it."""
    if spec["work"] == "tutorial":
        images, labels, _ = mnist(spec["quick"])
        if not ours:
            return TutorialMnist(images, labels), {}
        handful = importlib.import_module("handful")
        transforms = importlib.import_module("handful.data.transforms")
        columns = handful.Columns(images.unsqueeze(1), labels)
        return columns, {"batch_transform": transforms.ScaleBytes()}
    if spec["work"] == "map":
        if not ours:
            return MappedRows(spec["path"]), {}
        rows = np.load(spec["path"], mmap_mode="r")
        return (rows, labels_of(len(rows))), {}
    if spec["work"] == "own":
        return OwnDataset(*make_rows(spec)), {}
    if spec["work"] == "slow":
        workers = {"num_workers": 2, "persistent_workers": True}
        return SlowDataset(*make_rows(spec)), workers
    return TensorDataset(*make_rows(spec)), {}


def make_rows(spec: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Make random rows and labels; the same in each process."""
    work = spec["work"]
    quick_count = QUICK_SLOW_ROWS if work == "slow" else QUICK_ROWS
    count = quick_count if spec["quick"] else ROWS[work]
    generator = torch.Generator().manual_seed(0)
    if work in ("bytes", "own", "slow"):
        shape, dtype = (count, 784), torch.uint8
        rows = torch.randint(256, shape, generator=generator, dtype=dtype)
    else:
        width = 16 if work == "narrow" else 784
        rows = torch.rand((count, width), generator=generator)
    return rows, labels_of(count)


def mnist(quick: bool) -> tuple[Tensor, Tensor, str]:
    """Return MNIST's training images, their labels, and where they are from.

    Shapes ``(N, 28, 28)`` uint8 and ``(N,)`` int64; random ones where MNIST is not.
    """
    folders = [CHECKOUT / ".data" / "mnist"]
    if os.environ.get("HANDFUL_DATA"):
        folders.insert(0, Path(os.environ["HANDFUL_DATA"]) / "mnist")
    for folder in folders:
        pixels = _read_bytes(folder / "train-images-idx3-ubyte")
        classes = _read_bytes(folder / "train-labels-idx1-ubyte")
        if pixels is not None and classes is not None:
            images = torch.frombuffer(pixels, dtype=torch.uint8, offset=16)
            labels = torch.frombuffer(classes, dtype=torch.uint8, offset=8).long()
            count = 300 if quick else len(labels)
            return images.view(-1, 28, 28)[:count], labels[:count], "MNIST"
    count = 300 if quick else 60_000
    generator = torch.Generator().manual_seed(0)
    shape = (count, 28, 28)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return images, labels_of(count), "random images, as MNIST was not found"


def _read_bytes(path: Path) -> bytearray | None:
    if path.is_file():
        return bytearray(path.read_bytes())
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file():
        return bytearray(gzip.decompress(packed.read_bytes()))
    return None


def read_words(columns: Iterable[Any]) -> int:
    """Read every byte of some arrays: the sum of their words of eight bytes."""
    total = 0
    for values in columns:
        array = values if isinstance(values, np.ndarray) else values.numpy()
        total += int(np.add.reduce(array.reshape(-1).view(np.int64)))
    return total


def take_plain(epochs: Epochs) -> int:
    """Take each batch and drop it."""
    for _ in epochs.begin():
        pass
    return 0


def take_and_keep(epochs: Epochs) -> int:
    """Take each batch and keep the last hundred."""
    kept: deque[Any] = deque(maxlen=KEPT_BATCHES)
    for batch in epochs.begin():
        kept.append(batch)
    return 0


def take_and_read(epochs: Epochs) -> int:
    """Take each batch and read every byte of it."""
    columns, total = epochs.columns, 0
    for batch in epochs.begin():
        total += read_words(columns(batch))
    return total & MASK


WAYS = {"plain": take_plain, "kept": take_and_keep, "read": take_and_read}


def time_epochs(spec: dict[str, Any]) -> dict[str, Any]:
    """Time a side's epochs in each way to consume them."""
    epochs = make_epochs(spec)
    began = time.perf_counter()
    while True:  # not counted: the first epochs find no memory that can be used again
        take_plain(epochs)
        if time.perf_counter() - began > spec["min_seconds"]:
            break
    seconds: dict[str, list[float]] = {}
    sums = set()
    for way, take in WAYS.items():
        times: list[float] = []
        while not times or sum(times) < spec["min_seconds"]:
            began = time.perf_counter()
            total = take(epochs)
            times.append(time.perf_counter() - began)
            if way == "read":
                sums.add(total)
        seconds[way] = round_times(times)
    if len(sums) != 1:
        raise AssertionError("epochs of the same data must have the same sum")
    return {
        "samples": epochs.num_samples,
        "seconds": seconds,
        "sum": f"{sums.pop():016x}",
        "reading_alone": time_reading(epochs, spec["min_seconds"]),
    }


def time_reading(epochs: Epochs, min_seconds: float) -> float:
    """Return at how many samples a second batches that are already there are read."""
    held: list[list[Any]] = []
    num_samples, num_bytes = 0, 0
    for batch in epochs.begin():
        held.append(list(epochs.columns(batch)))
        num_samples += len(held[-1][0])
        num_bytes += sum(values.nbytes for values in held[-1])
        if num_bytes > 64 * 2**20:
            break
    passes, began = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - began < min_seconds / 3:
        for columns in held:
            read_words(columns)
        passes += 1
    return round(num_samples * passes / (time.perf_counter() - began))


def compare_sides(spec: dict[str, Any]) -> dict[str, Any]:
    """Compare two epochs of PyTorch's loader and ours, bit for bit."""
    digests = []
    for side in ("torch", "handful"):
        torch.manual_seed(20)
        epochs = make_epochs({**spec, "side": side})
        num_epochs = 1 if spec["work"] == "map" else 2
        digests.append([_digest(b) for _ in range(num_epochs) for b in epochs.begin()])
    theirs, ours = digests
    for number, (a, b) in enumerate(zip(theirs, ours, strict=False)):
        if a != b:
            return {"error": f"batch {number} differs from PyTorch's: {b}, not {a}"}
    if len(theirs) != len(ours):
        return {"error": f"there are {len(ours)} batches, not {len(theirs)}"}
    return {"equal_batches": len(ours)}


def _digest(batch: Any) -> str:
    parts = [type(batch).__name__]
    for values in batch:
        bits = hashlib.sha256(values.contiguous().numpy()).hexdigest()[:8]
        parts.append(f"{tuple(values.shape)} {values.dtype} {bits}")
    return " ".join(parts)


def measure_memory(spec: dict[str, Any]) -> dict[str, Any]:
    """Note anonymous memory, that which no file is behind, over three epochs."""
    epochs = make_epochs(spec)
    before = anonymous_bytes()
    peaks = []
    for _ in range(3):
        peak = 0
        for number, _batch in enumerate(epochs.begin()):
            if number % 16 == 0:
                peak = max(peak, anonymous_bytes())
        peaks.append(peak - before)
    return {"megabytes": [round(peak / 1e6, 2) for peak in peaks]}


def anonymous_bytes() -> int:
    """Return how much memory of this process has no file behind it."""
    return _status_bytes("RssAnon")


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        raise OSError("memory is measured by /proc/self/status, which is not there")
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def measure_large_order(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the order of 10**9 samples: the first batch, memory, cost per index."""
    count = 10**9
    if spec["side"] != "handful":
        dtype = torch.int32 if spec["side"] == "randperm32" else torch.int64
        before, began = anonymous_bytes(), time.perf_counter()
        order = torch.randperm(count, dtype=dtype)
        order[:256].tolist()
        seconds = time.perf_counter() - began
        extra = anonymous_bytes() - before
        return _order_result(seconds, extra, seconds / count)
    make_order = importlib.import_module("handful.data.order").make_order
    # Writing a 5 sets the peak, VmHWM, back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before, began = _status_bytes("VmRSS"), time.perf_counter()
    ours = make_order(count, seed=0, epoch=0)
    ours.indices(0, 256).tolist()
    first = time.perf_counter() - began
    at_once, calls = 16_384, 0
    began = time.perf_counter()
    while calls == 0 or time.perf_counter() - began < spec["min_seconds"]:
        start = calls * 7_919 * at_once % (count - at_once)
        ours.indices(start, start + at_once)
        calls += 1
    per_index = (time.perf_counter() - began) / (calls * at_once)
    return _order_result(first, _status_bytes("VmHWM") - before, per_index)


def _order_result(first: float, extra: int, per_index: float) -> dict[str, Any]:
    return {
        "first_ms": round(first * 1e3, 3),
        "extra_mb": round(extra / 1e6, 2),
        "ns_per_index": round(per_index * 1e9, 2),
    }


def measure_small_order(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure orders of whole epochs, read in blocks of 16,384."""
    count, block = spec["count"], 16_384
    make_order = importlib.import_module("handful.data.order").make_order

    def draw(epoch: int) -> None:
        if spec["side"] == "torch":
            torch.randperm(count)
            return
        order = make_order(count, seed=0, epoch=epoch)
        for start in range(0, count, block):
            order.indices(start, min(start + block, count))

    draw(0)
    epoch, began = 0, time.perf_counter()
    while epoch == 0 or time.perf_counter() - began < spec["min_seconds"]:
        epoch += 1
        draw(epoch)
    seconds = time.perf_counter() - began
    return {"ns_per_index": round(seconds / (epoch * count) * 1e9, 3)}


def write_map(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a ``.npy`` file of random bytes, which leaves it in the page cache."""
    rows = spec["map_bytes"] // MAP_ROW_BYTES
    shape = (rows, MAP_ROW_BYTES)
    mapped = np.lib.format.open_memmap(spec["path"], "w+", np.uint8, shape)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 16_384):
        stop = min(start + 16_384, rows)
        values = rng.integers(0, 2**63, (stop - start, MAP_ROW_BYTES // 8))
        mapped[start:stop] = values.view(np.uint8)
    mapped.flush()
    return {"rows": rows}


def probe(_spec: dict[str, Any]) -> dict[str, Any]:
    """Say which versions there are, and which other loaders can be imported."""
    peers = {}
    for name, peer in loading_peers.PEERS.items():
        try:
            importlib.import_module(peer.module)
            version = metadata.version(peer.package)
            peers[name] = {"label": f"{peer.label}, {peer.package} {version}"}
        except Exception as error:  # Whatever a foreign package raises on import.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            peers[name] = {"label": peer.label, "error": reason}
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "pillow", "handful"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "peers": peers,
        "images": mnist(quick=True)[2],
    }


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "epochs": time_epochs,
    "compare": compare_sides,
    "memory": measure_memory,
    "large-order": measure_large_order,
    "small-order": measure_small_order,
    "write-map": write_map,
    "probe": probe,
}


def do_task(spec: dict[str, Any]) -> dict[str, Any]:
    """Do the task that a specification names, with as many threads as it says."""
    torch.set_num_threads(spec["threads"])
    return TASKS[spec["task"]](spec)


if __name__ == "__main__":
    answer(do_task)
