"""What a run was made with: versions, machine, and what its last bits depend on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from handful import __version__
from handful.train.optimizers import kernel_name


def describe_environment() -> dict[str, Any]:
    """Return versions and machine, as plain values."""
    return {
        "handful": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def describe_identity(
    *,
    engine: str,
    optimizer: Optimizer,
    device: torch.device,
    precision: str,
    data: str | None = None,
) -> dict[str, Any]:
    """Return what the last bits of a run's numbers depend on, as plain values.

    Args:
        engine: Name of the step's engine.
        optimizer: The optimiser, whose kernel counts.
        device: Where the model is.
        precision: What it computes in.
        data: What tells the training data from others; None where nothing does.
    """
    return {
        "engine": engine,
        "precision": precision,
        "optimizer_kernel": kernel_name(optimizer),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **({} if data is None else {"data": data}),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].partition(":")[2].strip() if names else platform.processor()
