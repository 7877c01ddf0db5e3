"""The Trainer does exactly what a loop written by hand does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import DataLoader, Trainer

torch.manual_seed(0)
X = torch.randn(70, 6)
Y = torch.randint(0, 3, (70,))
EPOCHS = 6


def make_model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 3)
    )


def train_by_hand(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train as the tutorials do."""
    criterion = nn.CrossEntropyLoss()
    loader = TorchDataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    for _ in range(EPOCHS):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("engine", ["eager", "captured"])
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd:momentum=0.9", torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        ("adam", torch.optim.Adam, {"fused": True}),
        (
            "adamw:weight_decay=0.1",
            torch.optim.AdamW,
            {"weight_decay": 0.1, "fused": True},
        ),
        ("rmsprop", torch.optim.RMSprop, {}),
    ],
)
def test_same_seed_and_kernel_end_with_the_same_weights(
    name: str,
    kind: type[torch.optim.Optimizer],
    options: dict[str, object],
    engine: str,
) -> None:
    torch.set_num_threads(1)
    by_hand = make_model()
    torch.manual_seed(5)
    train_by_hand(by_hand, kind(by_hand.parameters(), lr=0.01, **options))  # type: ignore[call-arg]
    ours = make_model()
    torch.manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    trainer = Trainer(
        ours,
        loss="cross_entropy",
        optimizer=name,
        lr=0.01,
        seed=None,
        num_threads=1,
        engine=engine,
        progress="off",
    )
    run = trainer.fit(loader, epochs=EPOCHS)
    replayed = [e for e in run.events if "samples are replayed" in e["message"]]
    assert len(replayed) == (2 if engine == "captured" else 0)  # 16 and the last 6
    for key, value in by_hand.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
