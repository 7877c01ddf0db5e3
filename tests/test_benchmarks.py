"""The benchmarks run, and count what they measured correctly. None asserts a time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("measure")


def _run_loading(tmp_path: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "loading.json"
    command = [sys.executable, str(BENCHMARKS / "loading.py"), "--out", str(out)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--quick", *options],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Not measured" not in done.stdout
    return dict(json.loads(out.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_work_of_the_loading_benchmark_runs_to_its_end(tmp_path: Path) -> None:
    results = _run_loading(tmp_path, "--no-peers")

    works = [case["work"] for case in results["cases"]]
    assert works == ["bytes", "floats", "narrow", "tutorial", "map", "own"]
    for case in results["cases"]:
        assert case["equal_batches"] > 0, case["work"]
        for side in case["sides"]:
            (run,) = side["runs"]
            assert set(run["seconds"]) == {"plain", "kept", "read"}
    assert len({run["sum"] for run in _runs(results["cases"][0])}) == 1
    assert len(results["orders"]) == 4
    assert not list(tmp_path.glob("loading-*"))


@pytest.mark.slow
def test_loops_written_by_hand_join_the_comparison(tmp_path: Path) -> None:
    results = _run_loading(tmp_path, "--only", "bytes")

    (case,) = results["cases"]
    names = [side["name"] for side in case["sides"]]
    assert names[:3] == ["torch", "handful", "by-hand"]
    assert len({run["sum"] for run in _runs(case)}) == 1


def _runs(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for side in case["sides"] for run in side["runs"]]


def test_side_with_other_samples_than_pytorchs_is_a_failure(
    measure: ModuleType,
) -> None:
    loading = importlib.import_module("loading")
    sides = [measure.Side(name, name) for name in ("torch", "handful", "other")]
    for side, total in zip(sides, ("0a", "0a", "0b"), strict=True):
        side.runs.append({"sum": total})
    loading.check_sums(sides)
    reason = "its samples are not those of PyTorch's loader"
    assert [side.error for side in sides] == [None, None, reason]


def test_published_results_make_the_same_tables(measure: ModuleType) -> None:
    tables = importlib.import_module("loading_tables")
    results = _made_up_results(measure)

    page = tables.render_page(results)
    assert tables.render_page(tables.published_results(results)) == page
    ratios = "| rows | 256 | 20.0 (10.0-25.0) | 20.0 (10.0-25.0) | 20.0 (10.0-25.0) |"
    assert f"{ratios} 12 | 16 |" in page
    assert "| rows | 256 | taken | 0.002 | 0.04 |" in page
    assert "- rows, batch 256, tf.data: out of memory" in page
    assert "| order | handful | ns per index | 8 (7-9) | 25 | 10 |" in page


def _made_up_results(measure: ModuleType) -> dict[str, Any]:
    torch = measure.Side("torch", "PyTorch")
    ours = measure.Side("handful", "handful")
    failed = measure.Side("tf-data", "tf.data", runs=[{"error": "out of memory"}])
    order = measure.Side("handful", "handful")
    for repeat, seconds in enumerate((0.05, 0.1, 0.04)):
        run = {"repeat": repeat, "threads": 1, "samples": 2000, "reading_alone": 9e6}
        ways = ("plain", "kept", "read")
        torch.runs.append({**run, "seconds": {way: [1.0] for way in ways}})
        ours.runs.append({**run, "seconds": {way: [seconds] * 2 for way in ways}})
        order.runs.append({"threads": 1, "ns": 7 + repeat})
    sides = [asdict(side) for side in (torch, ours, failed)]
    case = {"title": "rows", "batch_size": 256, "floor": 12, "aim": 16, "sides": sides}
    limits = {"ns": ("ns per index", 25, 10)}
    return {
        "quick": False,
        "began": "2020-01-01T00:00:00",
        "machine": dict.fromkeys(("processor", "cores", "memory_gib", "system"), "?")
        | {"load": 0.0},
        "versions": {"torch": "2"},
        "cpu_capability": "?",
        "images": "MNIST",
        "repeats": 3,
        "threads": [1],
        "cases": [case],
        "orders": [{"title": "order", "limits": limits, "sides": [asdict(order)]}],
    }


JOB = """
import time
from measure import answer

def work(spec):
    print("noise")
    if spec["do"] == "fail":
        raise ValueError("the disk is full")
    if spec["do"] == "hang":
        time.sleep(60)
    return {"threads_seen": spec["threads"]}

answer(work)
"""


@pytest.fixture
def job_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    script = tmp_path / "job.py"
    script.write_text(JOB, encoding="utf-8")
    return script


def test_job_returns_its_result_among_other_output(
    measure: ModuleType, job_script: Path
) -> None:
    job = measure.Job(job_script, {"do": "work"}, threads=2)
    assert measure.run_job(job) == {"threads_seen": 2}


def test_failing_job_gives_its_last_line_as_reason(
    measure: ModuleType, job_script: Path
) -> None:
    result = measure.run_job(measure.Job(job_script, {"do": "fail"}))
    assert result == {"error": "ValueError: the disk is full"}


def test_hanging_job_is_ended_at_its_time_limit(
    measure: ModuleType, job_script: Path
) -> None:
    job = measure.Job(job_script, {"do": "hang"}, timeout_seconds=0.5)
    assert measure.run_job(job) == {"error": "took more than 0.5 s"}


def test_missing_python_is_a_reason_not_a_crash(
    measure: ModuleType, job_script: Path, tmp_path: Path
) -> None:
    job = measure.Job(job_script, {}, python=str(tmp_path / "python"))
    assert "could not start" in measure.run_job(job)["error"]


def test_sides_take_turns_and_a_failed_one_is_not_run_again(
    measure: ModuleType, job_script: Path
) -> None:
    good, bad = measure.Side("work", "good"), measure.Side("fail", "bad")
    order: list[tuple[str, int]] = []

    def make_job(side: Any, threads: int) -> Any:
        order.append((side.label, threads))
        return measure.Job(job_script, {"do": side.name}, threads=threads)

    reported: list[str] = []
    measure.run_interleaved(
        [bad, good], make_job, threads=[1, 2], repeats=2, report=reported.append
    )

    assert order == [("bad", 1), ("good", 1), ("good", 2), ("good", 1), ("good", 2)]
    assert bad.error == "ValueError: the disk is full"
    assert reported == ["    bad: ValueError: the disk is full"]
    seen = measure.values_by_threads(good, lambda run: run["threads_seen"])
    assert seen == {1: [1, 1], 2: [2, 2]}


def test_ratio_takes_each_side_at_its_best_threads_repeat_by_repeat(
    measure: ModuleType,
) -> None:
    ours = {1: [50.0, 60.0, 80.0], 2: [10.0, 10.0, 999.0]}
    theirs = {1: [1.0, 1.0, 1.0], 2: [2.0, 4.0, 2.0]}
    ratio = measure.ratio_of_best(ours, theirs)
    assert (ratio.low, ratio.median, ratio.high) == (15, 25, 40)
    assert ratio.format() == "25.0 (15.0-40.0)"


def test_text_replaces_what_stands_between_the_markers(
    measure: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", encoding="utf-8")
    measure.replace_between(page, "x", "new")
    text = page.read_text(encoding="utf-8")
    assert text == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- x: begin -->",
        "<!-- x: end --><!-- x: begin -->",
        "<!-- x: begin --><!-- x: begin --><!-- x: end -->",
    ],
)
def test_page_without_its_markers_is_left_alone(
    measure: ModuleType, tmp_path: Path, text: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md must have the markers"):
        measure.replace_between(page, "x", "new")
    assert page.read_text(encoding="utf-8") == text


def test_markers_of_the_published_tables_are_there() -> None:
    page = BENCHMARKS.parent / "docs" / "performance.md"
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- loading: begin -->") == 1
    assert text.count("<!-- loading: end -->") == 1


def test_results_are_read_back_as_written(measure: ModuleType, tmp_path: Path) -> None:
    results = {"a": [1, 2.5, -3e-07], "b": {"c": ["1, 2", None], "d": []}}
    measure.write_json(tmp_path / "made" / "x.json", results)
    text = (tmp_path / "made" / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert "[1, 2.5, -3e-07]" in text
