"""Several micro-batches give the gradients of one batch: against PyTorch by hand."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from handful import DataLoader, Trainer

CLASSES = 4
TOKENS = 3
CLASS_WEIGHTS = [0.3, 1.0, 2.5, 0.7]


class Net(nn.Module):
    """One or two inputs; outputs of shape ``(N, K)`` or ``(N, K, d)``."""

    def __init__(self, shape: tuple[int, ...], *, is_log: bool = False) -> None:
        super().__init__()
        self.shape, self.is_log = shape, is_log
        width = int(torch.Size(shape).numel())
        self.first, self.other = nn.Linear(3, 6), nn.Linear(2, 6)
        self.last = nn.Linear(6, width)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        hidden = self.first(x)
        if z is not None:
            hidden = hidden + self.other(z)
        output: Tensor = self.last(torch.tanh(hidden)).reshape(-1, *self.shape)
        return output.log_softmax(1) if self.is_log else output


@dataclass(frozen=True)
class Case:
    """A loss by name, and what plain PyTorch calls it."""

    loss: Any
    by_hand: Callable[..., Tensor]
    """Of output, target and ``reduction``."""
    shape: tuple[int, ...] = (CLASSES,)
    """Of an output, without the samples."""
    target: str = "labels"
    class_weights: list[float] | None = None
    ignored: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def by_name(name: str, **options: Any) -> Any:
    return {"name": name, **options} if options else name


def of_classes(name: str, function: Any, **options: Any) -> Case:
    """Make a case of cross entropy or nll from the arguments that both take."""
    shape = options.pop("shape", (CLASSES,))
    weight = options.get("weight")
    hand = {k: v for k, v in options.items() if k != "weight"}
    if weight is not None:
        hand["weight"] = torch.tensor(weight, dtype=torch.float64)
    return Case(
        by_name(name, **options),
        functools.partial(function, **hand),
        shape=shape,
        class_weights=weight,
        ignored=options.get("ignore_index", -100),
        options={"is_log": name == "nll"},
    )


ALL = {"weight": CLASS_WEIGHTS, "ignore_index": 1}
SEQUENCES = (CLASSES, TOKENS)
CASES = {
    "cross entropy": of_classes("cross_entropy", F.cross_entropy),
    "class weights": of_classes("cross_entropy", F.cross_entropy, weight=CLASS_WEIGHTS),
    "everything": of_classes(
        "cross_entropy", F.cross_entropy, label_smoothing=0.2, **ALL
    ),
    "tokens": of_classes("cross_entropy", F.cross_entropy, shape=SEQUENCES),
    "tokens with everything": of_classes(
        "cross_entropy", F.cross_entropy, label_smoothing=0.1, shape=SEQUENCES, **ALL
    ),
    "nll": of_classes("nll", F.nll_loss, **ALL),
    "nll of tokens": of_classes("nll", F.nll_loss, shape=SEQUENCES),
    "probabilities": Case("cross_entropy", F.cross_entropy, target="shares"),
    "probabilities of tokens": Case(
        "cross_entropy:label_smoothing=0.1",
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        shape=SEQUENCES,
        target="shares",
    ),
    "weighted probabilities": Case(
        by_name("cross_entropy", weight=CLASS_WEIGHTS),
        functools.partial(
            F.cross_entropy, weight=torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
        ),
        target="shares",
    ),
    "binary": Case(
        "bce_with_logits", F.binary_cross_entropy_with_logits, (1,), target="bits"
    ),
    "multi-label": Case(
        by_name("bce_with_logits", pos_weight=CLASS_WEIGHTS),
        functools.partial(
            F.binary_cross_entropy_with_logits,
            pos_weight=torch.tensor(CLASS_WEIGHTS, dtype=torch.float64),
        ),
        target="bits",
    ),
    "mse": Case("mse", F.mse_loss, target="numbers"),
    "mse of sequences": Case("mse", F.mse_loss, SEQUENCES, target="numbers"),
    "mae": Case("mae", F.l1_loss, target="numbers"),
    "huber": Case(
        "huber:delta=0.5", functools.partial(F.huber_loss, delta=0.5), target="numbers"
    ),
    "smooth l1": Case(
        "smooth_l1:beta=0.5",
        functools.partial(F.smooth_l1_loss, beta=0.5),
        target="numbers",
    ),
    "poisson": Case(
        "poisson_nll:full=true",
        functools.partial(F.poisson_nll_loss, full=True),
        target="counts",
    ),
    "a module": Case(
        nn.CrossEntropyLoss(ignore_index=2),
        functools.partial(F.cross_entropy, ignore_index=2),
        ignored=2,
    ),
    "a function of torch": Case(F.cross_entropy, F.cross_entropy, ignored=-100),
    "a partial function": Case(
        functools.partial(F.cross_entropy, ignore_index=0),
        functools.partial(F.cross_entropy, ignore_index=0),
        ignored=0,
    ),
    "a callable": Case(
        lambda output, target: (output - target).pow(4).mean(),
        lambda output, target, reduction="mean": (
            (output - target).pow(4).mean()
            if reduction == "mean"
            else (output - target).pow(4)
        ),
        target="numbers",
    ),
}
BY_NAME = sorted(name for name, case in CASES.items() if name != "a callable")


@dataclass
class Batch:
    """Samples with all that a layout may leave out."""

    x: Tensor
    z: Tensor
    y: Tensor
    w: Tensor


def make_target(case: Case, count: int) -> Tensor:
    if case.target == "labels":
        target = torch.randint(0, CLASSES, (count, *case.shape[1:]))
        ignored = torch.rand(target.shape) < 0.4
        return target.masked_fill(ignored, case.ignored or 0)
    values = torch.randn(count, *case.shape, dtype=torch.float64)
    made = {
        "shares": values.softmax(1),
        "bits": (values > 0).double(),
        "counts": (3 * values.abs()).floor(),
        "numbers": values,
    }
    return made[case.target]


def make_batches(case: Case, steps: list[list[int]]) -> list[list[Batch]]:
    """Make each step's micro-batches; the first of them has no label to learn from."""
    made = []
    for sizes in steps:
        step = []
        for place, size in enumerate(sizes):
            x = torch.randn(size, 3, dtype=torch.float64)
            z = torch.randn(size, 2, dtype=torch.float64)
            w = torch.rand(size, dtype=torch.float64) * (torch.rand(size) < 0.7)
            batch = Batch(x, z, make_target(case, size), w)
            if case.target == "labels" and case.ignored is not None:
                if place == 0:
                    batch.y.fill_(case.ignored)
                else:
                    batch.y[0] = 3  # so that each step has something to divide by
            elif place == 0:
                batch.w.zero_()
            if place:
                batch.w[0] = 1.5
            step.append(batch)
        made.append(step)
    return made


def join(batches: list[Batch]) -> Batch:
    names = ("x", "z", "y", "w")
    return Batch(*(torch.cat([getattr(b, name) for b in batches]) for name in names))


LAYOUTS: dict[str, tuple[Callable[[Batch], Any], Callable[[Batch], Any], Any]] = {
    # of a batch, with weights and without; where the weights are
    "tuple": (lambda b: (b.x, b.y), lambda b: (b.x, b.y, b.w), -1),
    "two inputs": (lambda b: (b.x, b.z, b.y), lambda b: (b.w, b.x, b.z, b.y), 0),
    "dictionary": (
        lambda b: {"x": b.x, "y": b.y},
        lambda b: {"w": b.w, "x": b.x, "y": b.y},
        "w",
    ),
    "two keys": (
        lambda b: {"x": b.x, "z": b.z, "label": b.y},
        lambda b: {"x": b.x, "w": b.w, "z": b.z, "label": b.y},
        "w",
    ),
}


def loss_by_hand(
    case: Case, output: Tensor, batch: Batch, *, weighted: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch as PyTorch has it, and what it is divided by."""
    samples = torch.ones(len(batch.y), dtype=torch.float64)
    if case.target == "labels":
        counted = batch.y != case.ignored
        listed = case.class_weights or [1.0] * CLASSES
        classes = torch.tensor(listed, dtype=torch.float64)
        each = classes[torch.where(counted, batch.y, 0)] * counted
        samples = each.reshape(len(batch.y), -1).sum(1)
    elif case.target == "shares":
        samples = samples * int(torch.Size(case.shape[1:]).numel())
    if not weighted:
        return case.by_hand(output, batch.y), samples.sum()
    losses = case.by_hand(output, batch.y, reduction="none").reshape(len(batch.y), -1)
    is_summed = case.target in ("labels", "shares")
    losses = losses.sum(1) if is_summed else losses.mean(1)
    weight = (batch.w * samples).sum()
    return (losses * batch.w).sum() / weight, weight


def train_by_hand(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: list[list[Batch]],
    *,
    weighted: bool,
    two: bool,
) -> tuple[list[float], float]:
    """Train on one batch a step; return the losses and their mean over the epoch."""
    losses, weights = [], []
    for step in steps:
        batch = join(step)
        optimizer.zero_grad()
        output = model(batch.x, batch.z) if two else model(batch.x)
        loss, weight = loss_by_hand(case, output, batch, weighted=weighted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        weights.append(weight.item())
    mean = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    return losses, mean


def make_net(case: Case) -> Net:
    torch.manual_seed(3)
    return Net(case.shape, **case.options).double()


def assert_close(one: nn.Module, other: nn.Module, atol: float) -> None:
    for key, value in one.state_dict().items():
        torch.testing.assert_close(
            other.state_dict()[key], value, rtol=0, atol=atol, msg=key
        )


def check_case(
    name: str, seed: int, steps: list[list[int]], layout: str, *, weighted: bool
) -> None:
    """Compare ``accumulate`` and ``micro_batch_size`` with one batch a step."""
    case = CASES[name]
    torch.manual_seed(seed)
    batches, (held_out, *_) = make_batches(case, steps), make_batches(case, [[3, 5, 2]])
    without, with_weights, place = LAYOUTS[layout]
    pack = with_weights if weighted else without
    two = layout in ("two inputs", "two keys")
    expected = make_net(case)
    losses, mean = train_by_hand(
        case,
        expected,
        torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9),
        batches,
        weighted=weighted,
        two=two,
    )
    whole = join(held_out)
    with torch.no_grad():
        output = expected(whole.x, whole.z) if two else expected(whole.x)
        held_out_loss, _ = loss_by_hand(case, output, whole, weighted=weighted)
    most = len(batches[0])
    loaders = {
        "accumulate": [pack(batch) for step in batches for batch in step],
        "micro_batch_size": [pack(join(step)) for step in batches],
    }
    for setting, loader in loaders.items():
        trainer = Trainer(
            make_net(case),
            loss=case.loss,
            optimizer="sgd:momentum=0.9",
            lr=0.1,
            sample_weight=place if weighted else None,
            progress="off",
            num_threads=None,
            **{setting: most if setting == "accumulate" else 2},  # type: ignore[arg-type]
        )
        run = trainer.fit(loader, [pack(batch) for batch in held_out], epochs=1)
        assert_close(expected, trainer.model, 1e-10)
        assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        assert run.history[0]["train_loss"] == pytest.approx(mean, rel=1e-10)
        valid_loss = run.history[0]["valid_loss"]
        assert valid_loss == pytest.approx(held_out_loss.item(), rel=1e-10)


@st.composite
def ragged_steps(draw: st.DrawFn) -> list[list[int]]:
    """Draw the sizes of the micro-batches of some steps, fewer in the last."""
    count = draw(st.integers(2, 4))
    step = st.lists(st.integers(1, 5), min_size=count, max_size=count)
    steps = draw(st.lists(step, min_size=2, max_size=4))
    return [*steps[:-1], steps[-1][: draw(st.integers(2, count))]]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(CASES)),
    seed=st.integers(0, 2**31),
    steps=ragged_steps(),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_micro_batches_equal_one_batch(
    name: str, seed: int, steps: list[list[int]], layout: str
) -> None:
    check_case(name, seed, steps, layout, weighted=False)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(BY_NAME),
    seed=st.integers(0, 2**31),
    steps=ragged_steps(),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_weighted_micro_batches_equal_one_batch(
    name: str, seed: int, steps: list[list[int]], layout: str
) -> None:
    check_case(name, seed, steps, layout, weighted=True)


@pytest.mark.parametrize(
    ("name", "weighted"),
    [(name, False) for name in sorted(CASES)] + [(name, True) for name in BY_NAME],
)
def test_each_loss_adds_up_over_micro_batches(name: str, weighted: bool) -> None:
    check_case(name, 7, [[3, 1, 4], [2, 5, 2], [1, 3]], "two inputs", weighted=weighted)


@pytest.mark.parametrize("setting", ["accumulate", "micro_batch_size"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd:momentum=0.9"])
def test_a_hundred_steps_in_float32_stay_within_rounding(
    optimizer: str, setting: str
) -> None:
    case = CASES["everything"]
    torch.manual_seed(5)
    batches = make_batches(case, [[4, 3, 5, 2]] * 100)
    for step in batches:
        for batch in step:
            batch.x, batch.z = batch.x.float(), batch.z.float()
    expected, ours = make_net(case).float(), make_net(case).float()
    made: torch.optim.Optimizer = torch.optim.Adam(expected.parameters(), lr=0.01)
    if optimizer != "adam":
        made = torch.optim.SGD(expected.parameters(), lr=0.01, momentum=0.9)
    hand = functools.partial(
        F.cross_entropy,
        label_smoothing=0.2,
        ignore_index=1,
        weight=torch.tensor(CLASS_WEIGHTS),
    )
    for step in batches:
        batch = join(step)
        made.zero_grad()
        hand(expected(batch.x), batch.y).backward()
        made.step()
    loader = [(b.x, b.y) for step in batches for b in step]
    if setting == "micro_batch_size":
        loader = [(b.x, b.y) for b in map(join, batches)]
    Trainer(
        ours,
        loss=case.loss,
        optimizer=optimizer,
        lr=0.01,
        progress="off",
        num_threads=None,
        **{setting: 4},  # type: ignore[arg-type]
    ).fit(loader, epochs=1)
    moved = 0.0
    for key, value in expected.state_dict().items():
        largest = value.abs().max().item()
        difference = (ours.state_dict()[key] - value).abs().max().item()
        assert difference <= 1e-5 * largest, key
        moved = max(moved, (value - make_net(case).state_dict()[key]).abs().max())
    assert moved > 0.05


def mean_step(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def sum_step(model: nn.Module, batch: Any) -> dict[str, Any]:
    x, y = batch
    output = model(x)
    mask = y[:, 0] > 0  # a weight of the step's own, a tensor
    losses = (output - y).square().mean(1)
    return {
        "loss_sum": (losses * mask).sum(),
        "weight": mask.sum(),
        "hits_sum": mask.sum(),
        "output": output,
        "target": y,
    }


def masked_mean(output: Tensor, target: Tensor) -> Tensor:
    mask = target[:, 0] > 0
    return (output - target).square().mean(1)[mask].mean()


@pytest.mark.parametrize("setting", ["accumulate", "micro_batch_size"])
@pytest.mark.parametrize(
    ("step", "by_hand"), [(mean_step, F.mse_loss), (sum_step, masked_mean)]
)
def test_a_step_of_ones_own_adds_up_over_micro_batches(
    step: Any, by_hand: Any, setting: str
) -> None:
    case = CASES["mse"]
    torch.manual_seed(11)
    batches = make_batches(case, [[3, 1, 4], [2, 5, 2], [4, 3]])
    batches[1][0].y[:, 0] = -1.0  # a micro-batch of which nothing counts
    batches[0][0].y[0, 0] = 1.0
    expected = make_net(case)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    losses, weights = [], []
    for micro in batches:
        batch = join(micro)
        optimizer.zero_grad()
        loss = by_hand(expected(batch.x), batch.y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        is_masked = by_hand is masked_mean
        weights.append(int((batch.y[:, 0] > 0).sum()) if is_masked else len(batch.y))
    loader = [(b.x, b.y) for micro in batches for b in micro]
    if setting == "micro_batch_size":
        loader = [(b.x, b.y) for b in map(join, batches)]
    trainer = Trainer(
        make_net(case),
        step=step,
        optimizer="sgd",
        lr=0.1,
        progress="off",
        num_threads=None,
        **{setting: 3},
    )
    run = trainer.fit(loader, epochs=1)
    assert_close(expected, trainer.model, 1e-10)
    assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-6)
    mean = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    assert run.history[0]["train_loss"] == pytest.approx(mean, rel=1e-10)
    if step is sum_step:
        assert run.history[0]["train_hits"] == pytest.approx(1)


def test_mean_of_batches_is_the_plain_one_of_steps_and_validation_batches() -> None:
    case = CASES["mse"]
    torch.manual_seed(2)
    step = make_batches(case, [[5, 2, 3]])[0]
    loader = [(b.x, b.y) for b in step]
    model = make_net(case)
    expected = [F.mse_loss(model(x), y).item() for x, y in loader]
    trainer = Trainer(
        model,
        loss="mse",
        optimizer="sgd",
        lr=1e-12,
        loss_average="batches",
        progress="off",
    )
    run = trainer.fit(loader, loader, epochs=1)
    mean = sum(expected) / 3
    assert run.history[0]["train_loss"] == pytest.approx(mean, rel=1e-9)
    assert run.history[0]["valid_loss"] == pytest.approx(mean, rel=1e-9)


def test_a_validation_batch_without_a_label_counts_nothing_in_either_mean() -> None:
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, -100, -100])
    loader = [(x[:3], y[:3]), (x[3:4], y[3:4]), (x[4:], y[4:])]
    model = Net((CLASSES,))
    with torch.no_grad():
        first = F.cross_entropy(model(x[:3]), y[:3]).item()
        second = F.cross_entropy(model(x[3:4]), y[3:4]).item()
    for average, expected in (
        ("samples", (3 * first + second) / 4),
        ("batches", (first + second) / 2),
    ):
        trainer = Trainer(
            model, loss="cross_entropy", loss_average=average, progress="off"
        )
        assert trainer.evaluate(loader)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.BatchNorm1d(6), r"BatchNorm \(.1.\) normalises each by itself"),
        (nn.Dropout(0.5), r"dropout \(.1.\) draws other masks"),
    ],
)
@pytest.mark.parametrize("setting", ["accumulate", "micro_batch_size"])
def test_a_note_says_which_layers_keep_micro_batches_from_being_equal(
    layer: nn.Module, says: str, setting: str
) -> None:
    loader = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(4)]
    model = nn.Sequential(nn.Linear(3, 6), layer, nn.Linear(6, 1))
    for value, count in ((2, 1), (None, 0)):
        given = {} if value is None else {setting: value}
        trainer = Trainer(model, loss="mse", progress="off", **given)
        run = trainer.fit(loader, epochs=1)
        notes = [e for e in run.events if e["kind"] == "note"]
        assert len(notes) == count
        assert all(re.search(says, str(note)) for note in notes)


def test_labels_ignored_in_validation_alone_are_left_out_there() -> None:
    x, y = torch.randn(12, 3), torch.randint(0, CLASSES, (12,))
    held_out = y.masked_fill(torch.arange(12) % 5 < 3, -100)
    trainer = Trainer(
        Net((CLASSES,)), loss="cross_entropy", progress="off", num_threads=None
    )
    run = trainer.fit(
        DataLoader((x, y), batch_size=4),
        DataLoader((x, held_out), batch_size=5, shuffle=False),
        epochs=2,
    )
    with torch.no_grad():
        expected = F.cross_entropy(trainer.model(x), held_out).item()
    assert run.history[-1]["valid_loss"] == pytest.approx(expected, rel=1e-6)
