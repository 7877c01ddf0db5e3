"""Weights: from files of other programs into a model whole, or not at all."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from handful.errors import ArgumentError, CheckpointError
from handful.runs.run import Run
from handful.train.checkpoint import Checkpoint, save_checkpoint
from handful.train.weight_files import best_checkpoint, read_weights
from handful.train.weights import load_weights, save_weights


def make_model(seed: int = 0, outputs: int = 2) -> nn.Sequential:
    """Make a small model, its weights drawn from a seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """Compare two models' entries bit for bit."""
    theirs = other.state_dict()
    assert set(theirs) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def prefixed(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a model's entries under longer names."""
    return {prefix + name: value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
def test_plain_state_dict_of_torch_is_loaded(tmp_path: Path, suffix: str) -> None:
    source, model = make_model(1), make_model(2)
    path = tmp_path / f"w{suffix}"
    torch.save(source.state_dict(), path)
    result = load_weights(model, path)
    assert_same(model, source)
    assert (result.source, result.prefix, result.is_complete) == (path, "", True)
    assert result.loaded == tuple(source.state_dict())
    assert result.converted == ()


def test_old_file_format_of_torch_is_loaded(tmp_path: Path) -> None:
    source, model = make_model(1), make_model(2)
    torch.save(
        source.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False
    )
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "module", "params"]
)
def test_state_dict_is_found_under_the_keys_of_other_programs(
    tmp_path: Path, key: str
) -> None:
    source, model = make_model(1), make_model(2)
    optimizer = torch.optim.Adam(source.parameters())
    source(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        key: source.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)


def test_state_dict_is_found_two_wrappers_deep(tmp_path: Path) -> None:
    source, model = make_model(1), make_model(2)
    content = {"model": "net", "state_dict": {"model": source.state_dict()}}
    torch.save(content, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)


def test_dictionary_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="got a dict with the keys model"):
        load_weights(make_model(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (torch.ones(2), "got a Tensor"),
        ({}, "with the keys none"),
        ({"epoch": 1, "net": {}}, "with the keys epoch, net"),
        ({3: torch.ones(2)}, "with the keys 3"),
    ],
)
def test_file_without_state_dict_says_what_it_holds(
    tmp_path: Path, content: object, got: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"must hold a state_dict, .*{got}"):
        load_weights(make_model(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "net.encoder."]
)
def test_prefix_that_all_names_share_is_cut_off(tmp_path: Path, prefix: str) -> None:
    source, model = make_model(1), make_model(2)
    torch.save(prefixed(source, prefix), tmp_path / "w.pt")
    assert load_weights(model, tmp_path / "w.pt").prefix == prefix
    assert_same(model, source)


def test_prefix_that_the_model_has_too_stays(tmp_path: Path) -> None:
    source = nn.ModuleDict({"model": make_model(1)})
    model = nn.ModuleDict({"model": make_model(2)})
    torch.save(prefixed(source, "module."), tmp_path / "w.pt")
    assert load_weights(model, tmp_path / "w.pt").prefix == "module."
    assert_same(model, source)


def test_name_that_begins_like_another_is_no_prefix(tmp_path: Path) -> None:
    content = {"layer1.weight": torch.ones(2, 2), "layer2.bias": torch.ones(2)}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"unexpected: layer1\.weight, layer2\.b"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_compiled_model_and_bare_one_load_each_other(tmp_path: Path) -> None:
    source, model = make_model(1), make_model(2)
    save_weights(source, tmp_path / "bare.safetensors")
    load_weights(torch.compile(model), tmp_path / "bare.safetensors")  # type: ignore[arg-type]
    assert_same(model, source)
    third = make_model(3)
    torch.save(torch.compile(third).state_dict(), tmp_path / "compiled.pt")  # type: ignore[attr-defined]
    assert load_weights(model, tmp_path / "compiled.pt").prefix == "_orig_mod."
    assert_same(model, third)


class Trap:
    """Unpickles by running a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_malicious_pickle_runs_nothing(tmp_path: Path, kind: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pt"
    content = {"state_dict": make_model().state_dict(), "x": Trap(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    model = make_model(1)
    says = r"w\.pt must hold tensors and plain values alone; it asks for \w+\.system,"
    if kind == "pickle":
        says = r"w\.pt is no file of torch\.save .* damaged: Unsupported operand"
    with pytest.raises(CheckpointError, match=says):
        load_weights(model, path)
    assert not mark.exists()
    assert_same(model, make_model(1))
    if kind == "pickle":  # the trap does go off where it may
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (make_model(), "asks for torch.nn.modules.container.Sequential"),
        ({"best": np.float64(0.5)}, r"asks for numpy\.\S+scalar"),
    ],
)
def test_pickled_objects_are_refused_by_name(
    tmp_path: Path, content: object, named: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=rf"{named}, .* torch\.save\(model\.state_dict\(\), path"
    ):
        load_weights(make_model(), tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(make_model()), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="it asks for a TorchScript program"):
        load_weights(make_model(), tmp_path / "w.pt")


def _bytes_of_torch(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(make_model().state_dict(), buffer, **options)
    return buffer.getvalue()


WHOLE = _bytes_of_torch()
LEGACY = _bytes_of_torch(_use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pt", b""),
        ("w.pt", b"hello world\n" * 9),
        ("w.pt", bytes(range(256)) * 4),
        ("w.pt", WHOLE[: len(WHOLE) // 2]),
        ("w.pt", LEGACY[:40]),
        ("w.pt", LEGACY[:-3]),
        ("w.safetensors", b""),
        ("w.safetensors", b"hello world\n" * 9),
    ],
)
def test_damaged_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    model = make_model(1)
    with pytest.raises(
        CheckpointError, match=r"w\.\w+ is no .*, or is damaged: \w"
    ) as e:
        load_weights(model, tmp_path / name)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250 + len(str(tmp_path))
    assert_same(model, make_model(1))


def test_truncated_safetensors_file_leaves_the_model_alone(tmp_path: Path) -> None:
    path = save_weights(make_model(2), tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    model = make_model(1)
    with pytest.raises(CheckpointError, match=r"w\.safetensors is no .* damaged"):
        load_weights(model, path, strict=False)
    assert_same(model, make_model(1))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file"):
        load_weights(make_model(), tmp_path / name)


def test_unknown_ending_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"must be one of \.bin, .* '\.saftensors'"):
        load_weights(make_model(), tmp_path / "w.saftensors")


def test_wrong_architecture_lists_five_of_each_kind(tmp_path: Path) -> None:
    shared = [nn.Linear(2, 3) for _ in range(3)]
    source = nn.ModuleList([*shared, nn.ModuleList([nn.Linear(2, 2) for _ in "abc"])])
    model = nn.ModuleList([nn.Linear(2, 4) for _ in range(3)])
    model.append(nn.Linear(1, 1))
    model.append(make_model())
    torch.save(source.state_dict(), tmp_path / "w.pt")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as raised:  # noqa: PT011
        load_weights(model, tmp_path / "w.pt")
    assert str(raised.value) == (
        f"the weights in {tmp_path / 'w.pt'} must fit the model; got nothing that "
        "fits; missing: 3.weight, 3.bias, 4.0.weight, 4.0.bias, 4.1.weight and 6 more; "
        "unexpected: 3.0.weight, 3.0.bias, 3.1.weight, 3.1.bias, 3.2.weight and 1 "
        "more; mismatched: 0.weight (model (4, 2) float32, file (3, 2) float32), "
        "0.bias (model (4,) float32, file (3,) float32), "
        "1.weight (model (4, 2) float32, file (3, 2) float32), "
        "1.bias (model (4,) float32, file (3,) float32), "
        "2.weight (model (4, 2) float32, file (3, 2) float32) and 1 more. "
        "Make the model that they were saved from."
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_strict_loads_all_or_nothing(tmp_path: Path, change: str) -> None:
    source = make_model(1).state_dict()
    if change == "missing":
        del source["2.bias"]
    elif change == "unexpected":
        source["3.bias"] = torch.ones(2)
    else:
        source["2.bias"] = torch.ones(3)
    torch.save(source, tmp_path / "w.pt")
    model = make_model(2)
    says = rf"{change}: [23]\.bias.* strict=False"
    with pytest.raises(CheckpointError, match=says):
        load_weights(model, tmp_path / "w.pt")
    assert_same(model, make_model(2))


def test_not_strict_loads_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    source, model, before = make_model(1, outputs=5), make_model(2), make_model(2)
    state = source.state_dict()
    del state["0.bias"]
    state["extra"] = torch.ones(1)
    torch.save(state, tmp_path / "w.pt")
    result = load_weights(model, tmp_path / "w.pt", strict=False)
    assert result.missing == ("0.bias",)
    assert result.unexpected == ("extra",)
    assert [mismatch.name for mismatch in result.mismatched] == ["2.weight", "2.bias"]
    assert str(result.mismatched[1]) == (
        "2.bias (model (2,) float32, file (5,) float32)"
    )
    assert not result.is_complete
    own, old = model.state_dict(), before.state_dict()
    for name, value in own.items():
        expected = state if name in result.loaded else old
        assert torch.equal(value, expected[name]), name
    assert "0.weight" in result.loaded
    assert "1.running_mean" in result.loaded


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_that_fits_is_an_error_all_the_same(
    tmp_path: Path, strict: bool
) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"got nothing that fits; .* from\.$"):
        load_weights(make_model(), tmp_path / "w.pt", strict=strict)


def test_dtypes_become_the_models(tmp_path: Path) -> None:
    source, model = make_model(1), make_model(2)
    torch.save(source.double().state_dict(), tmp_path / "w.pt")
    result = load_weights(model, tmp_path / "w.pt")
    assert "0.weight" in result.converted
    assert "1.num_batches_tracked" not in result.converted
    assert model[0].weight.dtype is torch.float32
    assert torch.equal(model[0].weight, source[0].weight.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_values_are_not_cut_to_another_kind(tmp_path: Path, dtype: torch.dtype) -> None:
    class Counted(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.register_buffer("count", value)

    kept = torch.int64 if dtype is torch.float32 else torch.float32
    own = torch.ones(2, dtype=kept)
    torch.save({"count": torch.full((2,), 1.5, dtype=dtype)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"mismatched: count \(model \(2,\) \w+,"):
        load_weights(Counted(own), tmp_path / "w.pt")


def test_gradients_and_requires_grad_stay(tmp_path: Path) -> None:
    model = make_model(2)
    model[0].weight.requires_grad_(False)
    parameter = model[2].weight
    torch.save(make_model(1).state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert model[2].weight is parameter
    assert parameter.requires_grad
    assert not model[0].weight.requires_grad


class Picky(nn.Module):
    """Keeps a number in its state and takes no other."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def get_extra_state(self) -> int:
        return self.number

    def set_extra_state(self, state: int) -> None:
        if state != self.number:
            raise ValueError(f"{state} is not {self.number}")


def test_model_that_refuses_midway_is_as_it_was(tmp_path: Path) -> None:
    torch.save(nn.Sequential(make_model(1), Picky(1)).state_dict(), tmp_path / "w.pt")
    model = nn.Sequential(make_model(2), Picky(2))
    with pytest.raises(CheckpointError, match="cannot be loaded: 1 is not 2"):
        load_weights(model, tmp_path / "w.pt")
    assert_same(model[0], make_model(2))
    load_weights(nn.Sequential(make_model(2), Picky(1)), tmp_path / "w.pt")


def test_lazy_and_meta_models_are_told_what_to_do(tmp_path: Path) -> None:
    torch.save(make_model().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ArgumentError, match="Give the model one batch first"):
        load_weights(nn.Sequential(nn.LazyLinear(2)), tmp_path / "w.pt")
    with pytest.raises(ArgumentError, match=r"Call model\.to_empty"):
        load_weights(nn.Linear(2, 2, device="meta"), tmp_path / "w.pt")


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_tied_and_transposed_weights_are_saved_in_full(
    tmp_path: Path, suffix: str
) -> None:
    torch.manual_seed(1)
    source, model = Tied(), Tied()
    source.first.weight.data = torch.randn(3, 3).t()
    path = save_weights(source, tmp_path / f"w{suffix}")
    assert path == tmp_path / f"w{suffix}"
    is_pt = suffix == ".pt"
    state = torch.load(path, weights_only=True) if is_pt else load_file(path)
    model.load_state_dict(state, strict=True)
    assert_same(model, source)
    assert state["first.weight"].is_contiguous()
    assert load_weights(Tied(), path).is_complete


def test_file_with_one_of_two_tied_names_is_complete(tmp_path: Path) -> None:
    source, model = Tied(), Tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    assert len(load_file(tmp_path / "w.safetensors")) == 1
    result = load_weights(model, tmp_path / "w.safetensors")
    assert result.loaded == ("first.weight", "second.weight")
    assert_same(model, source)


def test_view_into_large_memory_is_saved_alone(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.data = torch.ones(1_000_000)[:4].view(2, 2)
    for suffix in (".pt", ".safetensors"):
        assert save_weights(model, tmp_path / f"w{suffix}").stat().st_size < 10_000


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_text("old")
    save_weights(make_model(1), path)
    model = make_model(2)
    load_weights(model, path)
    assert_same(model, make_model(1))
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["w.pt"]


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w"])
def test_other_endings_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"must be one of \.pt, \.safetensors; got"):
        save_weights(make_model(), tmp_path / name)


def test_saving_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved: No such file"):
        save_weights(make_model(), tmp_path / "no" / "w.pt")


def test_state_that_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be dense tensors"):
        save_weights(Picky(1), tmp_path / "w.safetensors")


def _write_checkpoint(run_dir: Path, step: int, losses: list[float]) -> nn.Module:
    """Save a model drawn from ``step``, and a history of an epoch each ten steps."""
    history = [
        {"step": 10 * (i + 1), "valid_loss": loss} for i, loss in enumerate(losses)
    ]
    model = make_model(step)
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    empty: dict[str, Any] = {"state": {}, "param_groups": []}
    progress = {"step": step, "history": history}
    save_checkpoint(folder, Checkpoint(model.state_dict(), empty, progress))
    return model


def test_run_gives_its_best_checkpoint(tmp_path: Path) -> None:
    best = _write_checkpoint(tmp_path, 10, [1.0])
    _write_checkpoint(tmp_path, 20, [1.0, 2.0])
    model = make_model(99)
    result = load_weights(model, tmp_path)
    assert_same(model, best)
    assert result.source == tmp_path / "checkpoints" / "step-00000010"


def test_run_whose_best_is_gone_gives_its_newest(tmp_path: Path) -> None:
    newest = _write_checkpoint(tmp_path, 20, [1.0, 2.0])
    model = make_model(99)
    load_weights(model, tmp_path)
    assert_same(model, newest)


def test_run_without_history_gives_its_newest(tmp_path: Path) -> None:
    _write_checkpoint(tmp_path, 3, [])
    newest = _write_checkpoint(tmp_path, 5, [])
    model = make_model(99)
    load_weights(model, tmp_path)
    assert_same(model, newest)


def test_checkpoint_is_loaded_from_its_folder_and_from_its_file(tmp_path: Path) -> None:
    _write_checkpoint(tmp_path, 10, [1.0])
    newest = _write_checkpoint(tmp_path, 20, [1.0, 2.0])
    folder = tmp_path / "checkpoints" / "step-00000020"
    for path in (folder, folder / "model.safetensors"):
        model = make_model(99)
        assert load_weights(model, path).source == path
        assert_same(model, newest)


def test_damaged_best_checkpoint_is_named(tmp_path: Path) -> None:
    _write_checkpoint(tmp_path, 10, [1.0])
    _write_checkpoint(tmp_path, 20, [1.0, 2.0])
    (tmp_path / "checkpoints" / "step-00000010" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"step-00000010.*is damaged: expected"):
        load_weights(make_model(), tmp_path)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"neither checkpoints/ nor manifest\.jso"
    ):
        load_weights(make_model(), tmp_path)


def test_best_is_what_the_run_calls_best(tmp_path: Path) -> None:
    losses = [3.0, float("nan"), 0.5, 0.7]
    for count in range(1, 5):
        _write_checkpoint(tmp_path, 10 * count, losses[:count])
    path, checkpoint = best_checkpoint(tmp_path)
    best = Run(history=checkpoint.progress["history"]).best
    assert best is not None
    assert checkpoint.progress["step"] == best["step"] == 30
    assert path.name == "step-00000030"


def test_best_is_what_the_run_was_told_to_monitor(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("monitor: valid_f1\nmonitor_mode: max\n")
    (tmp_path / "checkpoints").mkdir()
    empty: dict[str, Any] = {"state": {}, "param_groups": []}
    scores = [(0.9, 3.0), (0.8, 1.0), (0.7, 2.0)]
    history: list[dict[str, float]] = []
    for step, (score, loss) in enumerate(scores, start=1):
        history.append({"step": step, "valid_f1": score, "valid_loss": loss})
        progress = {"step": step, "history": history}
        model = make_model(step)
        save_checkpoint(
            tmp_path / "checkpoints", Checkpoint(model.state_dict(), empty, progress)
        )
    model = make_model(99)
    load_weights(model, tmp_path)
    assert_same(model, make_model(1))


def test_averaged_weights_are_taken_where_they_are_kept(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"state": {}, "param_groups": []}
    own, average = make_model(1).state_dict(), make_model(2).state_dict()
    path = save_checkpoint(tmp_path, Checkpoint(own, empty, {"step": 1}, average))
    model = make_model(99)
    load_weights(model, path)
    assert_same(model, make_model(2))


def test_reading_returns_the_entries_as_they_are_named(tmp_path: Path) -> None:
    save_file({"module.x": torch.arange(3)}, tmp_path / "w.safetensors")
    source, entries = read_weights(str(tmp_path / "w.safetensors"))
    assert source == tmp_path / "w.safetensors"
    assert list(entries) == ["module.x"]
    assert entries["module.x"].tolist() == [0, 1, 2]
