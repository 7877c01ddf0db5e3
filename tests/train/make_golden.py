"""Write the golden checkpoint of the present format: run by hand when it changes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from handful.train.checkpoint import Checkpoint, save_checkpoint


def main(folder: Path) -> None:
    """Write a checkpoint of a layer after one step of Adam."""
    model = nn.Linear(3, 2)
    model.load_state_dict(
        {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    progress = {
        "step": 7,
        "epoch": 2,
        "samples": 21,
        "history": [{"epoch": 1, "step": 4, "train_loss": float("nan")}],
        "generators": {"python": [3, [1, 2], None]},
        "feed": {"delivered": 3},
    }
    folder.mkdir(parents=True)
    state = Checkpoint(model.state_dict(), optimizer.state_dict(), progress)
    save_checkpoint(folder, state)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
