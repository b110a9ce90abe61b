"""What benchmarks print above their tables and in --help, and that both sides get the same pairs. No time is taken."""

import ast
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import machine, train_case, train_step, train_step_ours
from rewardscale import flops
from rewardscale.data import rows as tree_rows
from rewardscale.models import reward
from tests import small

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(p for p in FOLDER.glob("*.py") if "def main() -> None:" in p.read_text())
# Started by another script, or printing no table.
WITHOUT_HEADING = {"train_step_ours", "train_step_peers", "score_peers", "streaming_peers", "real_pairs"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_teaches_and_tables_are_headed(script: Path) -> None:
    text = script.read_text()
    tree = ast.parse(text)
    if script.stem != "streaming_peers":
        assert f"python -m benchmarks.{script.stem}" in (ast.get_docstring(tree) or "")
    assert script.stem in WITHOUT_HEADING or "machine.heading(" in text
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        told = {keyword.arg for keyword in call.keywords}
        if name.endswith("ArgumentParser"):
            assert "description" in told and "formatter_class" in told, ast.unparse(call)
        if name == "add" or name.endswith(".add_argument"):
            assert "help" in told, ast.unparse(call)


def test_a_heading_says_command_machine_and_versions() -> None:
    said = machine.heading("numpy", "no-such-package", versions={"torch": "1.2.3"})
    assert re.search(r"^`python .*`, \d{4}-\d\d-\d\d \d\d:\d\d UTC, commit \w+\*?\.$", said, re.MULTILINE)
    assert f"numpy {np.__version__}, no-such-package not installed, torch 1.2.3." in said
    assert re.search(
        r"^Machine: .+, \d+ cores, \d+ GiB, .+; load average \d+\.\d before\.$", said, re.MULTILINE
    )


@pytest.fixture
def case(tmp_path: Path) -> tuple[dict[str, np.ndarray], train_case.Settings]:
    settings = train_case.Settings(model="w16", vocabulary=50, step=8, rows=2)
    train_case.write(tmp_path, *train_case.lengths("short chat", pairs=20, row=512), settings)
    assert train_case.read_settings(tmp_path) == settings
    return dict(np.load(tmp_path / "case.npz")), settings


@pytest.mark.parametrize("layout", ["padded", "separate", "shared"])
def test_each_layout_holds_every_pair_once(
    layout: str, case: tuple[dict[str, np.ndarray], train_case.Settings]
) -> None:
    arrays, settings = case
    padded = layout == "padded"
    blocks = (
        train_step_ours.padded(arrays, settings)
        if padded
        else train_step_ours.packed(arrays, settings, layout)
    )
    table = arrays["lengths"]
    assert sum(int(block["pairs"][0]) for block in blocks) == len(table) == 20
    held = np.sort([int(block["segments"][..., 1].sum()) for block in blocks])
    assert held.sum() == (table * ([1, 1, 1] if layout == "shared" else [2, 1, 1])).sum()
    # A response's tokens, all of them: random, so no two are alike.
    ends = np.cumsum(table.sum(1))
    wanted = sorted(
        tuple(arrays["tokens"][end - rejected : end]) for end, rejected in zip(ends, table[:, 2], strict=True)
    )
    found = []
    for block in blocks:
        for micro in range(int(block["microbatches"][0])):
            segments = block["segments"][0, micro]  # [rows, slots or halves, 3, 2]
            for row, _, (start, size) in _right_parts(segments):
                found.append(tuple(block["tokens"][0, micro, row, start : start + size]))
    assert sorted(found) == wanted


def _right_parts(segments: np.ndarray) -> list[tuple[int, int, Any]]:
    at = np.argwhere(segments[:, :, 2, 1] > 0)
    return [(int(row), int(slot), segments[row, slot, 2]) for row, slot in at]


def test_operations_of_a_table_are_those_of_its_pairs() -> None:
    model = train_case.model_of(train_case.Settings())
    table = np.array([[30, 5, 9], [4, 20, 1]])
    for shared in (True, False):
        pairs = [3 * flops.comparison_flops(model, p, (a, b), shared=shared) for p, a, b in table.tolist()]
        assert train_case.operations(model, table, shared=shared, pruned=False) == sum(pairs)
    assert train_case.operations(model, table, shared=True, pruned=True) < sum(pairs)


def test_the_arms_that_a_comparison_needs() -> None:
    options = train_step.options_of(["--main", "--peers=/"])
    names = [train_step.label(arm) for arm in train_step.arms(options)]
    assert len(names) == len(set(names))
    best = {f"PyTorch: {x}, bfloat16{c}" for x in ("padded", "packed") for c in ("", ", compiled")}
    ours = {
        "ours: packed, float32",
        "ours: padded, float32",
        "ours: + head, bfloat16",
        "ours: + shared, bfloat16",
    }
    trl = {"PyTorch: TRL RewardTrainer, its defaults", "PyTorch: TRL tuned, bfloat16"}
    assert best | ours | trl <= set(names)
    gpu = train_step.arms(train_step.options_of(["--main", "--device=gpu", "--peers=/"]))
    assert {"flex", "flex-shared"} <= {arm.peer[0].removeprefix("--arm=") for arm in gpu if arm.peer}
    assert {arm.ours["attention"] for arm in gpu if arm.ours} == {"chunked", "auto"}
    one = train_step.arms(train_step.options_of(["--only", "ours: + shared", "--peers=/"]))
    assert [arm.dtype for arm in one] == ["float32", "bfloat16", "bfloat16"] and all(
        a.shared and a.pruned for a in one
    )


def test_the_thrown_away_head_is_computed_and_changes_nothing() -> None:
    options = reward.Options(scan=False, prune=False, attention="dense")
    model, tokens = small.MODEL, 2 * 16
    params = reward.init(model, (0, 0))
    index = np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16))
    at = np.full((2, 1), 15, np.int32)
    batch = {
        "tokens": index % 7, "positions": index, "lo": 0 * index, "hi": index + 1, "left_at": at, "right_at": at - 3,
    }  # fmt: skip

    def compiled(forward: Any) -> Any:
        return jax.jit(lambda p, b: forward(model, p, b, options, None)).lower(params, batch).compile()

    plain = compiled(reward.rewards)
    headed = compiled(lambda *given: train_step_ours.with_head(reward.rewards, *given))
    for a, b in zip(plain(params, batch), headed(params, batch), strict=True):
        np.testing.assert_array_equal(a, b)
    more = headed.cost_analysis()["flops"] - plain.cost_analysis()["flops"]
    assert more >= 2 * tokens * model.width * model.padded_vocab_size
    assert tree_rows.ABSENT == -1 and reward.take_tokens.__name__ == "take_tokens"  # nothing stays patched
