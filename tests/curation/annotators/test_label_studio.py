"""Rounds on a Label Studio server: pushed once, judged by several people, pulled as often as one likes."""

import datetime
from typing import Any

import httpx
import pytest

from rewardscale.curation.annotators import label_studio
from rewardscale.curation.annotators.backend import Task
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.label_studio import LabelStudio, LabelStudioError
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import Attributes
from tests.label_studio_server import needs_label_studio, server

ATTRIBUTES = Attributes(
    category="Math",
    objectivity="objective",
    controversiality="low",
    desired="<b>right</b>",
    guideline="$check",
)


def task(row: int, **changes: Any) -> Task:
    responses = (f"the first answer of {row}", f"<script>alert({row})</script>")
    comparison = Comparison((Message("user", f"question {row} & more"),), responses, "test")
    return Task(Question(row, comparison, ATTRIBUTES if row % 2 else None), **changes)


def form(side: str | None, judgement: str | None, reason: str | None = None) -> list[dict[str, Any]]:
    """What the page sends when the form was filled in so."""
    result: list[dict[str, Any]] = []
    if side:
        result.append(
            {"from_name": "preferred", "to_name": "a", "type": "pairwise", "value": {"selected": side}}
        )
    for name, kind, value in (("judgement", "choices", judgement), ("reason", "textarea", reason)):
        if value:
            key = "text" if kind == "textarea" else kind
            result.append({"from_name": name, "to_name": "prompt", "type": kind, "value": {key: [value]}})
    return result


@pytest.mark.parametrize(
    ("side", "judgement", "left", "preferred"),
    [
        ("left", "clearly better", 1, 1),
        ("left", "slightly better", -1, -1),
        ("right", "clearly better", -1, 1),
        ("right", "tie", 1, 0),  # the words count where the click says otherwise
        (None, "tie", 1, 0),
        ("left", "cannot say", 1, None),
        (None, "clearly better", 1, "unreadable"),
        ("left", None, 1, "unreadable"),
        ("left", "ignore the above", 1, "unreadable"),
    ],
)
def test_what_the_form_says(side, judgement, left, preferred):
    annotation = {"result": form(side, judgement), "was_cancelled": False}
    assert label_studio._preferred({"data": {"left": left}}, annotation) == preferred


def test_an_absent_server_is_named():
    backend = LabelStudio("http://127.0.0.1:9", "a-secret")
    with pytest.raises(LabelStudioError, match=r"127\.0\.0\.1:9 cannot be reached") as error:
        backend._ask("POST", "/api/projects")
    assert "a-secret" not in str(error.value) + repr(backend)
    with pytest.raises(DataError, match="1 to 20 characters"):
        LabelStudio("http://127.0.0.1:9", "t", name="x" * 21)


@pytest.mark.slow
@needs_label_studio
def test_rounds_on_the_real_server(tmp_path, monkeypatch):
    monkeypatch.setattr(label_studio, "TASKS_A_PROJECT", 4)
    with server(tmp_path) as (url, token):
        backend = LabelStudio(url, token, name="test")
        with httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60) as lead:
            pushed_once(backend)
            people = [second_person(lead, url), lead]
            judged_and_pulled(backend, people, monkeypatch, tmp_path)
            closed_stays_closed(backend, lead)
            personal_token(url, lead, backend)
        with pytest.raises(LabelStudioError, match="check the token"):
            LabelStudio(url, "0" * 40, name="test").status(3)


def pushed_once(backend: LabelStudio) -> None:
    assert backend.status(3) == label_studio.RoundStatus()
    tasks = [task(n, priority=n, overlap=2 if n < 2 else 1) for n in range(8)]
    assert backend.push_tasks(3, tasks[:5]) == 5
    assert backend.push_tasks(3, tasks) == 3  # cut off and repeated: what is there stays
    assert backend.push_tasks(3, tasks) == 0
    assert backend.push_tasks(33, [task(20)]) == 1
    status = backend.status(3)
    assert (status.tasks, status.wanted, status.given, status.complete) == (8, 10, 0, 0)
    titles = {project["title"]: len(tasks) for project, tasks in backend._held(3)}
    assert titles == {
        "test, round 3: 1 each, part 1": 4,
        "test, round 3: 1 each, part 2": 2,
        "test, round 3: 2 each, part 1": 2,
    }
    for _, held in backend._held(3):
        for one in held:  # hostile text arrives as it is, each response on the side that is noted
            data, wanted = one["data"], task(one["data"]["row"]).question.comparison.responses
            assert (data["a"], data["b"]) == (wanted if data["left"] == 1 else wanted[::-1])
    sides = {one["data"]["left"] for _, held in backend._held(3) for one in held}
    assert sides == {1, -1}


def second_person(lead: httpx.Client, url: str) -> httpx.Client:
    """Signs somebody up as the server's page does; a client that is logged in as them."""
    who = httpx.Client(base_url=url, timeout=60, follow_redirects=True)
    link = lead.get("/api/invite").json()["invite_url"]
    page = who.get(link)
    fields = {"email": "second@example.org", "password": "a-long-password-1"}
    fields["csrfmiddlewaretoken"] = who.cookies["csrftoken"]
    done = who.post(page.url, data=fields, headers={"Referer": url})
    assert done.is_success
    who.headers["X-CSRFToken"] = who.cookies["csrftoken"]
    who.headers["Referer"] = url
    assert who.get("/api/current-user/whoami").json()["email"] == "second@example.org"
    return who


def annotate(who: httpx.Client, one: dict[str, Any], result: list[dict[str, Any]], **more: Any) -> None:
    body = {"result": result, "lead_time": 2.5, "was_cancelled": False} | more
    assert who.post(f"/api/tasks/{one['id']}/annotations/", json=body).status_code == 201


def judged_and_pulled(backend: LabelStudio, people: list[httpx.Client], monkeypatch, tmp_path) -> None:
    by_row = {one["data"]["row"]: one for _, held in backend._held(3) for one in held}
    for row in (0, 1):  # both agree that the corpus's first response is the better one
        side = "left" if by_row[row]["data"]["left"] == 1 else "right"
        for who in people:
            annotate(who, by_row[row], form(side, "clearly better", 'because "ü"'))
    annotate(people[0], by_row[2], form(None, "tie"))
    annotate(people[0], by_row[3], [], was_cancelled=True)
    annotate(people[0], by_row[4], form("left", None))
    assert backend.pull_verdicts(3) == []  # they may still change
    monkeypatch.setattr(label_studio, "SETTLE_SECONDS", -5.0)
    pulled = backend.pull_verdicts(3)
    assert backend.unreadable == 1
    told = sorted((v.row, v.preferred, v.confidence) for v in pulled if v.row != 3)
    assert told == [(0, 1, 0.9), (0, 1, 0.9), (1, 1, 0.9), (1, 1, 0.9), (2, 0, None)]
    assert [v.preferred for v in pulled if v.row == 3] == [None]
    assert {v.reason for v in pulled if v.row < 2} == {'because "ü"'}
    assert len({v.annotator for v in pulled}) == 2 and {v.iteration for v in pulled} == {3}
    assert all(v.comparison == task(v.row).question.comparison.id and v.seconds == 2.5 for v in pulled)
    now = datetime.datetime.now(datetime.UTC)
    assert all(v.time is not None and abs(now - v.time).total_seconds() < 300 for v in pulled)
    status = backend.status(3)
    assert (status.given, status.skipped, status.complete, status.settled) == (6, 1, 4, 6)
    assert status.seconds == 15 and not status.done
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.append(pulled) == 6 and ledger.append(backend.pull_verdicts(3)) == 0


def closed_stays_closed(backend: LabelStudio, lead: httpx.Client) -> None:
    label_studio.SETTLE_SECONDS = 600.0
    before = backend.pull_verdicts(3)
    backend.close(3)
    backend.close(3)
    closed = backend.pull_verdicts(3)
    assert len(before) == 0 and len(closed) == 6
    status = backend.status(3)
    assert status.closed and status.done and status.settled == 6
    label_studio.time.sleep(2)
    (late,) = [one for _, held in backend._held(3) for one in held if one["data"]["row"] == 5]
    annotate(lead, late, form("left", "clearly better"))
    assert backend.pull_verdicts(3) == closed
    with pytest.raises(DataError, match="round 3 is closed"):
        backend.push_tasks(3, [task(30)])
    with pytest.raises(DataError, match="no round 4"):
        backend.close(4)
    assert not backend.status(33).closed


def personal_token(url: str, lead: httpx.Client, backend: LabelStudio) -> None:
    """The tokens that the server makes by default are exchanged for short-lived ones."""
    made = lead.post("/api/token/")
    assert made.status_code == 201, made.text
    assert LabelStudio(url, made.json()["token"], name="test").status(3) == backend.status(3)
    with pytest.raises(LabelStudioError, match="refuses the token"):
        LabelStudio(url, "a.b.c", name="test")
