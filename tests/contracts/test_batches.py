"""The contract of a delivered batch: it is its receiver's own."""

from __future__ import annotations

import gc
import io
import itertools
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset
from torch.utils.data import DataLoader as TorchDataLoader

from handful import Columns, DataLoader
from handful.data.fetch import CHUNK_BYTES
from handful.data.transforms import ScaleBytes

NUM_SAMPLES = 150
BATCH_SIZE = 7
ALIGNMENT_BYTES = 64
"""How PyTorch's own memory on the CPU is aligned."""

X = torch.arange(NUM_SAMPLES * 6.0).reshape(NUM_SAMPLES, 2, 3) % 91
Y = torch.arange(NUM_SAMPLES)


def memory_map(folder: Path) -> Any:
    np.save(folder / "x.npy", X.numpy())
    return np.load(folder / "x.npy", mmap_mode="r")


def arrow_table(folder: Path) -> Any:
    arrow = pytest.importorskip("pyarrow", reason="the package pyarrow is missing")
    return arrow.table({"x": X[:, 0, 0].numpy(), "y": Y.numpy()})


def table(**values: Any) -> Callable[[Path], dict[str, Any]]:
    """Return what makes the arguments of a loader."""
    return lambda folder: {
        name: value(folder) if name == "dataset" else value
        for name, value in values.items()
    }


def double(batch: list[Tensor]) -> list[Tensor]:
    return [batch[0] * 2, batch[1]]


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tensor data set": table(dataset=lambda folder: TensorDataset(X, Y)),
    "columns": table(dataset=lambda folder: Columns(x=X, y=Y)),
    "tensor": table(dataset=lambda folder: X),
    "array": table(dataset=lambda folder: X.numpy()),
    "memory map": table(dataset=memory_map),
    "arrow": table(dataset=arrow_table),
    "subset": table(dataset=lambda folder: Subset(X, range(NUM_SAMPLES)[::-1])),
    "concat": table(dataset=lambda folder: ConcatDataset([X[:70], X[70:]])),
    "stack": table(dataset=lambda folder: StackDataset(X, TensorDataset(X, Y))),
    "uint8": table(dataset=lambda folder: X.to(torch.uint8)),
    "bfloat16": table(dataset=lambda folder: TensorDataset(X.bfloat16(), Y)),
    "bool": table(dataset=lambda folder: X > 40),
    "int16": table(dataset=lambda folder: X.to(torch.int16)),
    "complex64": table(dataset=lambda folder: X.to(torch.complex64)),
    "numbers": table(dataset=lambda folder: Y),
    "seeded": table(dataset=lambda folder: X, seed=0, shard=(1, 2)),
    "fused transform": table(
        dataset=lambda folder: TensorDataset(X.to(torch.uint8), Y),
        batch_transform=ScaleBytes(),
    ),
    "other transform": table(
        dataset=lambda folder: TensorDataset(X, Y), batch_transform=double
    ),
}


@pytest.fixture(params=CASES)
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Give the arguments of a loader: a data set, and what goes with it."""
    return CASES[request.param](tmp_path)


@pytest.fixture(params=[False, True], ids=["sequential", "shuffled"])
def loader(request: pytest.FixtureRequest, arguments: dict[str, Any]) -> DataLoader:
    """Give a loader that gathers."""
    torch.manual_seed(0)
    loader = DataLoader(**arguments, batch_size=BATCH_SIZE, shuffle=request.param)
    assert loader.path.startswith("batched")
    return loader


def tensors_of(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch
    return [tensor for part in parts for tensor in tensors_of(part)]


def read(loader: DataLoader) -> Iterator[list[Tensor]]:
    return map(tensors_of, loader)


def read_again(loader: DataLoader) -> list[Tensor]:
    """Return what an epoch holds, in the order of the data set."""
    shard = {"seed": 0, "shard": loader.shard} if loader.shard else {}
    transform = {"batch_transform": loader.batch_transform}
    again = DataLoader(loader.dataset, batch_size=BATCH_SIZE, **shard, **transform)
    return [tensor.clone() for batch in read(again) for tensor in batch]


def spoil(tensor: Tensor) -> None:
    """Write a value that no sample has, or at least another one."""
    if tensor.dtype is torch.bool:
        tensor.logical_not_()
    else:
        tensor.fill_(123)


def assert_equal(some: list[Tensor], others: list[Tensor]) -> None:
    assert len(some) == len(others) > 0
    assert all(map(torch.equal, some, others))


def test_kept_batches_keep_their_values(loader: DataLoader) -> None:
    kept: list[Tensor] = []
    copies: list[Tensor] = []
    for _ in range(2):
        for batch in read(loader):
            kept += batch
            copies += [tensor.clone() for tensor in batch]
    assert_equal(kept, copies)


def test_writing_reaches_neither_data_nor_later_epochs(loader: DataLoader) -> None:
    before = read_again(loader)
    for batch in read(loader):
        for tensor in batch:
            spoil(tensor)
    assert_equal(read_again(loader), before)


def test_writing_reaches_no_other_batch(loader: DataLoader) -> None:
    kept = [tensor for batch in read(loader) for tensor in batch]
    copies = [tensor.clone() for tensor in kept]
    for place in range(0, len(kept), 3):
        spoil(kept[place])
        copies[place] = kept[place].clone()
    assert_equal(kept, copies)


def test_batches_lie_apart(loader: DataLoader) -> None:
    kept = [tensor for batch in read(loader) for tensor in batch]
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in kept)
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert end <= start


def test_writing_leaves_the_backward_of_other_batches_alone(
    loader: DataLoader,
) -> None:
    weight = torch.ones((), requires_grad=True)
    first, *others = [tensor for batch in read(loader) for tensor in batch]
    if not first.is_floating_point():
        pytest.skip("only floating-point numbers have gradients")
    total = first.double().sum().item()
    loss = (first * weight).double().sum()
    for tensor in others:
        spoil(tensor)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(total, rel=1e-2)


def test_backward_notices_that_its_own_batch_was_written(loader: DataLoader) -> None:
    weight = torch.ones((), requires_grad=True)
    first = next(iter(read(loader)))[0]
    if not first.is_floating_point():
        pytest.skip("only floating-point numbers have gradients")
    loss = (first * weight).sum()
    spoil(first)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_saved_batch_is_as_small_as_a_copy(loader: DataLoader) -> None:
    for batch in read(loader):
        for tensor in batch:
            assert saved_bytes(tensor) == saved_bytes(tensor.clone())
            assert len(pickle.dumps(tensor)) <= len(pickle.dumps(tensor.clone())) + 8


def saved_bytes(tensor: Tensor) -> int:
    file = io.BytesIO()
    torch.save(tensor, file)
    return len(file.getvalue())


def test_the_storage_is_the_batchs_own(loader: DataLoader) -> None:
    storages = set()
    tensors = [tensor for batch in read(loader) for tensor in batch]
    for tensor in tensors:
        assert tensor.is_contiguous()
        assert tensor.storage_offset() == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        storages.add(tensor.untyped_storage()._cdata)
    assert len(storages) == len(tensors)


def test_memory_is_aligned_as_pytorchs(loader: DataLoader) -> None:
    for batch in read(loader):
        for tensor in batch:
            assert tensor.data_ptr() % ALIGNMENT_BYTES == 0


def test_batches_can_require_gradients(loader: DataLoader) -> None:
    for batch in read(loader):
        for tensor in batch:
            assert tensor.is_leaf
            assert not tensor.requires_grad
            if tensor.is_floating_point() or tensor.is_complex():
                (tensor.requires_grad_() * 2).abs().sum().backward()
                assert tensor.grad is not None
                assert tensor.grad.shape == tensor.shape


def test_resizing_and_resetting_touch_one_batch(loader: DataLoader) -> None:
    kept = [tensor for batch in read(loader) for tensor in batch]
    copies = [tensor.clone() for tensor in kept]
    kept[0].resize_(1, *kept[0].shape[1:])
    assert torch.equal(kept[0], copies[0][:1])
    kept[1].set_(kept[1].new_zeros(3))
    assert kept[1].tolist() == [0, 0, 0]
    assert_equal(kept[2:], copies[2:])


def test_shared_memory_holds_one_batch(loader: DataLoader) -> None:
    kept = [tensor for batch in read(loader) for tensor in batch]
    copies = [tensor.clone() for tensor in kept]
    kept[0].share_memory_()
    assert kept[0].is_shared()
    assert kept[0].untyped_storage().nbytes() == kept[0].nbytes
    assert not kept[1].is_shared()
    spoil(kept[0])
    assert_equal(kept[1:], copies[1:])


def measure_received(inbox: Any, outbox: Any) -> None:
    """Answer each tensor with its storage's size and its values."""
    while (tensor := inbox.get()) is not None:
        outbox.put((tensor.untyped_storage().nbytes(), tensor.tolist()))


@pytest.mark.skipif(sys.platform != "linux", reason="needs processes that are forked")
def test_a_queue_carries_one_batch(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=measure_received, args=(inbox, outbox))
    process.start()
    try:
        for name, make in CASES.items():
            if name != "arrow":
                for tensor in list(read(DataLoader(**make(tmp_path), batch_size=7)))[1]:
                    expected = tensor.nbytes, tensor.tolist()
                    inbox.put(tensor)
                    assert outbox.get() == expected
    finally:
        inbox.put(None)
        process.join(timeout=30)
    assert process.exitcode == 0


@pytest.mark.parametrize("batch_size", [1, 33, 5000])
def test_a_kept_batch_keeps_no_more_than_its_chunk(batch_size: int) -> None:
    x = torch.ones(20_000, 512)
    loader = DataLoader((x, x), batch_size=batch_size, shuffle=True)
    tracemalloc.start()
    try:
        kept = [batch for number, batch in enumerate(loader) if number == 1]
        gc.collect()
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    own = kept[0][0].nbytes
    slack = 2**18 + 100 * (20_000 // batch_size)
    assert 2 * own <= held <= 2 * (CHUNK_BYTES + own) + slack
    # While a pass runs, one chunk is handed out while the next one is gathered.
    assert most <= 3 * 2 * (CHUNK_BYTES + own) + slack


@pytest.mark.parametrize(
    ("width", "batch_size"), [(3, 1), (30, 7), (7, 10), (30, 10), (13, 33), (64, 32)]
)
def test_models_give_the_bits_that_they_give_with_pytorchs(
    width: int, batch_size: int
) -> None:
    torch.set_num_threads(1)
    losses: list[list[float]] = []
    x = torch.randn(300, width, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, torch.arange(300) % 5)
    for kind in (TorchDataLoader, DataLoader):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses.append([])
        for batch, target in kind(data, batch_size=batch_size, shuffle=True):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
