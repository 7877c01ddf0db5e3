"""Every wrong use is answered by one sentence, before torch and without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import handful
from handful.runs.folder import RunFolder
from handful.runs.run import Run
from manifests import write_manifest

DRIVER = """
import contextlib, io, json, sys
from pathlib import Path
from handful.cli.main import main

def names():
    return sorted(str(path) for path in Path.cwd().rglob("*"))

answers = []
for argv in json.load(sys.stdin):
    before, out, err = names(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    answers.append({
        "code": code, "out": out.getvalue(), "err": err.getvalue(),
        "torch": "torch" in sys.modules, "written": names() != before,
    })
print(json.dumps(answers))
"""
"""Runs many commands in one process, where torch is loaded by none or not at all."""


class Wrong(NamedTuple):
    """A wrong use: the command, what its answer says, the exit status."""

    command: str
    says: str
    code: int = 2


COMMANDS = [
    Wrong("trian wine", "handful has no command 'trian'. Did you mean 'train'?"),
    Wrong("zzzz", "handful has no command 'zzzz'. Try 'handful --help'."),
    Wrong("--verison", "handful has no option '--verison'. Did you mean '--version'?"),
    Wrong("env more", "Got unexpected extra argument"),
    Wrong("show", "Missing argument 'RUN'. Try 'handful show --help'."),
    Wrong("look", "Missing argument 'RECIPE'."),
    Wrong("predict done", "Missing option '--to'."),
    Wrong("train wine --epoch 5", "no option '--epoch'. Did you mean '--epochs'?"),
    Wrong("train wine --batch_sizes 5", "Did you mean '--batch-size'?"),
    Wrong("train wine --zzzz", "handful train has no option '--zzzz'. Try"),
    Wrong("train wine mnist", "(mnist). Try 'handful train --help'."),
    Wrong("train wine --epochs", "Option '--epochs' requires an argument."),
]

VALUES = [
    Wrong("train", "RECIPE must be given, or named by --config; got neither."),
    Wrong("train wien", "got 'wien'. Did you mean 'wine'?"),
    Wrong("train mine.py", "Add the recipe's name: mine.py:recipe."),
    Wrong("train mine.py:it", "recipe must be in a file that exists; got 'mine.py'."),
    Wrong("train wine --batch-size 0", "--batch-size must be a whole number from 1 on"),
    Wrong("train wine --batch-size -1", "or 'full'; got '-1'."),
    Wrong("train wine --batch-size abc", "or 'full'; got 'abc'."),
    Wrong("train wine --batch-size 1e400", "or 'full'; got '1e400'."),
    Wrong("train wine --lr nan", "--lr must be a finite number above 0; got 'nan'."),
    Wrong(
        "train wine --lr 1e400", "--lr must be a finite number above 0; got '1e400'."
    ),
    Wrong("train wine --lr -1", "--lr must be a finite number above 0; got '-1'."),
    Wrong(
        "train wine --epochs -3", "--epochs must be a whole number from 1 on; got '-3'"
    ),
    Wrong("train wine --epochs 1.5", "got '1.5'."),
    Wrong("train wine --seed -1", "--seed must be a whole number from 0 on; got '-1'."),
    Wrong("train wine --seed 9223372036854775808", "--seed must be below 2**63"),
    Wrong("train wine --optimizer sdg", "got 'sdg'. Did you mean 'sgd'?"),
    Wrong("train wine --optimizer sgd:momentun=1", "Did you mean 'momentum'?"),
    Wrong("train wine --optimizer sgd:momentum", "name:key=value,key=value; got"),
    Wrong("train wine --schedule stp", "got 'stp'. Did you mean 'step'?"),
    Wrong(
        "train wine --schedule step:gamma=0", "gamma of the schedule must be above 0"
    ),
    Wrong("train wine --schedule step:step_size=x", "1 or more, and whole; got 'x'"),
    Wrong("train wine --device gpu", "--device must be auto, cpu, cuda, mps or xpu"),
    Wrong("train wine --loss msee", "got 'msee'. Did you mean 'mse'?"),
    Wrong("train wine --loss mse:delta=1", "loss 'mse' takes no arguments"),
    Wrong("train wine --loss huber:delta=x", "delta of loss 'huber' must be a finite"),
    Wrong("train wine --loss-average sample", "Did you mean 'samples'?"),
    Wrong(
        "train wine --optimizer sgd:momentum=fast",
        "momentum of optimizer 'sgd' must be a finite number; got 'fast'.",
    ),
    Wrong("train wine --optimizer adam:betas=0.9", "must be 2 finite numbers, such as"),
    Wrong("train wine --optimizer sgd:nesterov=1", "must be true or false; got 1."),
    Wrong("train wine --num-workers -1", "--num-workers must be a whole number from 0"),
    Wrong("train wine --worker-type threat", "Did you mean 'thread'"),
    Wrong("train wine --last-batch kep", "--last-batch must be one of drop, keep"),
    Wrong("train wine --max-steps 0", "--max-steps must be a whole number from 1 on"),
    Wrong("train wine --valid-every x", "--valid-every must be a whole number from 1"),
    Wrong("train wine --checkpoint-every 0", "--checkpoint-every must be a whole"),
    Wrong("train wine --accumulate 1.5", "--accumulate must be a whole number from 1"),
    Wrong("train wine --micro-batch-size 0", "--micro-batch-size must be a whole"),
    Wrong("train wine --clip-norm 0", "--clip-norm must be a finite number above 0"),
    Wrong("train wine --clip-value inf", "--clip-value must be a finite number above"),
    Wrong("train wine --precision bf61", "got 'bf61'. Did you mean 'bf16'?"),
    Wrong("train wine --ema 1", "--ema must be between 0 and 1; got '1'."),
    Wrong("train wine --early-stopping 0", "--early-stopping must be a whole number"),
    Wrong("train wine --monitor accuracy", "Did you mean 'valid_accuracy'?"),
    Wrong("train wine --metrics acc,f1", "an entry of --metrics must be one of"),
    Wrong("train wine --train-metrics f1,recal", "Did you mean 'recall'?"),
    Wrong("train wine --threads 0", "whole number from 1 on, 'auto' or 'torch'; got"),
    Wrong("train wine --clip_norm 1", "Did you mean '--clip-norm'?"),
    Wrong(
        "train wine --overfit-one-batch --out r",
        "--overfit-one-batch must come without --out: it keeps no run",
    ),
    Wrong("train wine --overfit-one-batch --resume", "must come without --resume"),
    Wrong("train wine --overfit-one-batch --fresh", "must come without --fresh"),
    Wrong("train wine --overfit-one-batch --epochs 3", "must come without --epochs"),
    Wrong("train wine --print 0", "--print must be epoch, batch or a whole number"),
    Wrong("train wine --print often", "got 'often'."),
    Wrong("train mnist --as-seed", "has the variant 'as-seed': wine; got 'mnist'."),
    Wrong("look wien", "Did you mean 'wine'?"),
    Wrong("look wine --seed x", "--seed must be a whole number from 0 on; got 'x'."),
    Wrong("look wine --batch-size 0", "--batch-size must be a whole number from 1 on"),
    Wrong("look wine --out look.jpg", "--out must end in .png; got 'look.jpg'."),
    Wrong("look wine --out no/look.png", "--out must lie in a folder that exists"),
    Wrong("evaluate done --split vaild", "got 'vaild'. Did you mean 'valid'?"),
    Wrong("evaluate done --device gpu", "--device must be auto, cpu, cuda, mps or xpu"),
    Wrong("evaluate done --recipe no.py:it", "in a file that exists; got 'no.py'."),
    Wrong("evaluate moved", "say with --recipe where it is now."),
    Wrong(
        "evaluate unnamed", "say with --recipe file.py:name what it was trained from."
    ),
    Wrong("predict done --to x.txt", "--to must end in .csv or .npy or .parquet"),
    Wrong("predict done --to no/x.csv", "--to must lie in a folder that exists"),
    Wrong("predict done --to folder.csv", "--to must name a file; got the folder"),
    Wrong(
        "predict done --to old.csv", "'old.csv' exists. Add --force to overwrite it."
    ),
    Wrong("predict done --to x.csv --split tets", "Did you mean 'test'?"),
]

FOLDERS = [
    Wrong("train wine --out other", "'other' holds other files."),
    Wrong(
        "train wine --out old.csv", "--out must be a folder; got the file 'old.csv'."
    ),
    Wrong(
        "train wine --out done", "holds a run. Add --resume to go on with it or --fresh"
    ),
    Wrong("train wine --out done --config d.yaml", "Add --resume to go on with it"),
    Wrong("train wine --out noted --fresh", "'noted' also holds notes.txt."),
    Wrong("train wine --resume --fresh", "--resume and --fresh must not come together"),
    Wrong("train wine --resume", "'runs' holds no unfinished run of 'wine'."),
    Wrong("train --resume", "RECIPE must be given"),
    Wrong("train wine --resume --out nowhere", "'nowhere' does not exist."),
    Wrong("train wine --resume --out empty", "'empty' holds no run."),
    Wrong("train wine --resume --out done", "'done' has all its 2 done. Add --epochs"),
    Wrong(
        "train --resume --out done --epochs 2", "--epochs must be above 2, the epochs"
    ),
    Wrong(
        "train mnist --resume --out done",
        "got 'mnist', and the run in 'done' is of 'wine'.",
    ),
    Wrong(
        "train wine --resume --out done --epochs 3 --as-seed",
        "got 'as-seed', and the run in 'done' is of 'none'.",
    ),
    Wrong(
        "train wine --resume --out done --max-steps 18",
        "--max-steps must be above 18, the steps that the run in 'done' has done;",
    ),
    Wrong(
        "train wine --resume --out done --epochs 3 --threads 2",
        "--threads must be left out with --resume; got 2.",
    ),
    Wrong(
        "train wine --resume --out limited",
        "must have steps left to train; the run in 'limited' has all its 18 done. "
        "Add --max-steps with",
    ),
    Wrong(
        "train wine --resume --out halfway --batch-size 8",
        "--batch-size must stay 16 until the epoch is over; got 8.",
    ),
    Wrong("train wine --resume --out halfway --seed 5", "--seed must stay 0 until"),
    Wrong("train wine --resume --out early", "ended before its first. Start anew"),
    Wrong("train --resume --out unnamed", "RECIPE must be given to resume 'unnamed'"),
    Wrong("show nowhere", "run must be a folder that exists; got 'nowhere'.", 1),
    Wrong("show empty", "empty holds no run: run.json is missing.", 1),
    Wrong("show torn", "run.json is not JSON; the file is damaged.", 1),
    Wrong("evaluate empty", "empty holds no run", 1),
    Wrong("predict empty --to x.csv", "empty holds no run", 1),
    Wrong("train wine --resume --out torn", "the file is damaged.", 1),
]

CONFIGS = [
    Wrong("train --config no.yaml", "--config must name a file that exists; got"),
    Wrong(
        "train --config done", "got the folder 'done'. Did you mean 'done/config.yaml'"
    ),
    Wrong("train --config typo.yaml", "typo.yaml, line 2: a key must be one of"),
    Wrong(
        "train mnist --config d.yaml", "got 'mnist' on the command line and 'wine' in"
    ),
    Wrong("train --config noname.yaml", "RECIPE must be given, or named by --config"),
    Wrong(
        "train --config variant.yaml", "variant must be one of as-seed; got 'as-sead'"
    ),
]

ALL = COMMANDS + VALUES + FOLDERS + CONFIGS


def _write_run(path: Path, *, is_halfway: bool = False, **changes: Any) -> None:
    config = {"format": 1, "recipe": "wine", "variant": None, "epochs": 2, "lr": 0.01}
    history = [{"epoch": n, "step": 9 * n, "train_loss": 1 / n} for n in (1, 2)]
    if is_halfway:
        history[-1]["partial"] = True
    run = Run(path=path, status="finished", config=config | changes, history=history)
    folder = RunFolder(path, resume=False)
    folder.start(run)
    folder.close()
    (path / "checkpoints" / "step-00000018").mkdir()


def _fill(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "folder.csv").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").touch()
    (folder / "old.csv").write_text("sample\n")
    for name in ("done", "early", "noted", "torn"):
        _write_run(folder / name)
    _write_run(folder / "limited", epochs=None, max_steps=18)
    _write_run(folder / "halfway", is_halfway=True, batch_size=16, seed=0)
    write_manifest(
        folder / "halfway" / "checkpoints" / "step-00000018",
        {
            "format_version": 2,
            "files": {},
            "optimizer": {"param_groups": [], "state": {}},
            "step": 18,
            "feed": {"delivered": 3},
        },
    )
    _write_run(folder / "moved", recipe="gone.py:recipe")
    _write_run(folder / "unnamed", recipe=None)
    (folder / "noted" / "notes.txt").touch()
    (folder / "early" / "checkpoints" / "step-00000018").rmdir()
    (folder / "torn" / "run.json").write_text('{"format_ver')
    (folder / "d.yaml").write_text("recipe: wine\n")
    (folder / "typo.yaml").write_text("recipe: wine\nepoch: 3\n")
    (folder / "noname.yaml").write_text("epochs: 3\n")
    (folder / "variant.yaml").write_text("recipe: wine\nvariant: as-sead\n")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run every wrong command, in one process without torch."""
    folder = tmp_path_factory.mktemp("wrong")
    _fill(folder)
    package = str(Path(handful.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([wrong.command.split() for wrong in ALL]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    return {wrong.command: result for wrong, result in zip(ALL, results, strict=True)}


@pytest.mark.parametrize("wrong", ALL, ids=lambda wrong: wrong.command)
def test_wrong_use_gets_one_sentence_and_leaves_no_trace(
    wrong: Wrong, answers: dict[str, dict[str, Any]]
) -> None:
    answer = answers[wrong.command]
    assert wrong.says in answer["err"]
    assert answer["err"].startswith("handful: ")
    assert answer["err"].count("\n") == 1
    assert answer["code"] == wrong.code
    assert answer["out"] == ""
    assert not answer["written"]
    assert not answer["torch"]
