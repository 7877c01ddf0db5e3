"""After a loader's first batch the C library keeps freed blocks: no fresh pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from torch.utils.data import Dataset
from handful import DataLoader

class Rows(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index

options = {"threads": {"worker_type": "thread"}, "pytorch": {}}
if sys.argv[1] != "none":
    loader = DataLoader(Rows(), 2, **options[sys.argv[1]])
    assert loader.path.startswith(sys.argv[1])
    next(iter(loader))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    images = [np.ones(2**18, np.uint8) for _ in range(16)]
    del images
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="needs the C library glibc"
)
@pytest.mark.parametrize("path", ["pytorch", "threads"])
def test_blocks_of_an_image_are_used_again(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # 64 pages a block: 1,024 the first time, and without kept memory each time.
    assert int(done.stdout) < 5000
