"""Draws timeline.png from a log of run.py, and prints the README's result: python figure.py LOG

Above, how many cells were done; below, each fault when it came, and a line until the sweep had got on again.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from faults import KINDS

from rewardscale.data.describe.drawing import BLUE, GREEN, INK, ORANGE, PINK, SOFT
from rewardscale.evaluation import drawing

HERE = Path(__file__).parent
_ROW, _CELLS, _LEFT, _GAP = 0.19, 1.1, 1.75, 0.12  # inches
_FILES = ("damage_checkpoint", "leftovers", "sweep_temporaries")


def colour(kind: str) -> str:
    """Of the four sorts of faults."""
    if KINDS[kind].disk:
        return ORANGE
    if KINDS[kind].clock:
        return PINK
    return GREEN if kind in _FILES else BLUE


def faulty(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """The records of the sweep under faults, and when it was first launched."""
    began = next(r["time"] for r in records if r["event"] == "launch")
    return [r for r in records if r["time"] >= began], began


def draw(records: list[dict[str, Any]]) -> Any:
    """The figure of a log."""
    records, began = faulty(records)
    faults = [r for r in records if r["event"] == "fault"]
    present = {fault["kind"] for fault in faults}
    rows = [
        kind for kind in sorted(KINDS, key=lambda k: (colour(k), list(KINDS).index(k))) if kind in present
    ]
    minutes = lambda seconds: (seconds - began) / 60  # noqa: E731
    height = _ROW * len(rows)
    with drawing.look("timeline"):
        figure, (below,) = drawing.panels(1, height + _GAP + _CELLS, left=_LEFT, top=0.12, bottom=0.4)
        box = below.get_position()
        share = box.height / (height + _GAP + _CELLS)
        below.set_position((box.x0, box.y0, box.width, share * height))
        above = figure.add_axes((box.x0, box.y0 + share * (height + _GAP), box.width, share * _CELLS))
        _cells(above, records, minutes)
        for number, kind in enumerate(rows):
            for fault in (f for f in faults if f["kind"] == kind):
                at, got_on = fault["time"] - fault["until_it_got_on"], fault["time"]
                at -= fault["took"]
                below.plot(
                    [minutes(at), minutes(got_on)],
                    [number] * 2,
                    color=colour(kind),
                    linewidth=1.6,
                    alpha=0.45,
                )
                below.plot(minutes(at), number, color=colour(kind), linestyle="", **drawing.marked("o"))
        below.set_yticks(range(len(rows)), [KINDS[kind].title for kind in rows])
        below.set_ylim(len(rows) - 0.4, -0.6)
        below.set_xlabel("minutes since the first launch")
        end = minutes(max(r["time"] for r in records))
        for axes in (above, below):
            axes.set_xlim(-0.01 * end, 1.01 * end)
        above.tick_params(labelbottom=False)
    return figure


def _cells(axes: Any, records: list[dict[str, Any]], minutes: Any) -> None:
    done = [(minutes(r["time"]), r["done"]) for r in records if r["event"] == "cells"]
    end = minutes(max(r["time"] for r in records))
    xs, ys = [0.0, *(x for x, _ in done), end], [0, *(y for _, y in done), done[-1][1] if done else 0]
    axes.step(xs, ys, where="post", color=INK, linewidth=1.1)
    starts = [minutes(r["time"]) for r in records if r["event"] == "launch"]
    axes.plot(starts, [0] * len(starts), linestyle="", marker="|", markersize=5, color=SOFT, clip_on=False)
    axes.annotate(
        "a tick: the command is started", (0.01, 0.86), xycoords="axes fraction", color=SOFT, fontsize=7.5
    )
    axes.set_ylabel("cells done")
    axes.set_ylim(0, None)


def table(records: list[dict[str, Any]]) -> str:
    """A row a kind: how many, the command's exit codes, how long until the sweep had got on."""
    faults = [r for r in records if r["event"] == "fault"]
    lines = [
        "| kind | faults | exit code of the command | s until it had got on |",
        "| --- | --: | --- | --- |",
    ]
    for kind, own in KINDS.items():
        these = [f for f in faults if f["kind"] == kind]
        if not these:
            continue
        codes = Counter(_code(f, records) for f in these)
        told = ", ".join(f"{code} ({n})" if len(codes) > 1 else code for code, n in codes.items())
        waits = sorted(f["until_it_got_on"] for f in these)
        lines.append(f"| {own.title} | {len(these)} | {told} | {waits[0]:.0f} to {waits[-1]:.0f} |")
    return "\n".join(lines)


def result(records: list[dict[str, Any]]) -> str:
    """What came out, in a line."""
    faults = [r for r in records if r["event"] == "fault"]
    ended = {r["which"]: r for r in records if r["event"] == "sweep"}
    compared, seconds = ended["compared"], ended["faulty"]["seconds"]
    complaints = "; ".join(compared["wrong"]) or "none"
    return (
        f"{len(faults)} faults of {len({f['kind'] for f in faults})} kinds, {ended['faulty']['launches']} launches, "
        f"{seconds / 60:.0f} minutes. Files that differ: {', '.join(compared['different']) or 'none'}. "
        f"Complaints: {complaints}."
    )


def _code(fault: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """With which code the launch that was hit had ended when the fault was over."""
    over = fault["time"] - fault["until_it_got_on"] + 0.5
    ends = [
        r for r in records if r["event"] == "end" and r["launch"] == fault["launch"] and r["time"] <= over
    ]
    if not ends:
        return "went on"
    return "killed by hand" if ends[-1]["code"] is None else str(ends[-1]["code"])


if __name__ == "__main__":
    found = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    drawing.save(draw(found), HERE, "timeline")
    print(f"{result(found)}\n\n{table(found)}")
