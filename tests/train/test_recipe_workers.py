"""Workers of a recipe: they read its data, and change nothing else."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from handful import Recipe, Run, run_recipe
from handful.cli.main import main
from handful.errors import ArgumentError
from handful.train.run_recipe import make_split_loader

WHERE: list[tuple[int, int]] = []
"""Process and thread that each sample was read by, of those of this process."""


class Rows(Dataset[Any]):
    """Samples that note who reads them."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        WHERE.append((os.getpid(), threading.get_ident()))
        return torch.full((3,), index / 24), index % 2


RECIPE = Recipe(
    name="rows",
    make_data=lambda seed: (Rows(), Rows(), None),
    make_model=lambda: nn.Linear(3, 2),
    batch_size=4,
    epochs=2,
)


@pytest.mark.parametrize("worker_type", ["process", "thread"])
def test_a_run_is_the_same_whoever_reads(worker_type: str) -> None:
    alone = run_recipe(RECIPE)
    assert set(WHERE) == {(os.getpid(), threading.get_ident())}
    WHERE.clear()
    run = run_recipe(RECIPE.override(num_workers=2, worker_type=worker_type))
    assert run.steps["loss"].tolist() == alone.steps["loss"].tolist()
    assert (os.getpid(), threading.get_ident()) not in WHERE
    assert (worker_type == "thread") == bool(WHERE)
    assert (run.config["num_workers"], run.config["worker_type"]) == (2, worker_type)
    WHERE.clear()


def test_loaders_of_every_part_have_the_recipes_workers() -> None:
    recipe = RECIPE.override(num_workers=3, worker_type="thread")
    for split in ("train", "valid"):
        loader = make_split_loader(recipe, split, 0)
        assert loader.path.startswith("threads: Rows is read by 3 threads")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_workers": -1}, "num_workers must be a whole number from 0 on; got -1"),
        ({"num_workers": True}, "num_workers must be a whole number from 0 on"),
        ({"worker_type": "threads"}, "Did you mean 'thread'"),
    ],
)
def test_workers_that_cannot_be_are_refused(
    settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        RECIPE.override(**settings)


def test_flags_reach_own_data_and_named_recipes_and_stay_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is missing")
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i / 40},{i % 7},{'ab'[i % 2]}\n" for i in range(40))
    Path("table.csv").write_text(f"x,z,y\n{rows}")
    flags = ["--num-workers", "2", "--worker-type", "thread", "--epochs", "1", "-q"]
    own = ["--data", "table.csv", "--target", "y"]
    for name, what in (("named", ["wine"]), ("own", own)):
        assert main(["train", *what, *flags, "--out", name]) == 0
        config = Run.load(name).config
        assert (config["num_workers"], config["worker_type"]) == (2, "thread")
    again = ["--config", "named/config.yaml", "--out", "again", "-q"]
    assert main(["train", *again]) == 0
    assert Run.load("again").config["num_workers"] == 2
