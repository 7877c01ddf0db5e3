"""The flags of ``handful train``, in the groups in which its help lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from handful.cli.options import complete_recipe
from handful.errors import ArgumentError
from handful.recipes.own_data import OwnData
from handful.train.options import OPTIONS

OWN_DATA = "Own data"
LENGTH, STEP = "Length", "Each step"
MEASURING, NUMBERS = "Measuring", "Randomness and machine"
FOLDER, SHOWING = "The run", "What is printed"


def _flag(metavar: str, text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)


def _switch(name: str, text: str, panel: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel)


RecipeArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A name that `handful recipes` lists, or file.py:name.",
        autocompletion=complete_recipe,
        show_default=False,
    ),
]

Data: TypeAlias = Annotated[
    str | None,
    _flag(
        "PATH",
        "A table (.csv, .tsv, .parquet, .npz), or a folder with a folder of images for "
        "each class, in place of RECIPE.",
        OWN_DATA,
    ),
]
Target: TypeAlias = Annotated[
    str | None, _flag("COLUMN", "The column to predict.", OWN_DATA)
]

Cache: TypeAlias = Annotated[
    bool,
    _switch(
        "--cache", "Keep what was read of a CSV file, for the next time.", OWN_DATA
    ),
]

Epochs: TypeAlias = Annotated[
    str | None, _flag("N", "Passes over the training data.", LENGTH)
]
MaxSteps: TypeAlias = Annotated[
    str | None, _flag("N", "Steps, in place of epochs or beside them.", LENGTH)
]
EarlyStopping: TypeAlias = Annotated[
    str | None,
    _flag("N", "End after N validations without improvement.", LENGTH),
]

BatchSize: TypeAlias = Annotated[
    str | None, _flag("N|full", "Samples in a batch.", STEP)
]
LastBatch: TypeAlias = Annotated[
    str | None,
    _flag("keep|drop", "What becomes of a smaller last batch. [keep]", STEP),
]
Accumulate: TypeAlias = Annotated[
    str | None, _flag("N", "Batches a step, with the gradients of one batch.", STEP)
]
MicroBatchSize: TypeAlias = Annotated[
    str | None, _flag("N", "Most samples in the model at once.", STEP)
]
Loss: TypeAlias = Annotated[
    str | None,
    _flag(
        "NAME[:k=v[,...]]", "Such as mse or cross_entropy:label_smoothing=0.1.", STEP
    ),
]
Optimizer: TypeAlias = Annotated[
    str | None,
    _flag("NAME[:k=v[,...]]", "Such as adam or sgd:momentum=0.9.", STEP),
]
Lr: TypeAlias = Annotated[str | None, _flag("X", "Learning rate at the start.", STEP)]
Schedule: TypeAlias = Annotated[
    str | None,
    _flag(
        "NAME[:k=v[,...]]",
        "Such as cosine, step:step_size=10 or cosine:warmup=500,unit=step.",
        STEP,
    ),
]
NoDecay: TypeAlias = Annotated[
    bool,
    _switch(
        "--no-decay-on-biases-and-norms",
        "Weight decay leaves biases and normalisation layers alone.",
        STEP,
    ),
]
ClipNorm: TypeAlias = Annotated[
    str | None, _flag("X", "Most that the norm of all gradients may be.", STEP)
]
ClipValue: TypeAlias = Annotated[
    str | None, _flag("X", "Most that an entry of a gradient may be.", STEP)
]
OnNonfinite: TypeAlias = Annotated[
    str | None,
    _flag("stop|skip", "What a NaN or Inf in loss or gradients does. [stop]", STEP),
]
OnOutOfMemory: TypeAlias = Annotated[
    str | None,
    _flag("raise|split", "What a step that does not fit does. [raise]", STEP),
]
Ema: TypeAlias = Annotated[
    str | None,
    _flag("X", "Decay of averaged weights, such as 0.999, used to measure.", STEP),
]

Metrics: TypeAlias = Annotated[
    str | None, _flag("A,B,...", "Measured on validation data.", MEASURING)
]
TrainMetrics: TypeAlias = Annotated[
    str | None, _flag("A,B,...", "Measured on the batches trained on.", MEASURING)
]
Monitor: TypeAlias = Annotated[
    str | None,
    _flag("NAME", "What decides which state is best. [valid_loss]", MEASURING),
]
ValidEvery: TypeAlias = Annotated[
    str | None, _flag("STEPS", "Validate so often, not each epoch.", MEASURING)
]
LossAverage: TypeAlias = Annotated[
    str | None,
    _flag(
        "samples|batches",
        "What counts the same in an epoch's loss. [samples]",
        MEASURING,
    ),
]
LogNorms: TypeAlias = Annotated[
    bool, _switch("--log-norms", "Keep norms of gradients and weights.", MEASURING)
]

Seed: TypeAlias = Annotated[
    str | None, _flag("N", "Decides weights, order and splits. [0]", NUMBERS)
]
Device: TypeAlias = Annotated[
    str | None, _flag("NAME", "auto, cpu, cuda, cuda:1, mps [auto]", NUMBERS)
]
Precision: TypeAlias = Annotated[
    str | None,
    _flag("NAME", "float32, bf16 or fp16: what the model computes in.", NUMBERS),
]
Threads: TypeAlias = Annotated[
    str | None,
    _flag(
        "N|auto|torch",
        "Threads on the CPU; auto measures, torch leaves its own. [auto]",
        NUMBERS,
        "--threads",
    ),
]

NumWorkers: TypeAlias = Annotated[
    str | None,
    _flag("N", "Processes or threads that read data ahead. [0]", NUMBERS),
]
WorkerType: TypeAlias = Annotated[
    str | None,
    _flag(
        "process|thread",
        "Which of the two. [thread for images, else process]",
        NUMBERS,
    ),
]

Config: TypeAlias = Annotated[
    Path | None,
    _flag(
        "FILE", "Settings in YAML, as a run's config.yaml; flags come first.", FOLDER
    ),
]
Out: TypeAlias = Annotated[
    Path | None, _flag("DIR", "The run's folder. [runs/RECIPE-DATE-TIME-ID]", FOLDER)
]
Resume: TypeAlias = Annotated[
    bool,
    _switch(
        "--resume",
        "Go on with the run in --out, or with the newest unfinished one.",
        FOLDER,
    ),
]
Fresh: TypeAlias = Annotated[
    bool,
    _switch("--fresh", "Start anew in --out; the run there is deleted.", FOLDER),
]
CheckpointEvery: TypeAlias = Annotated[
    str | None, _flag("EPOCHS", "Keep a checkpoint so often, for good.", FOLDER)
]
SaveEvery: TypeAlias = Annotated[
    str | None,
    _flag(
        "TIMES",
        "When to save within epochs: records, 500steps, 10minutes. [auto]",
        FOLDER,
    ),
]
OnSaveError: TypeAlias = Annotated[
    str | None,
    _flag("stop|continue", "What to do when the disk refuses. [stop]", FOLDER),
]
AllowChanged: TypeAlias = Annotated[
    bool,
    _switch(
        "--allow-changed",
        "Resume although data, device or versions have changed the bits to come.",
        FOLDER,
    ),
]
AsSeed: TypeAlias = Annotated[
    bool,
    _switch(
        "--as-seed", "The recipe as the lesson's plain program, with its lines.", FOLDER
    ),
]
OverfitOneBatch: TypeAlias = Annotated[
    bool,
    _switch(
        "--overfit-one-batch",
        "Only see whether the model can learn its first batch by heart.",
        FOLDER,
    ),
]

PrintEvery: TypeAlias = Annotated[
    str | None,
    _flag(
        "epoch|batch|N",
        "Print each epoch, each batch, or every N-th batch too. [epoch]",
        SHOWING,
        "--print",
    ),
]
Summary: TypeAlias = Annotated[
    bool, _switch("--summary", "Print the model's layers first.", SHOWING)
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print nothing but the run's folder.",
        rich_help_panel=SHOWING,
    ),
]


def read_options(flags: Mapping[str, str | bool | None]) -> dict[str, Any]:
    """Return the options that flags give, checked.

    Args:
        flags: What was typed, by names of `OPTIONS`; None where a flag was left out.

    Raises:
        ArgumentError: A value can't be used.
    """
    return {
        name: OPTIONS[name].check(_read(name, value), name=spell_flag(name))
        for name, value in flags.items()
        if value is not None
    }


def split_names(text: str) -> list[str]:
    """Return the names in ``a,b,c``; none in an empty text."""
    return [name.strip() for name in text.split(",")] if text else []


def spell_flag(name: str) -> str:
    """Return a setting's flag: ``--clip-norm`` for ``clip_norm``."""
    own = {"num_threads": "--threads"}
    return own.get(name, "--" + name.replace("_", "-"))


def _read(name: str, value: str | bool) -> Any:
    is_list = name == "train_metrics" and isinstance(value, str)
    return split_names(str(value)) if is_list else value


def choose_recipe(
    recipe: str | None, data: str | None, target: str | None
) -> str | None:
    """Return the name of what is trained: a recipe, own data, or None for neither.

    Raises:
        ArgumentError: Both are given, or a target without data.
    """
    if data is None:
        if target is not None:
            raise ArgumentError(
                f"--target must go with --data; got {target!r} alone. A recipe says by "
                "itself what it predicts."
            )
        return recipe
    if recipe is not None:
        raise ArgumentError(
            f"RECIPE must be left out with --data; got {recipe!r} and {data!r}. Train "
            "one of the two."
        )
    return OwnData(data, target).recipe
