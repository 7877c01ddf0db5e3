"""Configuration files: what is read, and what a wrong one is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handful.cli.config import read_config
from handful.cli.settings import Settings
from handful.errors import ConfigError
from handful.train.choices import Choice


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        """\
        format: 1
        recipe: wine
        variant: as-seed
        epochs: 5
        batch_size: full
        lr: 1e-2
        optimizer: {name: sgd, momentum: 0.9}
        schedule: "step:step_size=3"
        seed: 7
        device: cpu
        loss: cross_entropy
        metrics: [accuracy]
        loss_average: batches
        """,
    )
    assert read_config(path) == Settings(
        recipe="wine",
        variant="as-seed",
        epochs=5,
        batch_size="full",
        lr=0.01,
        optimizer=Choice("sgd", {"momentum": 0.9}),
        schedule=Choice("step", {"step_size": 3}),
        seed=7,
        device="cpu",
        loss="cross_entropy",
        metrics=("accuracy",),
        loss_average="batches",
    )


def test_null_leaves_every_key_to_the_recipe(tmp_path: Path) -> None:
    keys = ["format", *vars(Settings())]
    path = _write(tmp_path, "".join(f"{key}: null\n" for key in keys))
    assert read_config(path) == Settings()


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path, b"\xef\xbb\xbfrecipe: wine\r\nepochs: 3\r\n")
    assert read_config(path) == Settings(recipe="wine", epochs=3)


def test_yes_is_a_text_as_in_yaml_1_2(tmp_path: Path) -> None:
    path = _write(tmp_path, "recipe: yes\n")
    assert read_config(path).recipe == "yes"


WRONG = {
    "empty": ("", "it is empty"),
    "only a comment": ("# nothing\n", "it is empty"),
    "a list": ("- epochs\n", "line 1: the settings must be a mapping.*got a list"),
    "a text": ("wine\n", "got a single value, 'wine'"),
    "bad syntax": ("recipe: wine\nlr: [1\n", "line 2: expected.*got 'lr: \\[1'"),
    "a tab": ("optimizer:\n\tname: sgd\n", "line 2:.*Indent with spaces"),
    "two documents": ("lr: 1\n---\nlr: 2\n", "line 2: expected a single document"),
    "an object": ("lr: !!python/object:os.system x\n", "line 1: could not determine"),
    "a control character": ("lr: \x01\n", "must be YAML: unacceptable character"),
    "not a date": ("lr: 2024-13-45\n", "has a value that is not valid: month"),
    "too deep": ("- " * 2000, "it is nested too deeply"),
    "no anchor": ("lr: *rate\n", "line 1: found undefined alias"),
    "duplicate key": ("lr: 1\nlr: 2\n", 'line 2: found duplicate key "lr".*Remove one'),
    "unknown key": (
        "lr: 1\nepoch: 2\n",
        "line 2: a key must be.*Did you mean 'epochs'",
    ),
    "hyphen": ("batch-size: 2\n", "line 1: a key must.*Did you mean 'batch_size'"),
    "number as key": ("1: 2\n", "line 1: a key must be one of.*got 1"),
    "list as key": ("[1, 2]: 2\n", r"a key must be one of.*got \(1, 2\)"),
    "text for number": (
        'epochs: "5"\n',
        "line 1: epochs must be a number; got the text",
    ),
    "half an epoch": ("epochs: 2.5\n", "line 1: epochs must be a whole number"),
    "true": ("epochs: true\n", "line 1: epochs must be a whole number.*got True"),
    "no batch": ("batch_size: 0\n", "line 1: batch_size must be a whole number"),
    "huge batch": ("batch_size: 1e400\n", "batch_size must be a whole number.*got inf"),
    "nan": ("lr: .nan\n", "line 1: lr must be a finite number above 0; got nan"),
    "text for lr": ("lr: yes\n", "line 1: lr must be a number; got the text 'yes'"),
    "unknown optimiser": ("optimizer: sdg\n", "line 1: optimizer.*Did you mean 'sgd'"),
    "unknown argument": (
        "optimizer: {name: sgd, x: 1}\n",
        "an argument of optimizer 'sgd'",
    ),
    "optimiser list": ("optimizer: [sgd]\n", "optimizer must be a name, or a mapping"),
    "unknown schedule": ("schedule: stp\n", "line 1: schedule.*Did you mean 'step'"),
    "schedule value": (
        "schedule: {name: step, gamma: 0}\n",
        "gamma of the schedule must",
    ),
    "negative seed": ("seed: -1\n", "line 1: seed must be a whole number from 0 on"),
    "unknown device": ("device: gpu\n", "line 1: device must be auto, cpu, cuda"),
    "unknown loss": ("loss: [mse]\n", "line 1: loss must be one of"),
    "metrics text": ("metrics: accuracy\n", "line 1: metrics must be a list of names"),
    "unknown metric": ("metrics: [acuracy]\n", "Did you mean 'accuracy'"),
    "nested metric": ("metrics: [[mse]]\n", "an entry of metrics must be one of"),
    "unknown average": ("loss_average: mean\n", "line 1: loss_average must be one of"),
    "recipe number": ("recipe: 5\n", "line 1: recipe must be a name; got 5"),
    "newer": ("format: 2\n", "line 1: format must be 1; got 2. A newer handful"),
    "format text": ("format: one\n", "line 1: format must be a number; got the text"),
    "format zero": ("format: 0\n", "line 1: format must be 1; got 0"),
    "not UTF-8": (b"lr: 1\nrecipe: w\xefne\n", "line 2: the text must be UTF-8.*0xef"),
    "too large": ("#" * (2**16 + 1), "must be a configuration of at most 64 KiB"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file_is_told_with_its_name_in_one_line(
    tmp_path: Path, name: str
) -> None:
    content, says = WRONG[name]
    path = _write(tmp_path, content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"must name a file that exists; got .*no.yaml"
    ):
        read_config(tmp_path / "no.yaml")


def test_folder_of_a_run_leads_to_its_config(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"must name a file; got the folder '[^']*'\.$"
    ):
        read_config(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"Did you mean .*config\.yaml"):
        read_config(tmp_path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file"
)
def test_unreadable_file_says_so(tmp_path: Path) -> None:
    path = _write(tmp_path, "lr: 1\n")
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"can be read; got .*Permission denied"):
        read_config(path)
