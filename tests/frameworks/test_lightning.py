"""Lightning: its Trainer on a loader of ours, rebuilt by it or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import DataLoader
from handful.data.order import epoch_permutation
from handful.errors import ArgumentError

lightning = pytest.importorskip("lightning", reason="the package lightning is missing")

# Lightning remarks on devices, workers and the number of logged steps.
pytestmark = pytest.mark.filterwarnings("ignore")

NUM_SAMPLES = 60
DATA = TensorDataset(
    torch.randn(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(0)),
    torch.arange(NUM_SAMPLES),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


class Regression(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Keeps the losses of its steps and which samples they had."""

    def __init__(self, make_train: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.model = nn.Linear(4, 1)
        self.make_train = make_train
        self.losses: list[float] = []
        self.samples: list[list[int]] = []

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        loss = self.measure(batch)
        self.losses.append(loss.item())
        self.samples.append(batch[1].tolist())
        return loss

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.losses.append(self.measure(batch).item())

    def predict_step(self, batch: list[Tensor], number: int) -> Tensor:
        self.samples.append(batch[1].tolist())
        return self.model(batch[0])

    def measure(self, batch: list[Tensor]) -> Tensor:
        return ((self.model(batch[0]).squeeze(1) - batch[1] / 30) ** 2).mean()

    def train_dataloader(self) -> Any:
        assert self.make_train is not None
        return self.make_train()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(**settings: Any) -> Any:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(
        **{"max_epochs": 2, "accelerator": "cpu", **quiet, **settings}
    )


def make_module(*args: Any) -> Any:
    torch.manual_seed(0)
    module = Regression(*args)
    torch.manual_seed(1)
    return module


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("settings", [{}, {"overfit_batches": 2}], ids=str)
def test_losses_equal_those_with_pytorchs_loader(
    settings: dict[str, Any], shuffle: bool, num_workers: int
) -> None:
    found = []
    for kind in (TorchDataLoader, DataLoader):
        module, trainer = make_module(), make_trainer(**settings)
        train = kind(DATA, batch_size=8, shuffle=shuffle, num_workers=num_workers)
        trainer.fit(module, train, kind(DATA, batch_size=16))
        found.append((module.losses, module.samples))
        assert isinstance(trainer.train_dataloader, kind)
    assert trainer.train_dataloader.path.startswith("batched")
    assert found[0] == found[1]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_predictions_equal_those_with_pytorchs_loader(
    shuffle: bool, drop_last: bool
) -> None:
    found = []
    for kind in (TorchDataLoader, DataLoader):
        module = make_module()
        loader = kind(DATA, batch_size=7, shuffle=shuffle, drop_last=drop_last)
        found.append(
            (torch.cat(make_trainer().predict(module, loader)), module.samples)
        )
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_validation_alone_equals_that_with_pytorchs_loader() -> None:
    found = []
    for kind in (TorchDataLoader, DataLoader):
        module = make_module()
        make_trainer().validate(module, kind(DATA, batch_size=7))
        found.append(module.losses)
    assert found[0] == found[1]


ARGUMENTS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 3},
    "seed, shuffled": {"seed": 3, "shuffle": True},
    "shard": {"seed": 3, "shard": (1, 2)},
    "shard, shuffled": {"seed": 3, "shard": (1, 2), "shuffle": True},
    "transform": {"batch_transform": lambda batch: [batch[0] * 2, batch[1]]},
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_loader_rebuilt_for_prediction_keeps_its_arguments(
    arguments: dict[str, Any],
) -> None:
    expected = list(DataLoader(DATA, batch_size=8, **arguments))
    module, trainer = make_module(), make_trainer()
    loader = DataLoader(DATA, batch_size=8, **arguments)
    made = trainer.predict(module, loader)
    rebuilt = trainer.predict_dataloaders
    assert rebuilt is not loader
    assert type(rebuilt) is DataLoader
    for name in ("seed", "shard", "batch_transform", "device", "drop_last"):
        assert getattr(rebuilt, name) == getattr(loader, name)
    assert module.samples == [batch[1].tolist() for batch in expected]
    for output, batch in zip(made, expected, strict=True):
        assert torch.equal(output, module.model(batch[0]).detach())


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_overfitting_takes_the_first_batches_in_order(
    arguments: dict[str, Any],
) -> None:
    module, trainer = make_module(), make_trainer(overfit_batches=2)
    loader = DataLoader(DATA, batch_size=8, **arguments)
    trainer.fit(module, loader)
    rank, world_size = arguments.get("shard", (0, 1))
    first = list(range(rank, NUM_SAMPLES, world_size))
    assert module.samples == [first[:8], first[8:16]] * 2
    for name in ("seed", "shard", "batch_transform"):
        assert getattr(trainer.train_dataloader, name) == getattr(loader, name)


def test_a_loader_made_in_a_hook_is_rebuilt_alike() -> None:
    module = make_module(
        lambda: DataLoader(DATA, 8, shuffle=True, seed=3, shard=(0, 2))
    )
    trainer = make_trainer(overfit_batches=1)
    trainer.fit(module)
    assert module.samples == [list(range(0, 16, 2))] * 2
    assert trainer.train_dataloader.shard == (0, 2)


def test_seeded_epochs_have_orders_of_their_own() -> None:
    module = make_module()
    make_trainer().fit(module, DataLoader(DATA, 8, shuffle=True, seed=3))
    for epoch in range(2):
        batches = module.samples[epoch * 8 : (epoch + 1) * 8]
        seen = [number for batch in batches for number in batch]
        assert seen == epoch_permutation(NUM_SAMPLES, seed=3, epoch=epoch).tolist()


def test_seeding_workers_leaves_the_batched_path() -> None:
    lightning.seed_everything(0, workers=True, verbose=False)
    try:
        trainer = make_trainer()
        trainer.fit(make_module(), DataLoader(DATA, 8, shuffle=True))
        assert trainer.train_dataloader.worker_init_fn is not None
        assert trainer.train_dataloader.path.startswith("batched")
    finally:
        lightning.fabric.utilities.seed.reset_seed()


def test_a_foreign_order_in_place_of_a_seeded_one_is_refused() -> None:
    sampler = torch.utils.data.DistributedSampler(DATA, num_replicas=2, rank=0)
    with pytest.raises(ArgumentError, match="seed must be None when a sampler orders"):
        DataLoader(DATA, 8, sampler=sampler, shuffle=False, seed=3)


STEPS_PER_EPOCH = 8


def resume(folder: Path, callback: Any, name: str, **arguments: Any) -> tuple[Any, Any]:
    """Train for three epochs at once, and again from a checkpoint of that."""
    modules = []
    for path, callbacks in ((None, [callback]), (folder / name, [])):
        module = make_module()
        trainer = make_trainer(
            max_epochs=3,
            callbacks=callbacks,
            enable_checkpointing=True,
            default_root_dir=folder,
        )
        loader = DataLoader(DATA, 8, shuffle=True, **arguments)
        trainer.fit(module, loader, ckpt_path=path, weights_only=False)
        modules.append(module)
    return modules[0], modules[1]


@pytest.mark.parametrize("after_steps", [3, 11])
@pytest.mark.parametrize("arguments", [{}, {"seed": 3}], ids=["drawn", "seeded"])
def test_a_training_goes_on_in_the_middle_of_an_epoch(
    tmp_path: Path, arguments: dict[str, Any], after_steps: int
) -> None:
    class Save(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == after_steps:
                trainer.save_checkpoint(tmp_path / "state.ckpt")

    whole, rest = resume(tmp_path, Save(), "state.ckpt", **arguments)
    # Lightning does not keep the generator that later epochs are drawn from.
    stop = None if arguments else -after_steps % STEPS_PER_EPOCH
    assert rest.samples[:stop] == whole.samples[after_steps:][:stop]
    assert rest.losses[:stop] == whole.losses[after_steps:][:stop]
    assert len(rest.samples) == 3 * STEPS_PER_EPOCH - after_steps


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_training_goes_on_after_an_epoch(tmp_path: Path, epoch: int) -> None:
    save = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, save_top_k=-1, filename="{epoch}"
    )
    whole, rest = resume(tmp_path, save, f"epoch={epoch}.ckpt", seed=3)
    assert rest.samples == whole.samples[(epoch + 1) * STEPS_PER_EPOCH :]
    assert rest.losses == whole.losses[(epoch + 1) * STEPS_PER_EPOCH :]
