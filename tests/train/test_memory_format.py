"""Memory format: chosen before the first update, exact in the optimiser's kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import ArgumentError
from handful.train.callbacks import FitState
from handful.train.kernels import make_update
from handful.train.memory_format import align_state, takes_images

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 4


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),  # BatchNorm has the bias
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=2),
        nn.Flatten(),
        nn.Linear(45, 4),
    )


def fit(model: nn.Module, *, epochs: int = 3, **options: Any) -> Run:
    where = {k: options.pop(k) for k in ("run_dir", "resume") if k in options}
    settings = {"loss": "cross_entropy", "lr": 0.01, "progress": "off", **options}
    trainer = Trainer(model, num_threads=1, **settings)
    loader = DataLoader((IMAGES, LABELS), batch_size=8, shuffle=True)
    return trainer.fit(loader, loader, epochs=epochs, **where)


@pytest.mark.parametrize("optimizer", ["adam", "sgd:momentum=0.9", "rmsprop"])
def test_both_formats_train_the_same_model(optimizer: str) -> None:
    models = {name: make_model() for name in ("contiguous", "channels_last")}
    for name, model in models.items():
        run = fit(model, memory_format=name, optimizer=optimizer)
        assert run.identity["memory_format"] == name
    one, other = (list(m.parameters()) for m in models.values())
    for a, b in zip(one, other, strict=True):
        # Sums are added up in another order: a hundred roundings apart at most.
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_images_reach_the_model_channels_last_and_weights_come_back() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.stride())
            return x

    model = nn.Sequential(Spy(), make_model())
    weight = next(model.parameters())
    fit(model, epochs=1, memory_format="channels_last")
    assert set(seen) == {(192, 1, 24, 3)}
    assert next(model.parameters()) is weight
    assert all(p.is_contiguous() for p in model.parameters())


def test_a_resumed_run_keeps_the_format_and_its_bits(tmp_path: Path) -> None:
    whole, parts = make_model(), make_model()
    fit(whole, memory_format="channels_last")
    fit(parts, memory_format="channels_last", epochs=1, run_dir=tmp_path / "run")
    again = make_model()
    run = fit(again, memory_format="auto", run_dir=tmp_path / "run", resume=True)
    assert run.identity["memory_format"] == "channels_last"
    pairs = zip(whole.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_auto_chooses_and_says_what() -> None:
    chosen = fit(make_model(), epochs=1).identity["memory_format"]
    assert chosen in ("contiguous", "channels_last")
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert fit(dense, epochs=1).identity["memory_format"] == "contiguous"
    assert not takes_images(dense, [IMAGES, LABELS])
    assert not takes_images(make_model(), [LABELS])


def test_state_and_gradients_lie_as_the_weights_do_in_fused_kernels() -> None:
    """Of a tensor that lies otherwise, a kernel would take the wrong values."""
    start = torch.randn(4, 3, 2, 2)
    grads = [torch.randn(4, 3, 2, 2) for _ in range(5)]

    def train(*, channels_last: bool) -> Tensor:
        weight = nn.Parameter(start.clone())
        if channels_last:
            weight.data = weight.data.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
        update = optimizer.step
        for step, grad in enumerate(grads):
            weight.grad = grad.clone().to(memory_format=torch.preserve_format)
            if step == 0:
                weight.grad = torch.empty_like(weight).copy_(grad)
            update()
            if step == 1:
                moment = optimizer.state[weight]["exp_avg"]
                optimizer.state[weight]["exp_avg"] = moment.contiguous()
                align_state(optimizer)
            if step in (0, 1):
                update = make_update(optimizer)
        return weight.detach()

    assert torch.equal(train(channels_last=False), train(channels_last=True))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'channels_last'"):
        fit(make_model(), memory_format="channel_last")


def test_the_users_fused_optimizer_goes_on_right_after_a_fit() -> None:
    """Its state lies as the weights do again, or its next step would be wrong."""
    ends = []
    for name in ("contiguous", "channels_last"):
        model = make_model().double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
        trainer = Trainer(
            model,
            loss="cross_entropy",
            optimizer=optimizer,
            memory_format=name,
            num_threads=1,
            progress="off",
        )
        data = DataLoader((IMAGES.double(), LABELS), batch_size=8, shuffle=True)
        trainer.fit(data, epochs=1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(IMAGES.double()), LABELS).backward()
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def test_buffers_of_images_keep_their_layout() -> None:
    model = make_model()
    model.register_buffer("places", torch.zeros(1, 3, 8, 8))
    fit(model, epochs=1, memory_format="channels_last")
    assert model.places.is_contiguous()


def test_weights_that_a_callback_replaced_are_left_as_they_are() -> None:
    class Replace(Callback):
        def on_epoch_end(self, state: FitState, record: dict[str, Any]) -> None:
            assert state.model is not None
            weights = {k: v.clone() for k, v in state.model.state_dict().items()}
            state.model.load_state_dict(weights, assign=True)

    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    batch = [torch.randn(4, 2, 4, 4), torch.randint(2, (4,))]
    trainer = Trainer(
        model, loss="cross_entropy", callbacks=[Replace()], progress="off"
    )
    run = trainer.fit([batch], epochs=3)
    assert run.status == "finished"
