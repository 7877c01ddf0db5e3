"""torch.distributed: two processes, each with its shard."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import distributed

from handful import DataLoader

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(
        not (distributed.is_available() and distributed.is_gloo_available()),
        reason="PyTorch was built without gloo",
    ),
]

WORLD_SIZE = 2
NUM_SAMPLES = 61

PROGRAM = """
import json, sys
import torch
from torch import distributed, nn
from torch.utils.data import TensorDataset
from handful import DataLoader

class OneByOne(TensorDataset):
    pass

rank, world_size, num_samples = map(int, sys.argv[2:])
distributed.init_process_group(
    "gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=world_size
)
x = torch.randn(num_samples, 4, generator=torch.Generator().manual_seed(0))
y = torch.arange(num_samples)
found = {}
for kind, num_workers in ((TensorDataset, 0), (OneByOne, 0), (OneByOne, 2)):
    for shuffle in (False, True):
        loader = DataLoader(
            kind(x, y), 8, shuffle, num_workers=num_workers,
            seed=3, shard=(distributed.get_rank(), distributed.get_world_size()),
        )
        epochs = [[batch[1].tolist() for batch in loader] for _ in range(2)]
        gathered = [None] * world_size
        distributed.all_gather_object(gathered, epochs)
        found[f"{kind.__name__} {num_workers} {shuffle}"] = gathered

torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1).double())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(
    TensorDataset(x.double()[:60], y[:60]), 6, True, seed=3, shard=(rank, world_size)
)
for _ in range(2):
    for inputs, target in loader:
        loss = ((model(inputs).squeeze(1) - target / 30) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
found["weights"] = [p.tolist() for p in model.module.parameters()]
if rank == 0:
    sys.stdout.write(json.dumps(found))
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the ranks, and return what the first one says."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, str(meeting)),
                *map(str, (rank, WORLD_SIZE, NUM_SAMPLES)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        said = [rank.communicate(timeout=90) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors
    result: dict[str, Any] = json.loads(said[0][0])
    return result


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["TensorDataset 0", "OneByOne 0", "OneByOne 2"])
def test_shards_are_disjoint_and_complete(
    found: dict[str, Any], kind: str, shuffle: bool
) -> None:
    by_rank = found[f"{kind} {shuffle}"]
    orders = []
    for epoch in range(2):
        parts = [
            [number for batch in epochs[epoch] for number in batch]
            for epochs in by_rank
        ]
        assert [len(part) for part in parts] == [31, 30]
        assert sorted(parts[0] + parts[1]) == list(range(NUM_SAMPLES))
        orders.append(parts)
    assert (orders[0] != orders[1]) == shuffle


def test_every_path_gives_a_rank_the_same_samples(found: dict[str, Any]) -> None:
    for shuffle in (False, True):
        first = found[f"TensorDataset 0 {shuffle}"]
        assert found[f"OneByOne 0 {shuffle}"] == first
        assert found[f"OneByOne 2 {shuffle}"] == first


def test_two_ranks_train_as_one_with_batches_twice_as_large(
    found: dict[str, Any],
) -> None:
    x = torch.randn(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(x.double()[:60], torch.arange(60))
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data, 12, shuffle=True, seed=3)
    for _ in range(2):
        for inputs, target in loader:
            loss = ((model(inputs).squeeze(1) - target / 30) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for parameter, values in zip(model.parameters(), found["weights"], strict=True):
        torch.testing.assert_close(parameter.detach(), torch.tensor(values).double())
