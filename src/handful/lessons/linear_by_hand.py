"""A linear model of five inputs whose parameters are updated by hand.

The first program of "Training": ten steps on 20 random samples, each parameter updated
through its ``.data`` after its gradient was set to None. Beside it stands the update of
"SGD and Mini-Batches", ``parameters -= parameters.grad * lr``, on the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.report.bands import SeedCurves, draw_bands

TUTORIAL_LOSSES = (
    *(880.1790, 872.0485, 863.9950, 856.0178, 848.1162),
    *(840.2894, 832.5369, 824.8579, 817.2516, 809.7174),
)
WEIGHTS, BIAS = (0.3, 4.0, 0.2, 2.5, 18.0), 17.0
"""What the target is made with."""

LR, STEPS = 1e-3, 10
FAST_LR = 0.2
"""A rate at which the same model is trained to the end."""

CORRECTION = (
    "After its ten steps at a rate of 0.001 the program has more than nine tenths of "
    "its loss left, and it updates through `.data`, where autograd cannot see that a "
    'value it needs has changed; `parameters -= parameters.grad * lr` of "SGD and '
    'Mini-Batches" raises outside torch.no_grad(), and since nothing clears the '
    "gradients they add up, so that the loss swings instead of settling."
)

Update = Callable[[Iterable[nn.Parameter], float], None]


def run(options: LessonOptions) -> LessonResult:
    """Take the ten steps, and see what the ways of updating and clearing do.

    Args:
        options: ``seed`` draws the samples and the first weights, which the tutorial
            leaves to chance; ``quick`` takes fewer steps and seeds.

    Returns:
        The ten ``losses``, the ``accumulated`` ones of steps whose gradients are never
        cleared, the ``first_losses`` of several seeds; as printed also the error of
        updating a parameter in place, else the losses ``trained`` at a rate of 0.2 and
        the weights that they end with.
    """
    update = update_data if options.as_printed else update_no_grad
    num_seeds, steps = (5, 40) if options.quick else (100, 200)
    losses, model = _train(options.seed, STEPS, LR, update)
    swing, _ = _train(options.seed, steps, LR, update, clears=False)
    slow, _ = _train(options.seed, steps, LR, update)
    seeds = range(options.seed, options.seed + num_seeds)
    many = np.array([_train(seed, STEPS, LR, update)[0] for seed in seeds])
    numbers: dict[str, Any] = {
        "losses": losses,
        "accumulated": swing,
        "cleared": slow,
        "first_losses": many[:, 0].tolist(),
        "stays_a_leaf": all(one.is_leaf for one in model.parameters()),
        "stale_gradient": find_stale_gradient(update),
    }
    lines = [*_tell_ten(losses), *_tell_effects(numbers, options)]
    curves = {f"cleared, lr {LR}": slow, f"never cleared, lr {LR}": swing}
    if options.as_printed:
        numbers["error"] = find_in_place_error(options.seed)
        lines.append(f"parameters -= parameters.grad * lr: {numbers['error']}")
    else:
        trained = _train_to_the_end(options)
        numbers |= trained
        curves[f"cleared, lr {FAST_LR}"] = trained["trained"]
        lines.append(_tell_trained(trained))
    return LessonResult(
        lines=lines,
        numbers=numbers,
        printed=_compare(losses),
        figures={"ten-losses": _draw_ten(many), "gradients": _draw_curves(curves)},
        correction=CORRECTION,
    )


def make_problem(seed: int) -> tuple[Tensor, Tensor, nn.Linear]:
    """Draw 20 samples and a linear model, as the program does after seeding PyTorch.

    Args:
        seed: The seed; the global generator is as it was afterwards.

    Returns:
        Inputs float32 ``(20, 5)`` in [0, 1), target float32 ``(20,)``, model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = torch.rand(20, 5)
        return inputs, inputs @ torch.tensor(WEIGHTS) + BIAS, nn.Linear(5, 1)


def update_data(parameters: Iterable[nn.Parameter], lr: float) -> None:
    """Update through ``.data``: in place, unseen by autograd, also by its checks."""
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.data -= lr * parameter.grad


def update_no_grad(parameters: Iterable[nn.Parameter], lr: float) -> None:
    """Update in place where nothing is recorded; autograd counts the change."""
    with torch.no_grad():
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.sub_(lr * parameter.grad)


def _train(
    seed: int, steps: int, lr: float, update: Update, *, clears: bool = True
) -> tuple[list[float], nn.Linear]:
    """Take steps on all samples; return the losses before each, and the model."""
    inputs, target, model = make_problem(seed)
    losses = []
    for _ in range(steps):
        # Without squeeze, (20, 1) and (20,) would be broadcast to (20, 20).
        loss = functional.mse_loss(model(inputs).squeeze(), target)
        if clears:
            for parameter in model.parameters():
                parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        update(model.parameters(), lr)
        losses.append(loss.item())
    return losses, model


def _train_to_the_end(options: LessonOptions) -> dict[str, Any]:
    steps = 40 if options.quick else 1000
    losses, model = _train(options.seed, steps, FAST_LR, update_no_grad)
    weights = model.weight.detach()[0].tolist()
    return {"trained": losses, "weights": weights, "bias": model.bias.item()}


def find_in_place_error(seed: int) -> str | None:
    """Update a parameter in place as "SGD and Mini-Batches" does.

    Returns:
        PyTorch's error; None if there is none.
    """
    inputs, target, model = make_problem(seed)
    functional.mse_loss(model(inputs).squeeze(), target).backward()  # type: ignore[no-untyped-call]
    parameters = model.weight
    assert parameters.grad is not None
    try:
        parameters -= parameters.grad * LR
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    return None


def find_stale_gradient(update: Update) -> float | str:
    """Update a parameter between forward and backward of w² at w = 1.

    Args:
        update: Moves the parameter by -1 times its gradient, here to 0.

    Returns:
        The derivative that comes out, where 2 is right; or PyTorch's error.
    """
    weight = nn.Parameter(torch.ones(()))
    squared = weight**2
    weight.grad = torch.ones(())
    update([weight], 1.0)
    weight.grad = None
    try:
        squared.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return f"RuntimeError: {str(error).split(';')[0].split(': [')[0]}"
    assert weight.grad is not None
    return float(weight.grad)


def _tell_ten(losses: list[float]) -> list[str]:
    return [f"step {step}: loss {loss:.4f}" for step, loss in enumerate(losses, 1)]


def _tell_effects(numbers: dict[str, Any], options: LessonOptions) -> list[str]:
    way = ".data -=" if options.as_printed else "-= under torch.no_grad()"
    swing = numbers["accumulated"]
    first = np.array(numbers["first_losses"])
    lowest = int(np.argmin(swing)) + 1
    return [
        f"left of the first loss after nine steps: "
        f"{numbers['losses'][-1] / numbers['losses'][0]:.1%}",
        f"first loss over {len(first)} seeds: {first.min():.0f} to {first.max():.0f}, "
        f"median {np.median(first):.0f}; the tutorial's is {TUTORIAL_LOSSES[0]:.0f}",
        f"{way} keeps each parameter the model's own leaf: {numbers['stays_a_leaf']}",
        f"{way} between forward and backward of w² at w = 1, where the derivative is "
        f"2: {numbers['stale_gradient']}",
        f"gradients never cleared: loss {swing[0]:.1f} at first, {min(swing):.1f} at "
        f"step {lowest}, {max(swing[lowest - 1 :]):.1f} at most after that",
        f"gradients cleared: loss {numbers['cleared'][-1]:.1f} at step {len(swing)}",
    ]


def _tell_trained(trained: dict[str, Any]) -> str:
    weights = ", ".join(f"{weight:.3f}" for weight in trained["weights"])
    return (
        f"lr {FAST_LR}, {len(trained['trained'])} steps: loss "
        f"{trained['trained'][-1]:.3g}, weights {weights}, bias {trained['bias']:.3f}"
    )


def _compare(losses: list[float]) -> list[Printed]:
    shapes = [
        Printed("X.shape", "torch.Size([20, 5])", "torch.Size([20, 5])"),
        Printed("y.shape", "torch.Size([20])", "torch.Size([20])"),
    ]
    return shapes + [
        Printed(f"loss, step {step}", f"{theirs:.4f}", f"{ours:.4f}", is_sample=True)
        for step, (theirs, ours) in enumerate(
            zip(TUTORIAL_LOSSES, losses, strict=True), 1
        )
    ]


def _draw_ten(many: np.ndarray[Any, np.dtype[np.float64]]) -> Figure:
    """Draw the tutorial's ten losses among those of many seeds."""
    steps = np.arange(1, STEPS + 1, dtype=np.float64)
    return draw_bands(
        [
            SeedCurves(f"{len(many)} seeds", steps, many),
            SeedCurves("the tutorial", steps, np.array([TUTORIAL_LOSSES])),
        ],
        x_label="step",
        y_label="loss",
        spread="range",
        title="The tutorial's ten losses are one draw among many",
    )


def _draw_curves(curves: dict[str, list[float]]) -> Figure:
    steps = min(map(len, curves.values()))
    grid = np.arange(1, steps + 1, dtype=np.float64)
    return draw_bands(
        [
            SeedCurves(name, grid, np.array([losses[:steps]]))
            for name, losses in curves.items()
        ],
        x_label="step",
        y_label="loss",
        title="Gradients that are cleared, and gradients that add up",
    )
