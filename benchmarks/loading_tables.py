"""The tables of the loading benchmark, made from its JSON."""

from __future__ import annotations

import copy
import statistics
from typing import Any

from measure import (
    Side,
    best_threads,
    markdown_table,
    ratio_of_best,
    spread,
    values_by_threads,
)

WAYS = {
    "plain": "taken",
    "kept": "last 100 kept",
    "read": "every byte read",
}


def render_page(results: dict[str, Any]) -> str:
    """Return everything that stands between the markers of the page."""
    parts = [_describe(results)]
    if results["cases"]:
        parts += [
            "### How many times faster",
            _ratio_table(results["cases"]),
            "### Millions of samples a second",
            _speed_table(results["cases"], results["threads"]),
        ]
    peers = [_peer_table(case) for case in results["cases"] if _has_peers(case)]
    if peers:
        parts += ["### Other loaders, uint8 rows of 784, batch 256", *peers]
    if results["orders"]:
        parts += ["### Orders and memory", _order_table(results["orders"])]
    missing = _missing(results)
    if missing:
        parts += ["### Not measured", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts)


def published_results(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with one speed a repeat instead of the times of all epochs."""
    short = copy.deepcopy(results)
    for case in short["cases"]:
        for side in case["sides"]:
            side.pop("python")
            for run in side["runs"]:
                if "error" not in run:
                    run["samples_per_second"] = {
                        way: round(_speed(run, way)) for way in WAYS
                    }
                    del run["seconds"]
    for order in short["orders"]:
        for side in order["sides"]:
            side.pop("python")
    return short


def _describe(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = " and ".join(f"{n} thread{'s' * (n > 1)}" for n in results["threads"])
    lines = [
        f"Measured on {results['began'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, {results['cpu_capability']}, "
        f"{machine['memory_gib']} GiB of memory, {machine['system']}; {packages}. "
        f"Each side with {threads}; medians of {results['repeats']} repeats. "
        f"The tutorial's images: {results['images']}. Load of the machine before the "
        f"run: {machine['load']}."
    ]
    if results["quick"]:
        lines.append("**A quick run: its figures mean nothing.**")
    return "\n\n".join(lines)


def _ratio_table(cases: list[dict[str, Any]]) -> str:
    rows = []
    for case in cases:
        sides = _sides(case)
        if "torch" in sides and "handful" in sides:
            cells = [_ratio(sides["handful"], sides["torch"], way) for way in WAYS]
        else:
            cells = ["-"] * len(WAYS)
        limits = [f"{case['floor']:g}", f"{case['aim']:g}"]
        rows.append([case["title"], f"{case['batch_size']:,}", *cells, *limits])
    return markdown_table(["data", "batch", *WAYS.values(), "floor", "aim"], rows)


def _speed_table(cases: list[dict[str, Any]], threads: list[int]) -> str:
    rows = []
    for case in cases:
        sides = _sides(case)
        for way, label in WAYS.items():
            cells = []
            for name in ("torch", "handful"):
                for number in threads:
                    cells.append(_median_speed(sides.get(name), way, number))
            batch = f"{case['batch_size']:,}"
            rows.append([case["title"], batch, label, *cells])
        if "handful" in sides:
            alone = values_by_threads(sides["handful"], lambda r: r["reading_alone"])
            cells = [_millions(statistics.median(alone[n])) for n in threads]
            blank = [""] * len(threads)
            label = "reading alone"
            rows.append([case["title"], batch, label, *blank, *cells])
    head = ["data", "batch", "batches are"]
    for name in ("PyTorch", "handful"):
        head += [f"{name}, {n} thread{'s' * (n > 1)}" for n in threads]
    return markdown_table(head, rows)


def _peer_table(case: dict[str, Any]) -> str:
    sides = _sides(case)
    rows = []
    for name, side in sides.items():
        cells = []
        for way in WAYS:
            speeds = _speeds(side, way)
            cells.append(_millions(statistics.median(speeds[best_threads(speeds)])))
        ratio = "1"
        if name != "handful" and "handful" in sides:
            ratio = _ratio(sides["handful"], side, "plain")
        rows.append([side.label, *cells, ratio])
    head = ["loader", *(f"{label}, M/s" for label in WAYS.values())]
    return markdown_table([*head, "handful is faster by, taken"], rows)


def _order_table(orders: list[dict[str, Any]]) -> str:
    rows = []
    for order in orders:
        sides = _sides(order).values()
        for side in sides:
            for figure, (unit, floor, aim) in order["limits"].items():
                values = [run[figure] for run in side.runs if figure in run]
                is_ours = side.name == "handful"
                rows.append(
                    [
                        order["title"],
                        side.label,
                        unit,
                        spread(values).format(".3g" if max(values) < 100 else ",.0f"),
                        *(f"{v:g}" if is_ours and v else "" for v in (floor, aim)),
                    ]
                )
    head = ["what", "side", "unit", "median (lowest-highest)"]
    return markdown_table([*head, "at most", "aim"], rows)


def _missing(results: dict[str, Any]) -> list[str]:
    lines = []
    for case in [*results["cases"], *results["orders"]]:
        title = case["title"]
        if "batch_size" in case:
            title += f", batch {case['batch_size']:,}"
        if "error" in case:
            lines.append(f"{title}: {case['error']}")
        for fields in case["sides"]:
            side = Side(**fields)
            if side.error is not None:
                lines.append(f"{title}, {side.label}: {side.error}")
    return lines


def _has_peers(case: dict[str, Any]) -> bool:
    return bool(_sides(case).keys() - {"torch", "handful"})


def _sides(case: dict[str, Any]) -> dict[str, Side]:
    """Return the sides that were measured without failure."""
    sides = [Side(**fields) for fields in case["sides"]]
    return {side.name: side for side in sides if side.runs and side.error is None}


def _ratio(ours: Side, theirs: Side, way: str) -> str:
    ratio = ratio_of_best(_speeds(ours, way), _speeds(theirs, way))
    return ratio.format(".1f" if ratio.median > 3 else ".2f")


def _speeds(side: Side, way: str) -> dict[int, list[float]]:
    return values_by_threads(side, lambda run: _speed(run, way))


def _speed(run: dict[str, Any], way: str) -> float:
    """Return samples a second: of all epochs that were timed in this run together."""
    if "samples_per_second" in run:  # As published.
        return float(run["samples_per_second"][way])
    seconds = run["seconds"][way]
    return float(run["samples"] * len(seconds) / sum(seconds))


def _median_speed(side: Side | None, way: str, threads: int) -> str:
    if side is None:
        return "-"
    return _millions(statistics.median(_speeds(side, way)[threads]))


def _millions(per_second: float) -> str:
    return f"{per_second / 1e6:.3g}"
