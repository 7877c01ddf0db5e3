"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HANDFUL_DATA", CHECKOUT / ".data"))
REQUIRE_DATA = os.environ.get("HANDFUL_REQUIRE_DATA") == "1"
CACHE = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _holds_idx_files(folder: Path) -> bool:
    return all(
        any((folder / f"{name}{ending}").is_file() for ending in ("", ".gz"))
        for name in IDX_FILES
    )


def _find_data(title: str, *folders: Path) -> Path:
    for folder in folders:
        if _holds_idx_files(folder):
            return folder
    looked = " nor ".join(dict.fromkeys(map(str, folders)))
    message = f"{title} is not in {looked}; scripts/test-data brings it"
    if REQUIRE_DATA:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def real_mnist_dir() -> Path:
    """Return the folder with the four IDX files of MNIST, plain or ``.gz``."""
    return _find_data("MNIST", DATA / "mnist", CHECKOUT / ".data" / "mnist")


@pytest.fixture(scope="session")
def real_fashion_dir() -> Path:
    """Return the folder with the four IDX files of Fashion-MNIST, plain or ``.gz``."""
    return _find_data("Fashion-MNIST", FASHION_PACKAGE, DATA / "fashion-mnist")


@pytest.fixture(scope="session")
def _matplotlib_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for matplotlib's list of fonts, which takes seconds to gather."""
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture(autouse=True)
def _own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _matplotlib_dir: Path
) -> None:
    """Keep tests from the user's settings and caches, here and in their processes."""
    for name in [name for name in os.environ if name.startswith("HANDFUL_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "private"
    monkeypatch.setenv("HANDFUL_DATA", str(folder / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(_matplotlib_dir))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("HANDFUL_PLAYER", "off")


@pytest.fixture(scope="session")
def _built_player() -> Path:
    """Build the native player, once for this machine and this PyTorch."""
    library: Any = importlib.import_module("handful.train.player_library")
    if library.is_off() or library.find_compiler() is None:
        pytest.skip("the native player needs Linux and a C++ compiler on the path")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", CACHE)
        return Path(library.build_library())


@pytest.fixture
def native_player(
    _own_environment: None, _built_player: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Let recorded steps be played natively; return the library."""
    library: Any = importlib.import_module("handful.train.player_library")
    monkeypatch.delenv("HANDFUL_PLAYER")
    path = Path(library.library_path())
    path.parent.mkdir(parents=True)
    shutil.copy(_built_player, path)
    library.look_again()
    return path


@pytest.fixture(autouse=True)
def _same_torch_after() -> Iterator[None]:
    """Restore torch's generator and thread count, where a test has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    state, num_threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(num_threads)


class RunHandful(Protocol):
    """The type of the fixture `run_handful`."""

    def __call__(
        self,
        *args: str | os.PathLike[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_handful(tmp_path: Path) -> RunHandful:
    """Run the real command line in its own process; never raises for its status.

    The call is ``run_handful("train", "wine", cwd=folder, env={"NAME": "value"})``. The
    folder is the test's ``tmp_path`` unless given, `env` adds to the environment, and
    what comes back has ``returncode``, ``stdout`` and ``stderr`` as text. Standard
    input is empty, the terminal 80 columns wide and without colour.
    """

    def run(
        *args: str | os.PathLike[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        plain = {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, "-m", "handful", *map(os.fspath, args)],
            cwd=tmp_path if cwd is None else cwd,
            env={**os.environ, **plain, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_seconds,
            check=False,
        )

    return run
