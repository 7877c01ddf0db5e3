"""The image benchmark runs to its end, and counts only images that are alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "loading_images.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_work_of_the_image_benchmark_runs_to_its_end(tmp_path):
    out = tmp_path / "images.json"
    options = ["--workers", "0,1", "--folder", str(tmp_path), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--quick", *options],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    plain, changed = results["cases"]
    assert plain["most_levels"] <= 2
    assert abs(changed["mean_levels"][0] - changed["mean_levels"][1]) < 10
    for case in results["cases"]:
        for side in case["sides"]:
            (run,) = side["runs"]
            assert run["samples"] == results["data"]["files"] == 96
    assert not list(tmp_path.glob("images-*"))
    assert "A quick run" in done.stdout
