"""Summaries: what they count, what they show, and that the model stays as it was."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful.errors import ArgumentError
from handful.train.summary import (
    LayerRow,
    ModelSummary,
    format_bytes,
    summarize_model,
)


def summarize(model: nn.Module, batch: Tensor, **options: Any) -> ModelSummary:
    return summarize_model(
        model, lambda: model(batch), batch_size=len(batch), **options
    )


def find_row(summary: ModelSummary, name: str) -> LayerRow:
    return next(row for row in summary.rows if row.name == name)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return everything that a summary has to leave as it is, as bytes."""
    state = {k: v.numpy().tobytes() for k, v in model.state_dict().items()}
    modes = {name: m.training for name, m in model.named_modules()}
    hooks = [len(m._forward_hooks) for m in model.modules()]
    grads = [p.grad for p in model.parameters()]
    numpy = repr(np.random.get_state())
    draws = torch.get_rng_state().numpy().tobytes(), numpy, random.getstate()
    return {"state": state, "modes": modes, "hooks": hooks, "g": grads, "draws": draws}


class Mixed(nn.Module):
    """Draws, keeps running statistics, rescales weights, makes buffers anew."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, max_norm=0.1)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("steps", torch.zeros(3))
        self.register_buffer("spread", torch.ones(1).expand(5))

    def forward(self, x: Tensor) -> Tensor:
        self.steps = self.steps + 1
        self.register_buffer("cache", torch.ones(2))
        noise = random.random() + np.random.rand()
        return self.frozen(self.drop(self.norm(self.embed(x)))) + noise


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generators_stay_byte_for_byte(
    training: bool, fails: bool
) -> None:
    model = Mixed().train(training)
    model.drop.train(not training)
    before, steps = snapshot(model), model.steps
    batch = torch.arange(8)

    def forward() -> None:
        model(batch)
        assert model.steps[0] == 1
        if fails:
            raise ZeroDivisionError("the model fails")

    if fails:
        with pytest.raises(ZeroDivisionError, match="the model fails"):
            summarize_model(model, forward, batch_size=8)
    else:
        summarize_model(model, forward, batch_size=8)
    assert snapshot(model) == before
    assert model.steps is steps
    assert torch.is_grad_enabled()
    assert model.cache is None


def test_shapes_parameters_and_memory_are_those_of_the_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8))
    model[0].bias.requires_grad_(False)
    summary = summarize(model, torch.zeros(16, 4), optimizer_states=1.5)
    assert [row.type for row in summary.rows] == [
        *("Sequential", "Linear", "ReLU", "BatchNorm1d")
    ]
    assert [row.parameters for row in summary.rows] == [0, 40, 0, 16]
    assert [row.trainable for row in summary.rows] == ["", "partly", "", "yes"]
    assert [row.depth for row in summary.rows] == [0, 1, 1, 1]
    assert {row.shapes for row in summary.rows} == {"(16, 8)"}
    assert summary.parameters == 56
    assert summary.trainable_parameters == 48
    assert summary.parameter_bytes == 56 * 4
    assert summary.buffer_bytes == 2 * 8 * 4 + 8
    assert summary.gradient_bytes == 48 * 4
    assert summary.optimizer_bytes == 48 * 6
    assert summary.activation_bytes == 3 * 16 * 8 * 4
    assert summary.total_bytes == 224 + 72 + 192 + 288 + 1536


def test_the_bytes_are_those_of_the_dtypes() -> None:
    summary = summarize(nn.Linear(4, 2).double(), torch.zeros(3, 4).double())
    assert summary.parameter_bytes == 10 * 8
    assert summary.activation_bytes == 6 * 8
    assert summary.optimizer_bytes == 2 * 10 * 8


def test_tied_parameters_are_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    summary = summarize(Tied(), torch.arange(5))
    head = find_row(summary, "head")
    assert (head.parameters, head.tied_parameters) == (10, 40)
    assert summary.parameters == 50
    assert summary.parameter_bytes == 200
    assert "10 + tied" in str(summary)


def test_a_module_called_several_times_shows_its_calls() -> None:
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 6), act)
    summary = summarize(model, torch.zeros(2, 4))
    row = find_row(summary, "1")
    assert (row.calls, row.shapes) == (2, "(2, 4)")
    assert row.output_bytes == (8 + 12) * 4
    assert summary.activation_bytes == 2 * (8 + 12) * 4
    assert "Tanh x2" in str(summary)


@dataclass
class Answer:
    """What some models return."""

    logits: Tensor
    hidden: list[Tensor]


class Structured(nn.Module):
    """Layers that return tuples, dicts and dataclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.parts = nn.ModuleList([nn.Linear(6, 3)])
        self.unused = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Answer:
        hidden, _ = self.gru(x)
        mixed, _ = self.attention(hidden, hidden, hidden)
        return Answer(self.parts[0](mixed), [hidden])


def test_tuples_dataclasses_and_layers_not_called_are_shown() -> None:
    summary = summarize(Structured(), torch.zeros(2, 5, 4))
    assert find_row(summary, "").shapes == "(2, 5, 3), (2, 5, 6)"
    assert find_row(summary, "gru").shapes == "(2, 5, 6), (1, 2, 6)"
    assert find_row(summary, "attention").shapes == "(2, 5, 6), (2, 5, 5)"
    unused = find_row(summary, "unused")
    assert (unused.calls, unused.shapes, unused.parameters) == (0, "", 90)
    line = next(t for t in str(summary).splitlines() if t.startswith("  unused"))
    assert "not called" in line
    values = (60 + 12) + (60 + 50) + 30
    assert summary.activation_bytes == values * 4


def test_a_dict_of_tensors_is_one_layers_output() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x + 1, "b": x[:, :1] + 1}

    summary = summarize(Named(), torch.zeros(3, 2))
    assert summary.rows[0].shapes == "(3, 2), (3, 1)"
    assert summary.activation_bytes == 9 * 4


def test_views_and_layers_that_write_in_place_hold_no_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten())
    summary = summarize(model, torch.zeros(4, 1, 5, 5))
    assert [row.output_bytes for row in summary.rows[1:]] == [4 * 18 * 4, 0, 0]
    assert summary.activation_bytes == 4 * 18 * 4


def test_several_views_hold_the_memory_behind_them_once() -> None:
    class Split(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            made = x + 1
            return [*made.chunk(3, dim=1), made[0, :1].expand(100)]

    summary = summarize(Split(), torch.zeros(2, 6))
    assert summary.rows[0].shapes == "(2, 2), (2, 2), (2, 2), (100,)"
    assert summary.activation_bytes == 12 * 4


def test_a_parametrized_layer_holds_its_output_not_its_weight() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    summary = summarize(nn.Sequential(layer), torch.zeros(2, 4))
    assert summary.parameters == 12 + 3 + 3
    assert summary.activation_bytes == 6 * 4


def test_a_model_with_lazy_layers_is_not_run() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    summary = summarize(model, torch.zeros(2, 4))
    assert isinstance(model[0], nn.LazyLinear)
    assert model[0].has_uninitialized_params()
    assert [row.calls for row in summary.rows] == [0, 0, 0]
    assert summary.is_lazy
    assert summary.parameters == 8
    assert "Lazy layers are not counted" in str(summary)
    model(torch.zeros(2, 4))
    assert summarize(model, torch.zeros(2, 4)).parameters == 8 + 15


def test_a_compiled_model_is_seen_through() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    summary = summarize(compiled, torch.zeros(2, 4))  # type: ignore[arg-type]
    assert [(r.name, r.calls) for r in summary.rows] == [("", 1), ("0", 1), ("1", 1)]


def test_the_text_is_a_table_and_the_memory_in_units() -> None:
    model = nn.Sequential(nn.Linear(4, 300), nn.Sequential(nn.ReLU()))
    assert str(summarize(model, torch.zeros(32, 4))) == (
        "layer  type        output shape  parameters  trainable\n"
        "model  Sequential  (32, 300)              0\n"
        "  0    Linear      (32, 300)          1,500  yes\n"
        "  1    Sequential  (32, 300)              0\n"
        "    0  ReLU        (32, 300)              0\n"
        "\n"
        "parameters          5.9 KiB  (1,500, 1,500 trainable)\n"
        "buffers                 0 B\n"
        "gradients           5.9 KiB\n"
        "optimiser state    11.7 KiB  (estimate: 2 values for each trainable one)\n"
        "activations        75.0 KiB  (estimate: outputs of layers at batch_size=32)\n"
        "total              98.4 KiB"
    )


def nest(depth: int, width: int) -> nn.Sequential:
    if depth == 0:
        return nn.Sequential(*(nn.Linear(2, 2) for _ in range(width)))
    return nn.Sequential(*(nest(depth - 1, width) for _ in range(width)))


def table_numbers(text: str) -> list[int]:
    lines = text.split("\n\n")[0].splitlines()[1:]
    numbers = [line.split() for line in lines if not line.startswith("…")]
    return [int(cells[-2]) for cells in numbers if cells[-1] == "yes"]


def test_deeper_levels_are_folded_into_the_rows_shown() -> None:
    summary = summarize(nest(2, 5), torch.zeros(1, 2))
    text = summary.render()
    assert len(summary.rows) == 156
    assert "… 125 more, counted in those above" in text
    assert table_numbers(text) == [30] * 25
    assert sum(table_numbers(text)) == summary.parameters


def test_one_level_of_many_layers_is_cut() -> None:
    summary = summarize(nest(1, 60)[0], torch.zeros(1, 2))
    text = summary.render()
    assert "… 21 more with 126 parameters" in text
    assert sum(table_numbers(text)) + 126 == summary.parameters
    assert len(text.splitlines()) == 1 + 40 + 1 + 1 + 6


def test_lines_fit_the_width_and_cut_cells_say_so() -> None:
    class AnUnusuallyLongNameForALayer(nn.Linear):
        pass

    model = nn.Sequential()
    model.add_module("a_long_name_for_a_layer_as_well", nn.Flatten())
    model.add_module("b", AnUnusuallyLongNameForALayer(4, 4))
    summary = summarize(model, torch.zeros(2, 2, 2))
    for width in (60, 75):
        table = summary.render(width).split("\n\n")[0]
        assert max(map(len, table.splitlines())) <= width
        assert "…" in table
    assert "…" not in summary.render(120)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1258291, "1.2 MiB"),
        (1024**2 - 1, "1.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_bytes_are_written_in_the_unit_that_suits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize("states", [-1.0, float("nan"), float("inf")])
def test_a_wrong_number_of_states_is_refused(states: float) -> None:
    with pytest.raises(ArgumentError, match="optimizer_states must be a finite number"):
        summarize(nn.Linear(2, 2), torch.zeros(1, 2), optimizer_states=states)


def test_keyword_inputs_that_are_handed_on_hold_no_memory() -> None:
    class Inner(nn.Module):
        def forward(self, *, x: Tensor) -> Tensor:
            return x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x=x) + 1

    summary = summarize(Outer(), torch.zeros(3))
    assert [row.output_bytes for row in summary.rows] == [12, 0]
