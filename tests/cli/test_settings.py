"""Settings: which source wins, and what counts as a change of a run."""

from __future__ import annotations

import inspect

import pytest
import torch

from handful.cli.argument_values import check_argument_values
from handful.cli.settings import Settings, normalize_recipe, settings_differ
from handful.errors import ArgumentError
from handful.train.choices import LOSSES, OPTIMIZERS, Choice
from handful.train.recipe import Recipe
from handful.train.stopping import EarlyStopping

RUN = {
    "recipe": "wine",
    "epochs": 10,
    "lr": 0.01,
    "optimizer": "adam",
    "schedule": {"name": "step", "step_size": 3, "gamma": 0.1},
    "device": "cpu",
    "metrics": ["accuracy"],
    "loss": {"name": "huber", "delta": 2.0},
    "early_stopping": {"patience": 5, "min_delta": 0.0, "start": 0},
    "train_metrics": ["f1"],
    "clip_norm": 1.0,
    "num_threads": None,
}


def _make_recipe(**settings: object) -> Recipe:
    return Recipe(
        name="mine",
        make_data=lambda seed: (None, None, None),  # type: ignore[arg-type]
        make_model=lambda: None,  # type: ignore[arg-type, return-value]
        **settings,  # type: ignore[arg-type]
    )


def test_later_settings_win_and_none_says_nothing() -> None:
    merged = Settings(lr=0.1, epochs=3).updated_by(Settings(lr=0.2))
    assert merged == Settings(lr=0.2, epochs=3)


def test_settings_replace_those_of_the_recipe() -> None:
    recipe = Settings(lr=0.5, batch_size="full").apply_to(_make_recipe(epochs=7))
    assert (recipe.lr, recipe.batch_size, recipe.epochs) == (0.5, "full", 7)


def test_settings_choose_the_variant_first() -> None:
    recipe = _make_recipe(variants={"slow": _make_recipe(lr=1e-6, epochs=2)})
    chosen = Settings(variant="slow", epochs=5).apply_to(recipe)
    assert (chosen.lr, chosen.epochs) == (1e-6, 5)
    with pytest.raises(ArgumentError, match="has no variant 'fast'; it has slow"):
        Settings(variant="fast").apply_to(recipe)


@pytest.mark.parametrize(
    "same",
    [
        Settings(),
        Settings(lr=0.01, epochs=10, recipe="wine"),
        Settings(optimizer=Choice("adam")),
        Settings(schedule=Choice("step", {"step_size": 3})),
        Settings(metrics=("accuracy",)),
        Settings(device="auto"),
        Settings(loss=Choice("huber", {"delta": 2})),
        Settings(options={"early_stopping": EarlyStopping(patience=5)}),
        Settings(options={"train_metrics": ("f1",), "clip_norm": 1.0}),
        Settings(options={"num_threads": None}),
    ],
)
def test_same_value_in_another_spelling_is_no_change(same: Settings) -> None:
    assert settings_differ(RUN, same) == {}


def test_changes_come_with_both_values() -> None:
    new = Settings(
        lr=0.1,
        optimizer=Choice("adam", {"eps": 1e-6}),
        schedule=Choice("step", {"step_size": 4}),
        device="cuda",
        seed=1,
        metrics=(),
    )
    found = settings_differ(RUN, new)
    assert list(found) == ["lr", "optimizer", "schedule", "seed", "device", "metrics"]
    assert found["lr"] == (0.01, 0.1)
    assert found["seed"] == (None, 1)


def test_changed_options_come_with_both_values() -> None:
    new = {"clip_norm": 2.0, "ema": 0.9, "early_stopping": EarlyStopping(patience=6)}
    found = settings_differ(RUN, Settings(options=new, loss=Choice("huber")))
    assert list(found) == ["loss", "clip_norm", "ema", "early_stopping"]
    assert found["clip_norm"] == (1.0, 2.0)
    assert found["ema"] == (None, 0.9)


def test_options_are_merged_one_by_one() -> None:
    old = Settings(options={"clip_norm": 1.0, "ema": 0.9})
    merged = old.updated_by(Settings(options={"ema": 0.99}))
    assert merged.options == {"clip_norm": 1.0, "ema": 0.99}
    recipe = _make_recipe(options={"log_norms": True, "ema": 0.5})
    assert merged.apply_to(recipe).options == {
        "log_norms": True,
        "clip_norm": 1.0,
        "ema": 0.99,
    }


@pytest.mark.parametrize(
    ("said", "epochs", "max_steps"),
    [
        (Settings(), 7, None),
        (Settings(epochs=3), 3, None),
        (Settings(options={"max_steps": 9}), None, 9),
        (Settings(epochs=3, options={"max_steps": 9}), 3, 9),
    ],
)
def test_who_says_epochs_or_steps_decides_both(
    said: Settings, epochs: int | None, max_steps: int | None
) -> None:
    recipe = said.apply_to(_make_recipe(epochs=7))
    assert recipe.epochs == epochs
    assert recipe.options.get("max_steps") == max_steps
    before = Settings(epochs=7)
    assert before.updated_by(said).apply_to(_make_recipe()).epochs == epochs
    limited = _make_recipe(epochs=None, options={"max_steps": 5})
    assert Settings(epochs=3).apply_to(limited).options == {}


def test_another_monitor_does_not_inherit_which_way_is_better() -> None:
    old = Settings(options={"monitor": "valid_loss", "monitor_mode": "min"})
    new = Settings(options={"monitor": "valid_accuracy"})
    assert old.updated_by(new).options == {"monitor": "valid_accuracy"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torchs_own_values_of_every_optimizer_are_of_the_known_kinds(name: str) -> None:
    defaults = inspect.signature(getattr(torch.optim, OPTIMIZERS[name][0])).parameters
    given = {k: defaults[k].default for k in OPTIMIZERS[name][1] if k in defaults}
    choice = Choice(name, given)
    assert check_argument_values("optimizer", choice) is choice
    for key, value in given.items():
        wrong = 1 if isinstance(value, bool) else "x"
        with pytest.raises(ArgumentError, match=f"{key} of optimizer '{name}' must be"):
            check_argument_values("optimizer", Choice(name, {key: wrong}))


@pytest.mark.parametrize("name", LOSSES)
def test_torchs_own_values_of_every_loss_are_of_the_known_kinds(name: str) -> None:
    defaults = inspect.signature(getattr(torch.nn, LOSSES[name][0])).parameters
    given = {key: defaults[key].default for key in LOSSES[name][1]}
    given = {key: value for key, value in given.items() if value is not None}
    check_argument_values("loss", Choice(name, given))
    for key in LOSSES[name][1]:
        with pytest.raises(ArgumentError, match=f"{key} of loss '{name}' must be"):
            check_argument_values("loss", Choice(name, {key: "x"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("betas", [0.9]),
        ("betas", [0.9, None]),
        ("betas", 0.9),
        ("eps", float("nan")),
        ("weight_decay", True),
        ("amsgrad", 1),
    ],
)
def test_values_of_another_kind_are_refused(key: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{key} of optimizer 'adam' must be"):
        check_argument_values("optimizer", Choice("adam", {key: value}))


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("wine", "wine"),
        ("mine.py:net", "mine.py:net"),
        ("./mine.py:net", "mine.py:net"),
        ("a/../mine.py:net", "mine.py:net"),
        ("mine.py", "mine.py"),
        (":net", ":net"),
    ],
)
def test_recipe_in_a_file_has_one_spelling(given: str, one: str) -> None:
    assert normalize_recipe(given) == one


def test_a_number_that_no_float_can_hold_is_none() -> None:
    with pytest.raises(
        ArgumentError, match="momentum of optimizer 'sgd' must be a fin"
    ):
        check_argument_values("optimizer", Choice("sgd", {"momentum": 10**400}))
