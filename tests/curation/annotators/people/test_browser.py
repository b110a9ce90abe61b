"""The page in a real browser: judged by keyboard, cut off, attacked; and its server killed."""

import http.server
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewardscale.curation.annotators.people import backend, rounds, store
from tests.curation.annotators.people.test_markup import PAYLOADS
from tests.people_small import serving, task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    with backend.PageBackend(tmp_path / "ledger") as page:
        page.push_tasks(0, [task(row, priority=-row) for row in range(10)])
    return tmp_path / "ledger"


@pytest.fixture
def page(browser) -> Iterator:
    """A tab that fails the test where a script errs or the page's policy has to step in."""
    context = browser.new_context()
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
    yield tab
    context.close()
    assert not wrong


def enter(page, ledger: Path, address: str, name: str = "ann") -> str:
    """Logs in by link; returns the token."""
    link = backend.invite(ledger, name, url=address)
    page.goto(link)
    page.wait_for_url(f"{address}/")
    page.wait_for_selector("#verdict, .empty")
    return link.partition("token=")[2]


def judge(page, keys: str) -> None:
    """Presses the keys of one verdict, saves, and waits for the next pair."""
    here = page.locator("#verdict").get_attribute("data-assignment")
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.locator(f'[data-assignment="{here}"]').wait_for(state="detached")


def answers(ledger: Path) -> list[tuple[int, int | None, float | None, str]]:
    with backend.open_database(ledger) as database:
        return sorted(
            (a.row, a.answer.preferred, a.answer.confidence, a.answer.reason)
            for a in store.history(database, "ann")
            if a.answer
        )


def test_ten_pairs_by_keyboard_with_reloads_in_the_middle(page, ledger: Path, tmp_path: Path):
    log = tmp_path / "server.log"
    with serving(ledger, log=log) as (process, address):
        token = enter(page, ledger, address)
        for number in range(10):
            if number == 3:
                page.keyboard.press("2")
                page.keyboard.press("r")
                page.keyboard.type("twice the <b>same</b>")
                page.keyboard.press("Escape")
                page.reload()
                assert page.locator("[name=reason]").input_value() == "twice the <b>same</b>"
                assert page.locator("[name=choice]:checked").get_attribute("value") == "second"
                judge(page, "9")
            elif number == 6:
                judge(page, "t7")
                page.go_back()
                page.goto(f"{address}/")
            else:
                judge(page, "s" if number == 5 else "18")
        assert page.locator("h1").inner_text() == "All done, thank you"
        page.keyboard.press("b")
        page.wait_for_selector("#verdict")
        judge(page, "29")  # changes the last one
        with backend.open_database(ledger) as database:
            first = {a.row: -1 if a.swapped else 1 for a in store.history(database, "ann")}
        given = answers(ledger)
        assert [row for row, *_ in given] == list(range(10))
        said = {3: (-first[3], 0.97), 5: (None, None), 6: (0, 0.7), 9: (-first[9], 0.97)}
        for row, preferred, confidence, reason in given:
            assert (preferred, confidence) == said.get(row, (first[row], 0.85)), row
            assert reason == ("twice the <b>same</b>" if row == 3 else "")
        session = next(c["value"] for c in page.context.cookies() if c["name"] == "session")
        assert page.evaluate("document.cookie") == ""
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    text = log.read_text()
    assert token not in text and session not in text and "token" not in text and "stopped" in text
    with backend.PageBackend(ledger) as opened:
        opened.close(0)
        assert len(opened.pull_verdicts(0)) == 10


def test_a_double_click_and_two_tabs_write_once(page, ledger: Path, tmp_path: Path):
    with serving(ledger, log=tmp_path / "server.log") as (_, address):
        enter(page, ledger, address)
        other = page.context.new_page()
        other.goto(f"{address}/")
        page.keyboard.press("1")
        page.keyboard.press("8")
        page.locator("#save").dblclick()
        page.wait_for_selector("h1:has-text('Pair 2')")
        for key in ("t", "8", "Enter"):
            other.keyboard.press(key)
        other.wait_for_selector("#message:not([hidden])")
        assert "another tab" in other.locator("#message").inner_text()
        assert [row for row, *_ in answers(ledger)] == [0]


def test_a_server_killed_in_the_middle_loses_nothing(page, ledger: Path, tmp_path: Path):
    log = tmp_path / "server.log"
    with serving(ledger, log=log) as (process, address):
        enter(page, ledger, address)
        judge(page, "18")
        process.kill()
        process.wait()
        for key in ("2", "6", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector("#message:not([hidden])")
        assert "sent again" in page.locator("#message").inner_text()
        assert page.locator("[name=choice]:checked").get_attribute("value") == "second"
    with serving(ledger, log=log, port=int(address.rpartition(":")[2])):
        page.wait_for_selector("h1:has-text('Pair 3')", timeout=20_000)
        assert not page.locator("#message").is_visible()
        assert [(row, sure) for row, _, sure, _ in answers(ledger)] == [(0, 0.85), (1, 0.5)]


def test_hostile_responses_do_nothing(browser, tmp_path: Path):
    ledger = tmp_path / "ledger"
    payloads = [*PAYLOADS, "<iframe srcdoc='<script>top.hit=1</script>'>", "a" * 1_000_000, "> " * 3000 + "deep",
                "\u202e gnp.exe \u2066"]  # fmt: skip
    with backend.PageBackend(ledger) as opened:
        opened.push_tasks(0, [task(n, responses=(t, t + " x"), priority=-n) for n, t in enumerate(payloads)])
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("popup", lambda popup: wrong.append(popup.url))
    bad = "script, iframe, img, svg, style, form, input, [onerror], [onload], [style], [hx-get]"
    with serving(ledger, log=tmp_path / "server.log") as (_, address):
        enter(page, ledger, address)
        for text in payloads:
            assert page.evaluate("window.hit") is None
            assert page.locator(".text").locator(bad).count() == 0, text[:80]
            for link in page.locator(".text a[href]").all():
                assert (link.get_attribute("href") or "").lower().startswith(("http://", "https://"))
            if "\u202e" in text:
                assert "RIGHT-TO-LEFT OVERRIDE" in page.locator(".response").first.inner_text()
            if len(text) == 1_000_000:
                shown = "document.querySelector('.response .text').textContent.length"
                assert page.evaluate(shown) >= 1_000_000
            judge(page, "t6")
        assert page.locator(".empty").count() == 1
        assert all(url.startswith(address) for url in asked), [u for u in asked if not u.startswith(address)]
        assert not wrong
    context.close()
    with backend.open_database(ledger) as database:
        assert rounds.status(database, 0).given == len(payloads)


def test_a_responses_own_headings_stay_where_they_are(browser, tmp_path: Path):
    """The page's headings stand at the top when one scrolls; those of a text move on with it."""
    text = "\n\n".join(f"Part {n}\n---\n\n## Point\n\n{'Words of it. ' * 60}" for n in range(6))
    with backend.PageBackend(tmp_path / "ledger") as opened:
        opened.push_tasks(0, [task(0, responses=(text, text + " More."))])
    page = browser.new_context(viewport={"width": 1000, "height": 700}).new_page()
    with serving(tmp_path / "ledger", log=tmp_path / "server.log") as (_, address):
        enter(page, tmp_path / "ledger", address)
        page.evaluate("() => window.scrollTo(0, 1500)")
        style = "e => { const s = getComputedStyle(e); return [s.position, s.display] }"
        own, others = page.locator(".response > h2"), page.locator(".response .text h2")
        assert own.count() == 2 and own.first.evaluate(style) == ["sticky", "flex"]
        assert others.count() == 24
        assert {tuple(h.evaluate(style)) for h in others.all()} == {("static", "block")}
        assert own.first.bounding_box()["y"] == 0  # still named while its end is read
        page.context.close()


def test_the_link_works_from_another_site(page, ledger: Path, tmp_path: Path):
    """A cookie that is SameSite=Strict does not come along when a link of another site is followed."""
    with serving(ledger, log=tmp_path / "server.log") as (_, address):
        link = backend.invite(ledger, "ann", url=address)

        class Mail(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(f'<a href="{link}">judge</a>'.encode())

            def log_message(self, format, *args):
                del format, args

        mail = http.server.HTTPServer(("127.0.0.1", 0), Mail)
        threading.Thread(target=mail.serve_forever, daemon=True).start()
        page.goto(f"http://localhost:{mail.server_port}/")
        page.click("a")
        page.wait_for_selector("#verdict")
        assert page.url == f"{address}/"
        mail.shutdown()
        mail.server_close()


def test_the_clock_stops_while_the_page_is_hidden(page, ledger: Path, tmp_path: Path):
    hide = (
        "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    with serving(ledger, log=tmp_path / "server.log") as (_, address):
        enter(page, ledger, address)
        page.evaluate(hide % "true")
        page.wait_for_timeout(4000)
        page.evaluate(hide % "false")
        page.wait_for_timeout(300)
        judge(page, "18")
    with backend.open_database(ledger) as database:
        assert 0.2 < rounds.status(database, 0).seconds < 3.5


def test_a_phone_needs_no_sideways_scrolling_and_every_control_has_a_name(
    browser, ledger: Path, tmp_path: Path
):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    with serving(ledger, log=tmp_path / "server.log") as (_, address):
        enter(page, ledger, address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input:not([type=hidden]), select, textarea, a[href]")]
            .filter(e => !(e.textContent || e.getAttribute("aria-label") || e.labels?.[0]?.textContent || "").trim())
            .map(e => e.outerHTML)"""
        )
        assert nameless == []
        for text in ("Second", "Certain"):
            page.locator("#verdict label", has_text=text).tap()
        page.locator("#save").tap()
        page.wait_for_selector("h1:has-text('Pair 2')")
    context.close()
    assert len(answers(ledger)) == 1
