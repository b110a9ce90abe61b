"""The page's answers over HTTP: sessions, guards, and writes that happen once."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from rewardscale.config import ConfigError
from rewardscale.curation.annotators.people import access, backend, rounds, store
from rewardscale.curation.annotators.people.app import MOST_BODY, make_app
from tests.people_small import SOURCE, task

HX = {"HX-Request": "true"}


@pytest.fixture
def database(tmp_path: Path):
    with backend.open_database(tmp_path) as opened:
        rounds.push(opened, 0, [task(row, overlap=2, priority=-row) for row in range(4)])
        yield opened


@pytest.fixture
def enter(database):
    """A client that has logged in as this annotator."""

    def client(name: str, role: access.Role = "annotator") -> TestClient:
        app = make_app(database, hosts=frozenset({"testserver"}))
        browser = TestClient(app)
        token = access.create(database, name, role)
        assert browser.get("/login", params={"token": token}).status_code == 200
        return browser

    return client


def form(page: str) -> dict[str, str]:
    """The hidden fields of the verdict's form."""
    text = page[page.index('id="verdict"') :]
    found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text))
    return {"action": re.search(r'action="([^"]+)"', text)[1], **found}  # type: ignore[index]


def send(client: TestClient, fields: dict[str, str], **more: str):
    data = {**fields, "choice": "first", "confidence": "0.85", "seconds": "3", **more}
    return client.post(data.pop("action"), data=data, headers=HX)


def test_a_link_logs_in_and_leaves_the_address(database):
    client = TestClient(make_app(database), follow_redirects=False)
    token = access.create(database, "ann")
    answer = client.get("/login", params={"token": token})
    assert answer.status_code == 303 and answer.headers["location"] == "/welcome"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
    assert token not in answer.text
    assert client.get("/welcome").status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/login", params={"token": "x"}).status_code == 403
    assert client.post("/login", data={"token": f" {token}\n"}).status_code == 303
    secure = TestClient(make_app(database, secure=True), follow_redirects=False)
    cookie = secure.get("/login", params={"token": token}).headers["set-cookie"]
    assert cookie.startswith("__Host-session=") and "Secure" in cookie


def test_every_answer_is_guarded(database, enter):
    client = enter("ann")
    for path in ("/", "/judged", "/nowhere", "/static/page.js", "/login", "/health"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*\ssrc=\"/static/)|\son\w+=|javascript:|https?://", page)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.post("/login", data={"token": "x" * (MOST_BODY + 1)}).status_code == 413
    assert client.post("/login", content=iter([b"token=x"])).status_code == 413
    for path in ("/docs", "/openapi.json", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


def test_a_page_says_nothing_about_where_a_pair_comes_from(enter):
    page = enter("ann").get("/").text
    assert "What is 0 plus 0?" in page and "The sum is" in page
    assert SOURCE not in page and "secret" not in page and not re.search(r"\brow\b.?0", page)


def test_without_a_session_nothing_is_shown_or_written(database, enter):
    fields = form(enter("ann").get("/").text)
    stranger = TestClient(make_app(database))
    for path in ("/", "/judged", "/lead", "/lead/tasks/1", fields["action"], "/back"):
        answer = stranger.get(path)
        assert answer.status_code == 401 and "The sum" not in answer.text, path
    assert send(stranger, fields).status_code == 401
    assert stranger.post("/lead/rounds/0/close", data={}).status_code == 401
    assert rounds.status(database, 0).given == 0


def test_a_write_needs_its_sessions_mark(database, enter):
    ann, ben = enter("ann"), enter("ben")
    fields = form(ann.get("/").text)
    theirs = form(ben.get("/").text)["csrf"]
    for mark in ("", "x", theirs, "é"):
        assert send(ann, {**fields, "csrf": mark}).status_code == 403
        assert ann.post(f"{fields['action']}/attributes", data={"csrf": mark}).status_code == 403
    assert send(ben, {**fields, "csrf": theirs}).status_code == 404  # another's pair
    lead = enter("lea", "lead")
    assert lead.post("/lead/rounds/0/close", data={"csrf": theirs}).status_code == 403
    assert ann.post("/lead/rounds/0/close", data={"csrf": fields["csrf"]}).status_code == 403
    assert ann.get("/lead").status_code == 403 and lead.get("/judged").status_code == 403
    assert lead.get("/", follow_redirects=False).headers["location"] == "/lead"
    assert rounds.status(database, 0).given == 0 and not rounds.status(database, 0).closed


def test_a_verdict_sent_twice_or_from_two_tabs_is_one(database, enter):
    client = enter("ann")
    one, other = form(client.get("/").text), form(client.get("/").text)
    assert one["action"] == other["action"] and one["write"] != other["write"]
    assert "Pair 2" in send(client, one).text
    assert "Pair 2" in send(client, one).text
    assert "Pair 2" in send(client, other).text  # the same answer from the other tab
    conflict = send(client, other, choice="tie")
    assert conflict.status_code == 409 and "another tab" in conflict.text
    assert rounds.status(database, 0).given == 1


@pytest.mark.parametrize("bad", [{"choice": ""}, {"choice": "third"}, {"confidence": ""}, {"confidence": "x"},
                                 {"confidence": "nan"}, {"write": ""}, {"reason": "x" * 5000}])  # fmt: skip
def test_a_refusal_is_one_sentence(database, enter, bad):
    client = enter("ann")
    answer = send(client, form(client.get("/").text), **bad)
    assert answer.status_code == 409 and answer.headers["content-type"].startswith("text/plain")
    assert re.fullmatch(r"[^<>\n]{10,150}\.", answer.text)
    assert rounds.status(database, 0).given == 0


def test_back_shows_the_answer_in_the_order_shown_and_changes_it(database, enter):
    client = enter("ann")
    send(client, form(client.get("/").text), choice="second", reason="<b>so & so</b>")
    page = client.get("/back", headers=HX).text
    assert re.search(r'value="second"[^>]*checked', page) and "&lt;b&gt;so &amp; so&lt;/b&gt;" in page
    send(client, form(page), choice="tie")
    [known] = store.history(database, "ann")
    assert known.answer is not None and known.answer.preferred == 0
    rounds.close(database, 0)
    page = client.get(f"/pairs/{known.id}").text
    assert "can no longer be changed" in page and 'id="verdict"' not in page


def test_without_script_a_form_still_works(database, enter):
    client = enter("ann")
    fields = form(client.get("/").text)
    answer = client.post(fields.pop("action"), data={**fields, "choice": "skip"}, follow_redirects=False)
    assert answer.status_code == 303 and rounds.status(database, 0).skipped == 1


def test_attributes_are_edited_with_the_authors_name(database, enter):
    client = enter("ann")
    action = form(client.get("/").text)["action"]
    page = client.get(f"{action}/attributes", params={"edit": True}).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    change = {"category": "Reasoning", "objectivity": "subjective", "controversiality": "high", "desired": "<i>",
              "guideline": "[x](javascript:alert(1))"}  # fmt: skip
    shown = client.post(f"{action}/attributes", data={**fields, **change}, headers=HX).text
    assert "by ann" in shown and "&lt;i&gt;" in shown and "href" not in shown and "Tastes differ" in shown
    assert client.post(f"{action}/attributes", data={**fields, **change}, headers=HX).status_code == 200
    again = client.post(f"{action}/attributes", data={**fields, **change, "desired": "x"}, headers=HX)
    assert again.status_code == 409 and "ann has edited" in again.text
    wrong = client.post(f"{action}/attributes", data={**fields, **change, "category": "x"}, headers=HX)
    assert wrong.status_code == 409
    assert database.attributes()["author"].to_list().count("ann") == 1


def test_the_lead_sees_progress_agreement_and_disagreements(database, enter):
    ann, ben, lead = enter("ann"), enter("ben"), enter("lea", "lead")
    for client, said in ((ann, "first"), (ben, "tie")):
        send(client, form(client.get("/").text), choice=said, reason=f"<em>{said}</em>")
    page = lead.get("/lead").text
    assert "<strong>2</strong> of 8 verdicts" in page and "ann, ben" in page and "&lt;em&gt;tie" in page
    [number] = re.findall(r"/lead/tasks/(\d+)", page)
    assert "The sum is" in lead.get(f"/lead/tasks/{number}").text
    assert lead.get("/lead/tasks/999").status_code == 404 and lead.get("/lead/tasks/x").status_code == 400
    mark = re.search(r'name="csrf" value="(\w+)"', page)[1]  # type: ignore[index]
    assert "closed" in lead.post("/lead/rounds/0/close", data={"csrf": mark}).text
    assert len(rounds.verdicts(database, 0)) == 2
    assert "Nothing waits" not in ann.get("/judged").text


def test_logging_out_ends_the_session(enter):
    client = enter("ann")
    mark = form(client.get("/").text)["csrf"]
    kept = dict(client.cookies)
    client.post("/logout", data={"csrf": mark})
    assert client.get("/").status_code == 401
    client.cookies.update(kept)
    assert client.get("/").status_code == 401


def test_a_page_for_the_network_needs_its_public_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="public_url"):
        backend.serve(tmp_path, host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match="public_url"):
        backend.serve(tmp_path, public_url="judge.example.org")
    assert backend._names("0.0.0.0", "https://Judge.example.org:8443") == (
        frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", "judge.example.org"}), True,
    )  # fmt: skip


def test_status_and_invitations_as_text(tmp_path: Path):
    assert backend.status_text(tmp_path) == "no rounds, nobody invited"
    link = backend.invite(tmp_path, "ann", url="http://127.0.0.1:8010/")
    assert re.fullmatch(r"http://127\.0\.0\.1:8010/login\?token=[\w-]{43}", link)
    backend.revoke(tmp_path, "ann")
    with backend.PageBackend(tmp_path) as page:
        page.push_tasks(2, [task(1)])
    assert backend.status_text(tmp_path).splitlines()[0].startswith("round 2: 0 of 1 verdicts")
    assert "annotator ann (revoked)" in backend.status_text(tmp_path)
