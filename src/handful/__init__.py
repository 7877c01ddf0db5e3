"""Mini-batch training for PyTorch: feed, train, know.

The public names are imported when they are first touched, so that ``import handful``
costs next to nothing and commands that need no tensor never load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handful.data.columns import Columns
    from handful.data.csv_file import read_csv
    from handful.data.csv_schema import TableSchema
    from handful.data.first_batch import first
    from handful.data.image_files import ImageFiles
    from handful.data.json_lines import JsonLines
    from handful.data.length_buckets import LengthBuckets
    from handful.data.loader import DataLoader
    from handful.data.loader_profile import LoaderProfile, profile_loader
    from handful.data.npy import read_npy, read_npz
    from handful.data.padding import PadCollate
    from handful.data.parquet_files import ParquetFiles
    from handful.errors import HandfulError
    from handful.recipes.registry import load_recipe
    from handful.runs.run import Run
    from handful.runs.study import Study
    from handful.studies.compare import compare
    from handful.train.callbacks import Callback
    from handful.train.export import export_model
    from handful.train.metrics import Metric
    from handful.train.overfit import overfit_one_batch
    from handful.train.recipe import Recipe
    from handful.train.run_recipe import run_recipe
    from handful.train.stopping import EarlyStopping
    from handful.train.tensorboard import TensorBoard
    from handful.train.torch_schedule import TorchSchedule
    from handful.train.trainer import Trainer
    from handful.train.weights import load_weights, save_weights

__version__ = "0.1.0"

_EXPORTS = {
    "Callback": "handful.train.callbacks",
    "Columns": "handful.data.columns",
    "DataLoader": "handful.data.loader",
    "EarlyStopping": "handful.train.stopping",
    "HandfulError": "handful.errors",
    "ImageFiles": "handful.data.image_files",
    "JsonLines": "handful.data.json_lines",
    "LengthBuckets": "handful.data.length_buckets",
    "LoaderProfile": "handful.data.loader_profile",
    "Metric": "handful.train.metrics",
    "PadCollate": "handful.data.padding",
    "ParquetFiles": "handful.data.parquet_files",
    "Recipe": "handful.train.recipe",
    "Run": "handful.runs.run",
    "Study": "handful.runs.study",
    "TableSchema": "handful.data.csv_schema",
    "TensorBoard": "handful.train.tensorboard",
    "TorchSchedule": "handful.train.torch_schedule",
    "Trainer": "handful.train.trainer",
    "compare": "handful.studies.compare",
    "export_model": "handful.train.export",
    "first": "handful.data.first_batch",
    "load_recipe": "handful.recipes.registry",
    "load_weights": "handful.train.weights",
    "overfit_one_batch": "handful.train.overfit",
    "profile_loader": "handful.data.loader_profile",
    "read_csv": "handful.data.csv_file",
    "read_npy": "handful.data.npy",
    "read_npz": "handful.data.npy",
    "run_recipe": "handful.train.run_recipe",
    "save_weights": "handful.train.weights",
}

__all__ = [
    "Callback",
    "Columns",
    "DataLoader",
    "EarlyStopping",
    "HandfulError",
    "ImageFiles",
    "JsonLines",
    "LengthBuckets",
    "LoaderProfile",
    "Metric",
    "PadCollate",
    "ParquetFiles",
    "Recipe",
    "Run",
    "Study",
    "TableSchema",
    "TensorBoard",
    "TorchSchedule",
    "Trainer",
    "__version__",
    "compare",
    "export_model",
    "first",
    "load_recipe",
    "load_weights",
    "overfit_one_batch",
    "profile_loader",
    "read_csv",
    "read_npy",
    "read_npz",
    "run_recipe",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        message = f"module 'handful' has no attribute {name!r}"
        raise AttributeError(message) from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
