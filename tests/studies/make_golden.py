"""Write the golden folder of the present format: run by hand when it changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from handful import load_recipe
from handful.studies.compare import compare

HERE = Path(__file__).parent
MACHINE = {"platform": "Linux", "processor": "x86_64", "cpus": 2, "threads": 1}


def main(folder: Path) -> None:
    """Write a study of eight trials, two of each cell."""
    compare(
        load_recipe(f"{HERE / 'recipes.py'}:line"),
        {"batch_size": [16, "full"], "lr": [0.1, 1e30]},
        seeds=2,
        epochs=2,
        target="valid_r2>=0.5",
        out=folder,
    )
    (folder / "lock").unlink()
    path = folder / "study.json"
    meta = json.loads(path.read_text())
    meta["environment"] |= MACHINE
    path.write_text(json.dumps(meta, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
