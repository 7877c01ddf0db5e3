"""Bad arguments, and bad configuration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bad_inputs.case import Case, writes

ARGUMENTS, CONFIGS = "Arguments", "Configuration files"


def _argument(title: str, command: str, *says: str, **more: Any) -> Case:
    return Case(group=ARGUMENTS, title=title, command=command, says=says, **more)


def _train(title: str, flags: str, *says: str) -> Case:
    return _argument(title, f"train wine {flags}", *says)


def make_run(folder: Path) -> None:
    """Make a finished run of ``wine`` in ``done``, as far as shows without torch."""
    path = folder / "done"
    step = path / "checkpoints" / "step-00000018"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    meta = {"format_version": 1, "status": "finished", "identity": {}}
    (path / "run.json").write_text(json.dumps(meta))
    (path / "config.yaml").write_text("format: 1\nrecipe: wine\nepochs: 2\n")
    record = {"epoch": 2, "step": 18, "train_loss": 0.5}
    (path / "history.jsonl").write_text(json.dumps(record) + "\n")


_OF_ARGUMENTS = (
    _train("an unknown flag", "--epoch 5", "no option '--epoch'", "'--epochs'?"),
    _train("batch size 0", "--batch-size 0", "--batch-size must be a whole", "got '0'"),
    _train("batch size -1", "--batch-size -1", "from 1 on or 'full'; got '-1'"),
    _train("batch size abc", "--batch-size abc", "from 1 on or 'full'; got 'abc'"),
    _train("batch size 1e400", "--batch-size 1e400", "or 'full'; got '1e400'"),
    _train(
        "a batch size of 5,000 digits", f"--batch-size {'9' * 5000}", "a whole number"
    ),
    _train("a seed of 2**63", f"--seed {2**63}", "--seed must be below 2**63; got 92"),
    _train("learning rate nan", "--lr nan", "--lr must be a finite", "got 'nan'. Try"),
    _train("negative epochs", "--epochs -3", "--epochs must be a whole", "got '-3'"),
    _train("resume and fresh", "--resume --fresh", "--resume and --fresh must not"),
    _train("an unknown loss", "--loss msee", "got 'msee'. Did you mean 'mse'?"),
    _train("a wrong argument", "--optimizer sgd:momentum=fast", "momentum of optim"),
    _argument("an unknown recipe", "train wien", "got 'wien'. Did you mean 'wine'?"),
    _argument(
        "a run there already",
        "train wine --out done",
        "'done' holds a run. Add --resume",
        make=make_run,
    ),
    _argument(
        "other files there already",
        "train wine --out notes",
        "'notes' holds other files. Choose another folder",
        make=lambda folder: _make_notes(folder),
    ),
)


def _make_notes(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("chapter 1")


def _config(title: str, content: str | bytes, *says: str, name: str = "c") -> Case:
    return Case(
        group=CONFIGS,
        title=title,
        command=f"train --config {name}.yaml",
        make=writes("c.yaml", content),
        says=says,
    )


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

_OF_CONFIGS = (
    _config("a missing file", "lr: 1\n", "a file that exists; got 'd.yaml'", name="d"),
    Case(
        group=CONFIGS,
        title="a folder",
        command="train --config done",
        make=make_run,
        says=("got the folder 'done'. Did you mean 'done/config.yaml'?",),
    ),
    _config("an empty file", "", "must hold settings", "it is empty"),
    _config("invalid YAML", "recipe: wine\nlr: [1\n", "c.yaml, line 2:", "'lr: [1'"),
    _config("64 KiB of [", "[" * 2**16, "c.yaml", "nested too deeply"),
    _config("aliases of aliases", _BOMB, "c.yaml", "its aliases repeat more values"),
    _config("an object", "lr: !!python/object:os.system x\n", "c.yaml, line 1:"),
    _config("more than 64 KiB", "#" * 65537, "c.yaml", "at most 64 KiB; it is larger"),
    _config("a key twice", "lr: 1\nlr: 2\n", "line 2", '"lr"', "Remove one of the two"),
    _config("an unknown key", "epoch: 2\n", "line 1: a key", "Did you mean 'epochs'?"),
    _config("a text for a number", 'epochs: "5"\n', "epochs must be a number", "'5'"),
    _config("a list for a number", "epochs: [5]\n", "line 1: epochs must", "got [5]"),
    _config("the recipe missing", "epochs: 5\n", "RECIPE must be given, or named by"),
    _config("an unknown optimizer", "optimizer: sdg\n", "line 1: optimizer", "'sgd'?"),
    _config("an unknown schedule", "schedule: stp\n", "line 1: schedule", "'step'?"),
    _config("not UTF-8", b"lr: 1\nrecipe: w\xefne\n", "line 2", "UTF-8; got the byte"),
)

_PLATEAU = (
    "recipe: wine\nmonitor: valid_f1\nschedule: plateau\nepochs: 1\nmetrics: [accuracy]"
)

_OF_METRICS = (
    Case(
        group=CONFIGS,
        title="plateau on a metric that is not measured",
        command="train --config c.yaml --out new",
        make=writes("c.yaml", _PLATEAU),
        says=("monitor must be", "valid_f1"),
        needs_torch=True,
    ),
    Case(
        group=ARGUMENTS,
        title="a loss that the labels do not fit",
        command="train digits --loss mse --out new",
        code=1,
        says=("loss 'mse' needs", "shape"),
        needs_torch=True,
    ),
    Case(
        group=ARGUMENTS,
        title="a value that torch alone refuses",
        command="train wine --optimizer sgd:momentum=-1 --out new",
        says=("momentum", "-1"),
        needs_torch=True,
    ),
)

CASES = (*_OF_ARGUMENTS, *_OF_CONFIGS, *_OF_METRICS)
"""Of arguments and configuration files."""
