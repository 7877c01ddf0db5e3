"""``export``: a run's best model as a file that other programs load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from handful.cli.export import LOADING
from handful.cli.main import main
from handful.recipes.digits import make_model
from handful.runs.run import Run
from handful.train.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from handful.train.export import EXPORT_SUFFIX
from handful.train.weight_files import WRITABLE_SUFFIXES

DECIDING = """\
from torch import nn
from handful import Columns, Recipe
from handful.recipes.digits import make_data

class Deciding(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

recipe = Recipe(name="deciding", make_data=make_data, epochs=1,
                make_model=lambda: Deciding(64, 10))
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train digits for two epochs."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--epochs", "2", "--out", str(path), "-q"]) == 0
    return path


def best_model(run_dir: Path) -> nn.Module:
    """Return the digits model with the weights of the run's best epoch."""
    best = Run.load(run_dir).best
    assert best is not None
    folder = run_dir / "checkpoints" / f"step-{best['step']:08d}"
    model = make_model()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def printed_program(printed: str) -> list[str]:
    """Return the two lines of Python that a command printed."""
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert len(lines) == 2
    return lines


def test_printed_lines_load_the_best_model_without_handful(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    program = ["import json, sys, torch", "from torch import nn", "found = []"]
    for name in ("m.pt2", "m.safetensors", "m.pt", "it's.PT"):
        assert main(["export", str(run_dir), "--to", name]) == 0
        printed, errors = capfd.readouterr()
        assert errors == ""
        size = (tmp_path / name).stat().st_size
        assert printed.startswith(
            f"wrote {size:,} bytes to {name}\nto load it without handful:\n"
        )
        layers = "nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)"
        program += [f"model = nn.Sequential({layers})", *printed_program(printed)]
        program += ["found.append(model(torch.ones(7, 64)).tolist())"]
    program += ["assert 'handful' not in sys.modules", "print(json.dumps(found))"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = best_model(run_dir)(torch.ones(7, 64))
    for found in json.loads(done.stdout):
        torch.testing.assert_close(torch.tensor(found), expected)


def test_best_epoch_is_exported_and_not_the_last(run_dir: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(run_dir, later)
    folder = later / "checkpoints"
    _, checkpoint, _ = newest_checkpoint(folder)
    best = Run.load(run_dir).best
    assert best is not None
    worse = {**checkpoint.progress["history"][-1], "step": 999, "valid_loss": 9.0}
    history = [*checkpoint.progress["history"], worse]
    progress = {**checkpoint.progress, "step": 999, "history": history}
    other = make_model().state_dict()
    save_checkpoint(folder, Checkpoint(other, checkpoint.optimizer, progress))
    to = tmp_path / "w.safetensors"
    assert main(["export", str(later), "--to", str(to)]) == 0
    expected = best_model(run_dir).state_dict()
    for name, value in load_file(to).items():
        assert torch.equal(value, expected[name])


def test_weights_need_no_recipe(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run_dir, moved)
    config = (moved / "config.yaml").read_text().replace("digits", "gone.py:recipe")
    (moved / "config.yaml").write_text(config)
    assert main(["export", str(moved), "--to", str(tmp_path / "w.pt")]) == 0
    capsys.readouterr()
    assert main(["export", str(moved), "--to", str(tmp_path / "m.pt2")]) == 2
    assert "say with --recipe where it is now." in capsys.readouterr().err
    argv = ["export", str(moved), "--to", str(tmp_path / "m.pt2")]
    assert main([*argv, "--recipe", "digits"]) == 0
    exported = torch.export.load(tmp_path / "m.pt2").module()
    x = torch.randn(3, 64)
    torch.testing.assert_close(exported(x), best_model(run_dir)(x))


def test_file_is_overwritten_with_force_only(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "w.safetensors"
    to.write_text("old")
    assert main(["export", str(run_dir), "--to", str(to)]) == 2
    assert "exists. Add --force to overwrite it." in capsys.readouterr().err
    assert to.read_text() == "old"
    assert main(["export", str(run_dir), "--to", str(to), "--force"]) == 0
    assert "0.weight" in load_file(to)


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (["--to", "m.onnx"], "--to must end in .pt2 or .safetensors or .pt; got", 2),
        (["--to", "no/m.pt"], "--to must lie in a folder that exists", 2),
        ([], "Missing option '--to'.", 2),
        (
            ["--to", "m.pt", "--recipe", "digits"],
            "--recipe must go with a .pt2 file",
            2,
        ),
        (["--to", "m.pt2", "--recipe", "no.py:it"], "exists; got 'no.py'.", 2),
    ],
)
def test_wrong_use_is_answered_without_torch_and_writes_nothing(
    run_dir: Path, tmp_path: Path, options: list[str], says: str, code: int
) -> None:
    program = (
        "import sys\nfrom handful.cli.main import main\n"
        f"code = main({['export', str(run_dir), *options]!r})\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)\n"
    )
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=60,
        check=False,
    )
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (code, "")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["m.pt", "m.pt2"])
def test_folder_without_a_run_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / name
    assert main(["export", str(tmp_path), "--to", str(to)]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert not to.exists()


def test_model_that_cannot_be_exported_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_handful: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deciding.py").write_text(DECIDING)
    assert main(["train", "deciding.py:recipe", "--out", "run", "-q"]) == 0
    done = run_handful("export", "run", "--to", "m.pt2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "handful: the model cannot be exported: forward decides by a value in the data"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "m.pt2").exists()
    assert main(["export", "run", "--to", "w.pt"]) == 0


def test_recipe_of_another_model_is_told_in_one_line(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deciding.py").write_text(DECIDING)
    argv = ["export", str(run_dir), "--to", "m.pt2", "--recipe", "deciding.py:recipe"]
    assert main(argv) == 1
    error = capfd.readouterr().err
    assert "must fit the model; got nothing that fits; missing: weight, bias; " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m.pt2").exists()


def test_help_of_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "\n  export " in capsys.readouterr().out


def test_endings_are_those_that_can_be_written() -> None:
    assert set(LOADING) == {EXPORT_SUFFIX, *WRITABLE_SUFFIXES}
