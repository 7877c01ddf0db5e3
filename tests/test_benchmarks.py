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
    assert works == ["bytes", "floats", "narrow", "tutorial", "map", "own", "slow"]
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


@pytest.mark.parametrize(
    ("name", "page_name"),
    [
        ("loading", "performance"),
        ("loading_csv", "performance"),
        ("loading_images", "performance"),
        ("loading_parquet", "performance"),
        ("training", "performance"),
        ("doctor", "doctor"),
    ],
)
def test_markers_of_the_published_tables_are_there(name: str, page_name: str) -> None:
    page = BENCHMARKS.parent / "docs" / f"{page_name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}: begin -->") == 1
    assert text.count(f"<!-- {name}: end -->") == 1


@pytest.fixture
def front(measure: ModuleType) -> ModuleType:
    return importlib.import_module("front")


def _small_results(quick: bool, **titles: float) -> dict[str, Any]:
    cases = [
        {
            "title": title,
            "value": value,
            "sides": [{"name": "a", "python": "/p/python"}],
        }
        for title, value in titles.items()
    ]
    return {"quick": quick, "versions": {"torch": "2"}, "cases": cases}


def _publish(
    front: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[Path, Path]:
    """Run a benchmark that measures 3 for x; return its page and its published JSON."""
    monkeypatch.setattr(front, "HERE", folder)
    page = folder / "page.md"
    page.write_text("<!-- some: begin -->\n<!-- some: end -->\n", encoding="utf-8")

    def measure_some(args: Any) -> dict[str, Any]:
        return _small_results(args.quick, x=3)

    def render(results: dict[str, Any]) -> str:
        return " ".join(f"{c['title']}={c['value']}" for c in results["cases"])

    parser = front.make_parser("some", None, repeats=2, quick="little")
    benchmark = front.Benchmark("some", measure_some, render, page=page)
    front.run_benchmark(benchmark, front.parse(parser, options))
    return page, benchmark.published


def test_benchmark_fills_its_page_and_publishes_without_paths(
    front: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, published = _publish(front, tmp_path, monkeypatch, "--write-docs")

    assert "begin -->\nx=3\n<!--" in page.read_text(encoding="utf-8")
    text = published.read_text(encoding="utf-8")
    assert json.loads(text)["cases"][0]["value"] == 3
    assert "/p/python" not in text
    assert (tmp_path / "results" / "some.json").exists()


def test_benchmark_publishes_nothing_unless_asked(
    front: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, published = _publish(front, tmp_path, monkeypatch)
    assert "x=3" not in page.read_text(encoding="utf-8")
    assert not published.exists()


def test_cases_of_several_results_are_joined_and_later_ones_count(
    front: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, titles in zip(paths, ({"x": 1, "y": 2}, {"x": 5}), strict=True):
        path.write_text(json.dumps(_small_results(False, **titles)), encoding="utf-8")
    page, _ = _publish(
        front, tmp_path, monkeypatch, "--write-docs", "--from", *map(str, paths)
    )
    assert "x=5 y=2" in page.read_text(encoding="utf-8")


def test_results_of_a_quick_run_are_not_published(
    front: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _publish(front, tmp_path, monkeypatch, "--quick", "--write-docs")
    path = tmp_path / "quick.json"
    path.write_text(json.dumps(_small_results(True, x=1)), encoding="utf-8")
    with pytest.raises(SystemExit, match="needs a run without --quick"):
        _publish(front, tmp_path, monkeypatch, "--write-docs", "--from", str(path))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["loading_csv", "doctor"])
def test_smaller_benchmarks_run_to_their_end(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--out", str(out)],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "A quick run" in done.stdout
    assert "Not measured" not in done.stdout
    assert json.loads(out.read_text(encoding="utf-8"))["quick"]


def test_results_are_read_back_as_written(measure: ModuleType, tmp_path: Path) -> None:
    results = {"a": [1, 2.5, -3e-07], "b": {"c": ["1, 2", None], "d": []}}
    measure.write_json(tmp_path / "made" / "x.json", results)
    text = (tmp_path / "made" / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert "[1, 2.5, -3e-07]" in text


def _run_training(tmp_path: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "training.json"
    command = [sys.executable, str(BENCHMARKS / "training.py"), "--out", str(out)]
    done = subprocess.run(
        [*command, "--quick", *options],
        capture_output=True,
        encoding="utf-8",
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    return dict(json.loads(out.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.timeout(560)
def test_every_training_runs_on_every_side_and_ends_at_the_same_loss(
    tmp_path: Path,
) -> None:
    results = _run_training(tmp_path, "--no-peers")

    works = [entry["work"] for entry in results["comparisons"]]
    steady = ["wine", *["regression"] * 3]
    whole = [*["regression"] * 3, "cnn", "transformer"]
    assert works == ["wine", "mnist", *steady, *whole]
    for entry in results["comparisons"]:
        runs = {side["kind"]: side["runs"][0] for side in entry["sides"]}
        loss = runs["by-hand"]["loss"]
        for kind, run in runs.items():
            assert run["loss"] == pytest.approx(loss, rel=0.25), (entry["title"], kind)
            assert all(run[part] > 0 for part in ("imports", "preparation", "training"))


@pytest.mark.slow
@pytest.mark.timeout(560)
def test_libraries_that_are_installed_train_the_wines_as_the_loop_does(
    tmp_path: Path,
) -> None:
    results = _run_training(tmp_path, "--only", "wine")

    (entry,) = results["comparisons"]
    runs = {side["kind"]: side["runs"][0] for side in entry["sides"]}
    assert {"lightning", "keras-torch", "jax-scan"} <= runs.keys()
    for kind, run in runs.items():
        if run.get("error") != "not installed":
            loss = pytest.approx(runs["by-hand"]["loss"], rel=0.25)
            assert run["loss"] == loss, kind


@pytest.fixture
def training(measure: ModuleType) -> ModuleType:
    return importlib.import_module("training")


@pytest.fixture
def training_tables(measure: ModuleType) -> ModuleType:
    return importlib.import_module("training_tables")


def test_training_tables_show_ratios_of_the_same_repeat(
    training_tables: ModuleType,
) -> None:
    page = training_tables.render_page(_made_up_trainings())

    # By repeat 2/8, 3/10 and 4/8; the loop's median of 8 s is that of two threads.
    row = "handful | the loop, 2 threads (its best) | 3.00 (2.00-4.00) | 8.00 (8.00-10."
    assert row in page
    assert "| 0.30 (0.25-0.50) | 0.45 | 0.34 |" in page
    assert "| handful | the loop, 1 thread | 3.00 (2.00-4.00) | 9.00 | 0.33 " in page
    # 1 s of imports and 0.5 s of preparation with each training.
    assert "| handful | 1, its choice | 1.00 | 0.500 | 3.00 (2.00-4.00) | 4.50 " in page


def test_training_tables_say_who_was_not_measured_and_why(
    training_tables: ModuleType,
) -> None:
    page = training_tables.render_page(_made_up_trainings())

    assert page.count("| skorch | not installed |") == 1
    assert "- wine, Ignite, threads: 1: out of memory" in page
    assert "| wine | everything | images | - | - | not measured |  |  |" in page


def test_published_trainings_make_the_same_tables(training_tables: ModuleType) -> None:
    results = _made_up_trainings()
    published = training_tables.published_results(results)
    assert training_tables.render_page(published) == training_tables.render_page(
        results
    )
    assert "/somewhere/python" not in json.dumps(published)


def test_later_results_of_the_same_training_replace_earlier_ones(
    training: ModuleType,
) -> None:
    first, second, third = (_made_up_trainings() for _ in range(3))
    mnist, wine = (
        next(c.title for c in training.COMPARISONS if c.work == work)
        for work in ("mnist", "wine")
    )
    first["comparisons"][0] |= {"title": mnist}
    second["comparisons"][0] |= {"title": wine}
    third["comparisons"][0] |= {"title": mnist, "took_seconds": 7}

    joined = training.join_results([first, second, third])["comparisons"]
    assert [entry["title"] for entry in joined] == [wine, mnist]
    assert joined[1]["took_seconds"] == 7


def test_results_of_other_versions_are_not_joined(training: ModuleType) -> None:
    first, second = _made_up_trainings(), _made_up_trainings()
    second["versions"] = {"torch": "3"}
    with pytest.raises(SystemExit, match="must have the same versions to be joined"):
        training.join_results([first, second])


def test_every_line_of_the_training_benchmark_names_sides_that_exist(
    training: ModuleType,
) -> None:
    for comparison in training.COMPARISONS:
        for line in comparison.lines:
            assert {line.ours, line.against} <= training.KINDS.keys()
            assert line.threads in ("1", "default", "best")


def _made_up_trainings() -> dict[str, Any]:
    def run(seconds: float, threads: int) -> dict[str, Any]:
        parts = {"imports": 1.0, "preparation": 0.5, "training": seconds}
        return {**parts, "threads": threads, "loss": 0.5, "accuracy": None}

    def side(
        kind: str, label: str, threads: int, runs: list[dict[str, Any]]
    ) -> dict[str, Any]:
        about = {"kind": kind, "asked_threads": threads, "python": "/somewhere/python"}
        return {"name": f"{kind} {threads}", "label": label, "runs": runs, **about}

    by_hand = ("by-hand", "the loop")
    sides = [
        side("everything", "handful", 2, [run(s, 1) for s in (2.0, 3.0, 4.0)]),
        side(*by_hand, 1, [run(9.0, 1) for _ in range(3)]),
        side(*by_hand, 2, [run(s, 2) for s in (8.0, 10.0, 8.0)]),
        side("ignite", "Ignite", 1, [run(1.0, 1), {"error": "out of memory"}]),
        *(side("skorch", "skorch", n, [{"error": "not installed"}]) for n in (1, 2)),
    ]
    limits = {"floor": 0.45, "aim": 0.34}
    against = {"ours": "everything", "against": "by-hand"}
    none = {"floor": None, "aim": None}
    lines = [
        {**against, "threads": "best", **limits},
        {**against, "threads": "1", **limits},
        {"ours": "everything", "against": "images", "threads": "best", **none},
    ]
    return {
        "quick": False,
        "began": "2020-01-01T00:00:00",
        "machine": dict.fromkeys(("processor", "cores", "memory_gib", "system"), "?")
        | {"load": 0.0},
        "versions": {"torch": "2"},
        "repeats": 3,
        "threads": [1, 2],
        "comparisons": [{"title": "wine", "lines": lines, "sides": sides}],
    }
