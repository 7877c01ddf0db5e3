"""Configuration files: what is read, and what a wrong one is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handful.cli.config import ConfigFile, read_config
from handful.cli.settings import Settings
from handful.errors import ConfigError
from handful.train.choices import Choice
from handful.train.options import OPTIONS
from handful.train.stopping import EarlyStopping


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
        loss: "cross_entropy:label_smoothing=0.1"
        last_batch: drop
        num_workers: 2
        worker_type: thread
        metrics: [accuracy]
        loss_average: batches
        max_steps: 100
        valid_every: 10
        checkpoint_every: 2
        save_every: 500steps
        on_save_error: continue
        param_groups: {"0.*": {lr_factor: 0.5}}
        decay_biases_and_norms: false
        train_metrics: [f1]
        monitor: valid_accuracy
        monitor_mode: max
        early_stopping: {patience: 5, min_delta: 0.01, start: 1}
        accumulate: 2
        micro_batch_size: 8
        clip_norm: 1.0
        clip_value: 0.5
        log_norms: true
        precision: bf16
        on_nonfinite: skip
        on_out_of_memory: split
        ema: 0.9
        target: 1
        sample_weight: w
        num_threads: 2
        memory_format: contiguous
        engine: captured
        """,
    )
    options = {
        "max_steps": 100,
        "valid_every": 10,
        "checkpoint_every": 2,
        "save_every": "500steps",
        "on_save_error": "continue",
        "param_groups": {"0.*": {"lr_factor": 0.5}},
        "decay_biases_and_norms": False,
        "train_metrics": ("f1",),
        "monitor": "valid_accuracy",
        "monitor_mode": "max",
        "early_stopping": EarlyStopping(patience=5, min_delta=0.01, start=1),
        "accumulate": 2,
        "micro_batch_size": 8,
        "clip_norm": 1.0,
        "clip_value": 0.5,
        "log_norms": True,
        "precision": "bf16",
        "on_nonfinite": "skip",
        "on_out_of_memory": "split",
        "ema": 0.9,
        "target": 1,
        "sample_weight": "w",
        "num_threads": 2,
        "memory_format": "contiguous",
        "engine": "captured",
    }
    assert set(options) == {name for name, o in OPTIONS.items() if not o.is_code}
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
        loss=Choice("cross_entropy", {"label_smoothing": 0.1}),
        last_batch="drop",
        num_workers=2,
        worker_type="thread",
        metrics=("accuracy",),
        loss_average="batches",
        options=options,
    )


def test_null_leaves_every_key_to_the_recipe(tmp_path: Path) -> None:
    keys = [key for key in ConfigFile.model_fields if key != "num_threads"]
    path = _write(tmp_path, "".join(f"{key}: null\n" for key in keys))
    assert read_config(path) == Settings()


def test_null_threads_are_torchs_own(tmp_path: Path) -> None:
    path = _write(tmp_path, "num_threads: null\n")
    assert read_config(path).options == {"num_threads": None}


def test_early_stopping_may_be_a_number(tmp_path: Path) -> None:
    path = _write(tmp_path, "early_stopping: 5\n")
    assert read_config(path).options == {"early_stopping": EarlyStopping(patience=5)}


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
    "unknown loss": ("loss: msee\n", "line 1: loss must.*Did you mean 'mse'"),
    "loss list": ("loss: [mse]\n", "line 1: loss must be a name, or a mapping"),
    "loss value": ("loss: {name: huber, delta: x}\n", "delta of loss 'huber' must be"),
    "optimiser value": (
        "optimizer: {name: sgd, momentum: fast}\n",
        "line 1: momentum of optimizer 'sgd' must be a finite number; got 'fast'",
    ),
    "unknown last batch": ("last_batch: kep\n", "Did you mean 'keep'"),
    "no steps": ("lr: 1\nmax_steps: 0\n", "line 2: max_steps must be a whole number"),
    "text for steps": ('max_steps: "9"\n', "max_steps must be a number; got the text"),
    "clip text": ("clip_norm: a lot\n", "line 1: clip_norm must be a number; got the"),
    "negative clip": ("clip_value: -1\n", "clip_value must be a finite number above 0"),
    "unknown precision": ("precision: bf61\n", "Did you mean 'bf16'"),
    "ema of one": ("ema: 1\n", "line 1: ema must be between 0 and 1; got 1"),
    "patience text": ('early_stopping: "5"\n', "early_stopping must be a number; got"),
    "patience key": (
        "early_stopping: {patince: 5}\n",
        "a key of early_stopping must be one of.*Did you mean 'patience'",
    ),
    "patience value": ("early_stopping: {patience: -1}\n", "patience must be a whole"),
    "bare monitor": ("monitor: accuracy\n", "Did you mean 'valid_accuracy'"),
    "monitor number": ("monitor: 5\n", "monitor must be a value of the history"),
    "unknown mode": ("monitor_mode: mix\n", "monitor_mode must be one of max, min"),
    "groups list": ("param_groups: [a]\n", "param_groups must map patterns to options"),
    "groups number": ("param_groups: {a: 1}\n", r"param_groups\['a'\] must map a"),
    "flag number": ("log_norms: 1\n", "line 1: log_norms must be true or false; got 1"),
    "target true": ("target: true\n", "target must be a position or a key; got True"),
    "threads zero": ("num_threads: 0\n", "num_threads must be a whole number from 1"),
    "threads text": ("num_threads: many\n", "must be a number or 'auto'; got the text"),
    "unknown format": ("memory_format: nhwc\n", "memory_format must be one of auto,"),
    "a step": ("step: f\n", "a key must be one of"),
    "unknown train metric": ("train_metrics: [recal]\n", "mean 'recall'"),
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
