"""DataLoader: PyTorch's batches, whichever path makes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    RandomSampler,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from torch.utils.data import DataLoader as TorchDataLoader

from handful import Columns, DataLoader
from handful.data.order import epoch_permutation
from handful.data.transforms import ScaleBytes
from handful.errors import ArgumentError, DataError

X = torch.arange(46.0).reshape(23, 2)
Y = torch.arange(23)

SOURCES: dict[str, Callable[[], Any]] = {
    "tensor_dataset": lambda: TensorDataset(X, Y),
    "columns": lambda: Columns(X, Y),
    "named_columns": lambda: Columns(x=X, y=Y),
    "tensor": lambda: X,
    "array": lambda: X.double().numpy(),
    "array_1d": lambda: Y.numpy().astype(np.int32),
    "strided": lambda: TensorDataset(X.t().contiguous().t(), Y[::1]),
    "images": lambda: TensorDataset(torch.rand(23, 3, 4, 5), Y),
    "bfloat16": lambda: TensorDataset(X.bfloat16(), Y.bool()),
    "no_width": lambda: TensorDataset(torch.zeros(23, 0), Y),
    "subset": lambda: Subset(TensorDataset(X, Y), [5, 0, -1, 22, 7, 7, 3, 9, 11, 12]),
    "split": lambda: random_split(
        TensorDataset(X, Y), [20, 3], torch.Generator().manual_seed(0)
    )[0],
    "subset_of_array": lambda: Subset(X.numpy(), np.arange(20)[::-2]),
    "subset_of_subset": lambda: Subset(Subset(Columns(x=X, y=Y), range(20)), range(9)),
    "concat": lambda: ConcatDataset(
        [TensorDataset(X, Y), Subset(TensorDataset(X + 9, Y), [3, 1, 2])]
    ),
    "stack": lambda: StackDataset(X, TensorDataset(X, Y), Columns(a=Y)),
    "named_stack": lambda: StackDataset(x=Subset(X, [3, 1, 2]), y=Y[:3].numpy()),
    "subset_of_stack": lambda: Subset(StackDataset(X, Y), [4, 5, 6, 1]),
}


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that two batches are of the same containers, dtypes, strides and bits."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype is theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
        return
    assert len(ours) == len(theirs)
    pairs = (
        ((ours[k], theirs[k]) for k in theirs)
        if isinstance(theirs, dict)
        else zip(ours, theirs, strict=True)
    )
    for one, other in pairs:
        assert_same(one, other)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("with_generator", [False, True])
def test_batches_and_draws_equal_pytorchs(
    name: str, batch_size: int, drop_last: bool, shuffle: bool, with_generator: bool
) -> None:
    runs = []
    for kind in (TorchDataLoader, DataLoader):
        torch.manual_seed(7)
        generator = torch.Generator().manual_seed(3) if with_generator else None
        loader = kind(
            SOURCES[name](),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            generator=generator,
        )
        seen = []
        for _ in range(2):
            for batch in loader:
                seen.append(batch)
                seen.append(torch.rand(()))
        seen.append(torch.rand(()))
        if generator is not None:
            seen.append(torch.rand((), generator=generator))
        runs.append((seen, len(loader)))
    if isinstance(loader, DataLoader):
        assert loader.path.startswith("batched")
    assert runs[0][1] == runs[1][1]
    assert_same(runs[1][0], runs[0][0])


def test_a_random_sampler_with_its_own_generator_is_pytorchs_to_draw_from() -> None:
    drawn = []
    for kind in (TorchDataLoader, DataLoader):
        data = TensorDataset(Y)
        generator = torch.Generator().manual_seed(5)
        loader = kind(data, 4, sampler=RandomSampler(data, generator=generator))
        drawn.append([[b[0].tolist() for b in loader] for _ in range(2)])
    assert drawn[0] == drawn[1]


def test_a_loader_can_be_annotated_with_its_batches() -> None:
    assert DataLoader[int].__origin__ is DataLoader  # type: ignore[attr-defined]


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[int, str]:
        return index * index, f"sample {index}"


def test_other_datasets_go_through_pytorch() -> None:
    ours, theirs = DataLoader(Squares(), batch_size=4), TorchDataLoader(Squares(), 4)
    assert ours.path == "pytorch: Squares is read sample by sample"
    assert [b[1] for b in ours] == [b[1] for b in theirs]


class OddTensors(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        return tuple(2 * t[index] for t in self.tensors)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (lambda: DataLoader(OddTensors(X)), "OddTensors is read sample by sample"),
        (lambda: DataLoader(TensorDataset(X), collate_fn=len), "collate_fn"),
        (
            lambda: DataLoader(
                TensorDataset(X), sampler=RandomSampler(range(5), num_samples=3)
            ),
            "RandomSampler orders",
        ),
        (lambda: DataLoader(TensorDataset(X), batch_sampler=[[1, 2]]), "batch_size"),
        (lambda: DataLoader(TensorDataset(X), batch_size=None), "batch_size"),
        (
            lambda: DataLoader(TensorDataset(X.clone().requires_grad_())),
            "an array has a gradient",
        ),
    ],
)
def test_whatever_pytorch_would_do_otherwise_goes_through_pytorch(
    loader: Callable[[], DataLoader], reason: str
) -> None:
    made = loader()
    assert made.path.startswith("pytorch: ")
    assert reason in made.path
    assert len(list(made)) == len(made)


def test_a_batch_is_its_receivers_own() -> None:
    source = X.clone()
    loader = DataLoader(TensorDataset(source, Y), batch_size=4)
    first, second = list(loader)[:2]
    second_before = second[0].clone()
    first[0].zero_()
    assert torch.equal(source, X)
    assert torch.equal(second[0], second_before)
    file = io.BytesIO()
    torch.save(second[0], file)
    alone = io.BytesIO()
    torch.save(second_before, alone)
    assert file.tell() == alone.tell()


def test_writing_into_a_batch_does_not_disturb_the_backward_of_another() -> None:
    weight = torch.ones(2, requires_grad=True)
    batches = iter(DataLoader(TensorDataset(X, Y), batch_size=4))
    (one, _), (two, _) = next(batches), next(batches)
    loss = (one * weight).square().sum()
    two.zero_()
    loss.backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * one.square().sum(0))


def test_a_tuple_of_arrays_becomes_columns() -> None:
    loader = DataLoader((X.numpy(), Y.numpy()), batch_size=10)
    assert isinstance(loader.dataset, Columns)
    assert [len(y) for _, y in loader] == [10, 10, 3]


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="array 0 23, array 1 3"):
        DataLoader((X, Y[:3]))


def test_full_is_one_batch_of_all() -> None:
    assert [len(b) for b in DataLoader(X, batch_size="full")] == [23]


def test_text_as_batch_size_is_refused() -> None:
    with pytest.raises(ArgumentError, match="batch_size must be a number or 'full'"):
        DataLoader(X, batch_size="all")


@pytest.mark.parametrize("source", [X, Squares()])
def test_a_seed_makes_the_order_a_function_of_seed_and_epoch(source: Any) -> None:
    loader = DataLoader(source, batch_size=4, shuffle=True, seed=5)
    before = torch.get_rng_state()
    epochs = [torch.cat([_first(b) for b in loader]) for _ in range(2)]
    if loader.path.startswith("batched"):
        assert torch.equal(before, torch.get_rng_state())
    plain = torch.stack([_first(source[i]) for i in range(len(source))])
    for epoch, got in enumerate(epochs):
        order = epoch_permutation(len(source), seed=5, epoch=epoch)
        assert torch.equal(got, plain[order])
    assert loader.epoch == 2


def _first(batch: Any) -> torch.Tensor:
    return torch.as_tensor(batch[0] if isinstance(batch, (list, tuple)) else batch)


def test_a_seed_and_a_sampler_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="seed must be None when a sampler"):
        DataLoader(X, sampler=RandomSampler(X), seed=1)


def test_batch_transform_is_applied_to_every_batch() -> None:
    images = torch.randint(0, 256, (9, 1, 2, 2), dtype=torch.uint8)
    loader = DataLoader((images, Y[:9]), batch_size=4, batch_transform=ScaleBytes())
    got = torch.cat([batch[0] for batch in loader])
    assert torch.equal(got, images.float() / 255)


def test_workers_are_not_needed_for_arrays() -> None:
    torch.manual_seed(0)
    ours = list(DataLoader(TensorDataset(Y), batch_size=4, shuffle=True, num_workers=2))
    torch.manual_seed(0)
    theirs = list(TorchDataLoader(TensorDataset(Y), 4, shuffle=True, num_workers=2))
    assert_same(ours, theirs)


def test_data_can_live_on_another_device() -> None:
    loader = DataLoader(Subset(Columns(x=X, y=Y), [4, 2, 0]), 2, device="meta")
    batches = list(loader)
    assert [b["x"].device.type for b in batches] == ["meta", "meta"]
    assert [tuple(b["x"].shape) for b in batches] == [(2, 2), (1, 2)]
    same = DataLoader(TensorDataset(X, Y), 5, shuffle=True, seed=1, device="cpu")
    assert_same(list(same), list(DataLoader((X, Y), 5, shuffle=True, seed=1)))


def test_data_that_is_read_sample_by_sample_cannot_live_on_a_device() -> None:
    with pytest.raises(ArgumentError, match="device must be None on PyTorch's path"):
        iter(DataLoader(Squares(), device="cpu"))


def test_workers_that_persist_draw_their_seed_once_as_pytorchs_do() -> None:
    drawn = []
    for kind in (TorchDataLoader, DataLoader):
        torch.manual_seed(0)
        loader = kind(
            TensorDataset(Y), 4, shuffle=True, num_workers=1, persistent_workers=True
        )
        drawn.append([[b[0].tolist() for b in loader] for _ in range(3)])
        drawn[-1].append(torch.rand(()).item())  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]


def test_with_workers_the_order_is_drawn_when_the_iterator_is_made() -> None:
    drawn = []
    for kind in (TorchDataLoader, DataLoader):
        torch.manual_seed(0)
        pair = [
            iter(kind(TensorDataset(Y), 4, shuffle=True, num_workers=1))
            for _ in range(2)
        ]
        drawn.append([next(iterator)[0].tolist() for iterator in pair])
    assert drawn[0] == drawn[1]


def test_a_batch_sampler_of_another_size_meanwhile_is_followed() -> None:
    for kind in (TorchDataLoader, DataLoader):
        loader = kind(TensorDataset(Y), batch_size=4)
        loader.batch_sampler.batch_size = 10
        assert [len(b[0]) for b in loader] == [10, 10, 3]


def test_an_array_of_text_is_read_as_pytorch_reads_it() -> None:
    names = np.array(["a", "b", "c"])
    assert list(DataLoader(names, 2)) == list(TorchDataLoader(names, 2))


def test_a_transform_that_fails_ends_the_pass_where_it_failed() -> None:
    def fail_at_eight(batch: list[torch.Tensor]) -> list[torch.Tensor]:
        if batch[0][0] == 8:
            raise ValueError("no eight")
        return batch

    loader = DataLoader(TensorDataset(Y), 4, batch_transform=fail_at_eight)
    iterator = iter(loader)
    next(iterator), next(iterator)
    with pytest.raises(ValueError, match="no eight"):
        next(iterator)
    assert loader.state_dict()["delivered"] == 2
    assert list(iterator) == []
    assert loader.state_dict()["delivered"] == 2


def test_a_seed_may_be_numpys() -> None:
    loader = DataLoader(X, 4, shuffle=True, seed=np.int64(3))  # type: ignore[arg-type]
    assert type(loader.state_dict()["seed"]) is int
