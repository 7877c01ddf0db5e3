"""Settings: which source wins, and what counts as a change of a run."""

from __future__ import annotations

import pytest

from handful.cli.settings import Settings, normalize_recipe, settings_differ
from handful.errors import ArgumentError
from handful.train.choices import Choice
from handful.train.recipe import Recipe

RUN = {
    "recipe": "wine",
    "epochs": 10,
    "lr": 0.01,
    "optimizer": "adam",
    "schedule": {"name": "step", "step_size": 3, "gamma": 0.1},
    "device": "cpu",
    "metrics": ["accuracy"],
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
