"""What a parity certificate finds in given rewards, and the conversations it is made of."""

import ast
import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale.evaluation import certificate, certificate_cases, reference_legs
from rewardscale.evaluation.certificate import ABSENT, FAILED, MEASURED, PASSED, Leg, compare

REPO = Path(__file__).parents[2]
NAMES = [f"case {i} ({k})" for i in range(4) for k in (1, 2)]
PAIRS = [(i, i + 1) for i in range(0, 8, 2)]
TRUTH = Leg("truth", "float32", [1.0, 2.0, 3.0, 3.00001, -1.0, -20.0, 0.5, 0.5])

numbers = st.floats(-100, 100, width=32)


def shifted(*changes: tuple[int, float | None], dtype: str = "float32") -> Leg:
    """The truth with the rewards at some indices moved, or taken away."""
    rewards = list(TRUTH.rewards or ())
    for i, change in changes:
        value = rewards[i]
        assert value is not None
        rewards[i] = None if change is None else value + change
    return Leg("leg", dtype, rewards)


@given(st.floats(2**-100, 2**100))
def test_an_ulp_is_the_distance_to_the_next_number(size: float) -> None:
    single = np.float32(size)
    assert certificate.ulp(float(single), "float32") == np.spacing(single)
    short = np.float32(size).astype(ml_dtypes.bfloat16)
    above = (short.view(np.uint16) + np.uint16(1)).view(ml_dtypes.bfloat16)
    assert certificate.ulp(float(short), "bfloat16") == float(above) - float(short)


def test_the_ulps_of_a_model_card() -> None:
    """23.0 and 3.59375 by one program, 23.125 and 3.578125 by another: one bfloat16 ulp each."""
    assert certificate.ulp(23.0, "bfloat16") == 23.125 - 23.0
    assert certificate.ulp(3.59375, "bfloat16") == 3.59375 - 3.578125
    assert certificate.ulp(0.0, "bfloat16") == 0.0


@given(
    st.lists(numbers, min_size=8, max_size=8), st.lists(numbers, min_size=8, max_size=8), st.floats(0, 300)
)
def test_a_row_says_what_the_differences_are(a: list[float], b: list[float], tolerance: float) -> None:
    row = compare(Leg("leg", "float32", b), Leg("truth", "float32", a), NAMES, PAIRS, tolerance=tolerance)
    off = np.abs(np.subtract(a, b))
    assert row.worst == off.max() and row.worst_at == NAMES[int(off.argmax())]
    assert row.state == (PASSED if off.max() <= tolerance else FAILED)
    assert row.compared == 8 and row.comparisons == sum(a[i] != a[j] for i, j in PAIRS)
    wrong = [(i, j) for i, j in PAIRS if a[i] != a[j] and np.sign(a[i] - a[j]) != np.sign(b[i] - b[j])]
    assert len(row.flipped) == len(wrong)
    if (
        row.state == PASSED
    ):  # within tolerance only a near-tie can turn (but for the last bit of a difference)
        far = [pair for pair in wrong if abs(a[pair[0]] - a[pair[1]]) > 2 * tolerance * (1 + 1e-9)]
        assert not far and len(row.near_ties) >= len(row.flipped) - len(wrong) + len(far)
    assert set(row.near_ties) <= set(row.flipped)


def test_shifted_rewards_fail_and_are_named() -> None:
    row = compare(shifted((4, 0.25)), TRUTH, NAMES, PAIRS, tolerance=2e-3)
    assert (row.state, row.worst, row.worst_at) == (FAILED, 0.25, "case 2 (1)") and not row.flipped
    assert row.ulps == 0.25 / 2.0 ** (4 - 23)
    row = compare(shifted((1, -1.5)), TRUTH, NAMES, PAIRS, tolerance=2e-3)
    assert row.flipped == ("case 0 (1) against (2)",) and not row.near_ties
    row = compare(shifted((3, -2e-5)), TRUTH, NAMES, PAIRS, tolerance=2e-3)
    assert row.state == PASSED and row.flipped == row.near_ties == ("case 1 (1) against (2)",)


def test_a_tie_is_a_turned_comparison_and_a_tie_of_the_truth_is_none() -> None:
    row = compare(shifted((1, -1.0), (7, 0.5)), TRUTH, NAMES, PAIRS, tolerance=None)
    assert row.state == MEASURED and row.comparisons == 3
    assert row.flipped == ("case 0 (1) against (2)",)


@pytest.mark.parametrize("change", [None, math.nan, math.inf])
def test_a_reward_that_is_not_there_or_not_finite_fails(change: float | None) -> None:
    row = compare(shifted((6, change)), TRUTH, NAMES, PAIRS, tolerance=1e9)
    assert row.state == FAILED and "case 3 (1)" in row.why
    assert compare(shifted((6, change)), TRUTH, NAMES, PAIRS, tolerance=None).state == FAILED


def test_what_did_not_run_failed_unless_it_is_not_installed() -> None:
    died = compare(Leg("leg", "float32", None, "killed"), TRUTH, NAMES, PAIRS, tolerance=1.0)
    assert (died.state, died.why) == (FAILED, "killed")
    absent = compare(Leg("leg", "float32", None, "no leg", absent=True), TRUTH, NAMES, PAIRS, tolerance=1.0)
    assert absent.state == ABSENT


def test_tolerances() -> None:
    assert certificate.float32_tolerance(0.3) == 1e-4 and certificate.float32_tolerance(20.0) == 2e-3
    assert certificate.bfloat16_tolerance(0.1, 20.0) == 0.1 + 2 * 0.125


def test_a_certificate_passes_only_if_everything_does() -> None:
    facts = {
        "model": "m", "architecture": "LlamaForSequenceClassification", "stored": "float32", "weights": "w",
        "template_hash": "t", "tokenizer_hash": "k", "date": "26 Jul 2024", "reward_token": {"id": 1, "text": "\n"},
        "pad": {"id": 0, "text": "<pad>"}, "config_pad_token_id": 0, "versions": {"jax": "1"}, "made": "now",
        "rewards": {"count": 8, "lowest": -20.0, "highest": 3.00001},
    }  # fmt: skip
    good = compare(shifted(), TRUTH, NAMES, PAIRS, tolerance=1e-3)
    bad = compare(shifted((0, 1.0)), TRUTH, NAMES, PAIRS, tolerance=1e-3)
    whole = certificate.Certificate("truth", (good,), (), (), facts, ())
    assert whole.passed and whole.as_json()["passed"]
    assert certificate.as_text(whole).splitlines()[-1] == "PASS"
    for broken, message in (
        (dataclasses.replace(whole, rows=(good, bad)), "leg: max |Δ| 1 is beyond 0.001"),
        (dataclasses.replace(whole, problems=("the weights changed",)), "FAILED: the weights changed"),
    ):
        text = certificate.as_text(broken)
        assert not broken.passed and message in text and text.splitlines()[-1].startswith("FAIL:")


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_the_first_difference_of_token_ids(a: list[int], b: list[int]) -> None:
    at = certificate.first_difference(a, b)
    if at is None:
        assert a == b
    else:
        assert a[:at] == b[:at] and a[at : at + 1] != b[at : at + 1]


# --- the conversations -------------------------------------------------------------------------------


def test_the_conversations_are_many_named_and_compared_within_their_case() -> None:
    cases, whole = certificate_cases.read_cases(), certificate_cases.conversations()
    assert len(cases) >= 40 and len({case.name for case in cases}) == len(cases)
    assert len({one.name for one in whole}) == len(whole) == sum(len(case.responses) for case in cases)
    pairs = certificate_cases.comparisons()
    assert len(pairs) > 80 and all(whole[a].case == whole[b].case and a < b for a, b in pairs)
    texts = [one.messages[-1]["content"] for one in whole]
    assert all(texts[a] != texts[b] for a, b in pairs)
    assert all(one.messages[-1]["role"] == "assistant" for one in whole)


@pytest.mark.parametrize(
    "needed",
    ["\u200d", "\u0301", "长", "عاصمة", "```python", "\t", "\r\n", "<|eot_id|>", "<|im_end|>", "∫"],
)
def test_the_edge_cases_are_there(needed: str) -> None:
    texts = [one.messages[-1]["content"] for one in certificate_cases.conversations()]
    texts += [m["content"] for one in certificate_cases.conversations() for m in one.messages]
    assert any(needed in text for text in texts)


def test_the_kinds_of_conversations_are_there() -> None:
    whole = certificate_cases.conversations()
    answers = [one.messages[-1]["content"] for one in whole]
    assert any(not text.strip() for text in answers) and any(text.endswith("\n") for text in answers)
    assert any(text.endswith(" ") and text.strip() for text in answers)
    assert {one.messages[0]["role"] for one in whole} == {"user", "system"}
    assert max(len(one.messages) for one in whole) >= 6 and any(one.tools for one in whole)
    assert max(sum(len(m["content"]) for m in one.messages) for one in whole) > 5000
    same = {(one.case, one.messages[-1]["content"]) for one in whole}
    assert len(same) < len(whole)  # a tie is among them
    assert any(a != b and a.startswith(b) for a in answers for b in answers if len(b) > 3)


# --- the package -------------------------------------------------------------------------------------


def test_an_installed_package_has_the_conversations(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="needs setuptools, which the Makefile installs")
    built = tmp_path / "built"
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        str(tmp_path),
        "build_py",
        "-d",
        str(built),
    ]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    name = certificate_cases.FILE.relative_to(REPO)
    assert (built / name).read_bytes() == certificate_cases.FILE.read_bytes()


def test_the_reference_script_is_for_older_pythons_too() -> None:
    ast.parse(Path(reference_legs.__file__).read_text(encoding="utf-8"), feature_version=(3, 10))
