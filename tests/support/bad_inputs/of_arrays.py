"""Bad arrays, in a recipe of the user's own: files can't hold all of them."""

from __future__ import annotations

from bad_inputs.case import Case, writes

ARRAYS = "Arrays"

_RECIPE = """
import numpy as np
import torch
from torch import nn
from handful import Columns, Recipe

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
y = np.arange(20) % 2
{change}

def make_data(seed):
    return Columns(X, y), None, None

recipe = Recipe(
    name="mine", make_data=make_data, loss="{loss}", optimizer="sgd", lr=0.1,
    make_model=lambda: {model}, batch_size={size}, epochs=1, options={options},
)
"""


def _array(
    title: str,
    change: str,
    *says: str,
    model: str = "nn.Linear(4, 2)",
    loss: str = "cross_entropy",
    size: int = 4,
    code: int = 1,
) -> Case:
    content = _RECIPE.format(
        change=change, model=model, size=size, loss=loss, options='{"num_threads": 1}'
    )
    return Case(
        group=ARRAYS,
        title=title,
        command="train mine.py:recipe --out new",
        make=writes("mine.py", content),
        code=code,
        says=says,
        needs_torch=True,
    )


_NORMED = "nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))"

CASES = (
    _array("empty", "X, y = X[:0], y[:0]", "train must give at least one batch"),
    _array("lengths that differ", "y = y[:9]", "20", "9"),
    _array("Python objects", "X = X.astype(object)", "object"),
    _array(
        "NaN in the inputs",
        "X[:, 2] = np.nan",
        "loss must be finite at the first step",
        "batch",
    ),
    _array(
        "NaN in the target",
        "y = X[:, :1].copy(); y[:] = np.nan; X = X[:, 1:]",
        "NaN",
        model="nn.Linear(3, 1)",
        loss="mse",
    ),
    _array("labels out of range", "y[7] = 2", "labels", "0 … 1", "2"),
    _array("negative labels", "y[7] = -1", "labels", "0 … 1", "-1"),
    _array("float labels", "y = y.astype(np.float32)", "'cross_entropy'", ".long()"),
    _array("one output for classes", "", "one output", model="nn.Linear(4, 1)"),
    _array("other widths", "X = X[:, :3]", "a shape that the model takes; got (4, 3)"),
    _array("a last batch of 1 with BatchNorm", "", "one", model=_NORMED, size=19),
    _array("a batch larger than the data", "", "no fault: trained", size=50, code=0),
    _array("one class alone", "y[:] = 1", "no fault: trained", code=0),
)
"""Of arrays."""
