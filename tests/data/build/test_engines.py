"""All three stages write the same bytes whether their tasks run here or in a pool of processes."""

from pathlib import Path

import numpy as np
import pytest

from rewardscale.data.build import decontaminate, exact, near
from tests.data.build import parts_small
from tests.data.build.parts_small import pair


def written(work: Path, parts, sets, engine: str) -> tuple[dict[str, bytes], list]:
    """What three stages in a row write, by path, but for the records (they hold times and places), and their counts."""
    first = exact.run(work, parts, buckets=2, items_at_once=40, engine=engine)
    second = near.run(work, parts, dropped=[first], threshold=0.4, buckets=2, items_at_once=40, engine=engine)
    third = decontaminate.run(work, parts, sets, dropped=[first, second], items_at_once=40, engine=engine)
    files = [*first.files, *second.files, *third.files, *second.tables.values(), *third.tables.values()]
    assert [one.counts["dropped"] for one in (first, second, third)] == [20, 10, 15]
    return {str(f.relative_to(work)): f.read_bytes() for f in files}, [
        first.counts,
        second.counts,
        third.counts,
    ]


@pytest.mark.slow  # nine pools are started
def test_same_bytes_in_a_pool_of_processes(tmp_path):
    random = np.random.default_rng(0)
    prompts = [random.choice(5000, 60).astype(str).tolist() for _ in range(50)]
    items = [pair(" ".join(words), f"yes {i}", "no") for i, words in enumerate(prompts)]
    near_copies = [
        pair(" ".join(["other", *words[1:]]), f"yes {i}", "no") for i, words in enumerate(prompts[:10])
    ]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items, near_copies], [items[30:]]])
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(f'{{"text": "{" ".join(words[20:40])}"}}\n' for words in prompts[:15]))
    sets = [decontaminate.evaluation_set("bench", path)]
    here = written(tmp_path / "here", parts, sets, "inline")
    assert written(tmp_path / "pool", parts, sets, "process:2") == here
