"""HTTP of the annotation page: sessions, the guards around every answer, and a route for each thing a person can do."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from rewardscale.curation.annotators.people import access, rounds, store, views
from rewardscale.curation.annotators.people.access import Person
from rewardscale.curation.annotators.people.store import Answer, Refused
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.database import PeopleStore

HERE = Path(__file__).parent
MOST_BODY = 256 * 1024  # bytes of a form
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_LOGIN = "Paste your token to go on; whoever runs this page can give you a new one."


class _Stop(Exception):
    """Ends a request with this answer."""

    def __init__(self, response: Response):
        super().__init__()
        self.response = response


def make_app(database: PeopleStore, *, hosts: frozenset[str] | None = None, secure: bool = False) -> FastAPI:
    """The page's application.

    Args:
      hosts: names (without port) by which it may be asked for; None for any.
      secure: whether browsers reach it by https, so that cookies never travel otherwise.
    """
    app = FastAPI(title="rewardscale", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    pages = _Pages(database, secure)
    _guard(app, pages, hosts)
    _add_sessions(app, pages)
    _add_judging(app, pages)
    _add_lead(app, pages)
    return app


class _Pages:
    """Templates and sessions."""

    def __init__(self, database: PeopleStore, secure: bool):
        self.database, self.secure = database, secure
        self.cookie = "__Host-session" if secure else "session"
        self.templates = Jinja2Templates(HERE / "templates")
        self.templates.env.trim_blocks = self.templates.env.lstrip_blocks = True
        assert self.templates.env.autoescape

    def show(self, request: Request, name: str, values: dict[str, Any], status: int = 200) -> Response:
        return self.templates.TemplateResponse(request, name, values, status_code=status)

    def problem(self, request: Request, sentence: str, status: int) -> Response:
        """A sentence where the page keeps its messages, or as a page of its own; what was typed stays."""
        if "hx-request" in request.headers:
            return PlainTextResponse(sentence, status)
        return self.show(request, "problem.html", {"sentence": sentence, "person": None}, status)

    def session(self, request: Request) -> str | None:
        return request.cookies.get(self.cookie)

    def log_in(self, request: Request, token: str) -> Response:
        session = access.log_in(self.database, token)
        if session is None:
            sentence = f"This token is not known, or not any more. {_LOGIN}"
            return self.show(request, "login.html", {"sentence": sentence, "person": None}, 403)
        # A cookie that is SameSite=Strict is not sent along a redirect from another site, where links to here stand;
        # so the welcome page needs no session, and goes on by itself.
        response = RedirectResponse("/welcome", 303)
        response.set_cookie(
            self.cookie, session, max_age=int(access.SESSION_SECONDS), httponly=True, samesite="strict",
            secure=self.secure, path="/",
        )  # fmt: skip
        return response

    def person(self, request: Request, role: access.Role) -> Person:
        who = access.person(self.database, self.session(request))
        if who is None:
            if request.method == "GET" and "hx-request" not in request.headers:
                raise _Stop(self.show(request, "login.html", {"sentence": _LOGIN, "person": None}, 401))
            sentence = "Your session has ended; log in again in another tab, then retry here."
            raise _Stop(self.problem(request, sentence, 401))
        if who.role != role:
            if request.method == "GET" and request.url.path == "/":
                raise _Stop(RedirectResponse("/lead", 303))
            raise _Stop(
                self.problem(request, f"This page is for {role}s; you are logged in as {who.name}.", 403)
            )
        return who

    def writer(self, request: Request, role: access.Role, mark: str) -> Person:
        who = self.person(request, role)
        if not access.csrf_is_right(mark, who):
            raise _Stop(
                self.problem(request, "This form is out of date; reload the page and send it again.", 403)
            )
        return who


def _guard(app: FastAPI, pages: _Pages, hosts: frozenset[str] | None) -> None:
    """What holds for every request: known host, small body, headers, errors as sentences."""

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if hosts is not None and (request.url.hostname or "").lower() not in hosts:
            response: Response = PlainTextResponse("This page is not served under that name.", 421)
        elif not _is_small(request):
            response = PlainTextResponse("This is more than a form of this page holds.", 413)
        else:
            response = await go_on(request)
        response.headers.update(_HEADERS)
        cached = request.url.path.startswith("/static/")
        response.headers["Cache-Control"] = "no-cache" if cached else "no-store"
        return response

    @app.exception_handler(_Stop)
    async def stop(_: Request, error: _Stop) -> Response:
        return error.response

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return pages.problem(request, str(error), 409)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        del error  # it would echo what was sent
        return pages.problem(request, "This form was not understood; reload the page and try again.", 400)

    @app.exception_handler(404)
    async def absent(request: Request, error: Exception) -> Response:
        del error
        return pages.problem(request, "There is no such page.", 404)


def _is_small(request: Request) -> bool:
    """Whether the body's announced length is one of a form; bodies without one are refused."""
    if request.method in ("GET", "HEAD"):
        return True
    try:
        return 0 <= int(request.headers.get("content-length", "-1")) <= MOST_BODY
    except ValueError:
        return False


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form, each once."""
    form = await request.form(max_files=0, max_fields=32)
    return {name: value for name, value in form.items() if isinstance(value, str)}


Fields = Annotated[dict[str, str], Depends(_fields)]


def _add_sessions(app: FastAPI, pages: _Pages) -> None:
    @app.get("/login")
    def by_link(request: Request, token: str = "") -> Response:
        if not token:
            return pages.show(request, "login.html", {"sentence": _LOGIN, "person": None})
        return pages.log_in(request, token)

    @app.post("/login")
    def by_form(request: Request, token: Annotated[str, Form()]) -> Response:
        return pages.log_in(request, token.strip())

    @app.get("/welcome")
    def welcome(request: Request) -> Response:
        return pages.show(request, "welcome.html", {"person": None})

    @app.post("/logout")
    def logout(request: Request, fields: Fields) -> Response:
        session = pages.session(request)
        who = access.person(pages.database, session)
        if who and session and access.csrf_is_right(fields.get("csrf", ""), who):
            access.log_out(pages.database, session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(pages.cookie, path="/", secure=pages.secure, httponly=True, samesite="strict")
        return response

    @app.get("/health")
    def health() -> Response:
        return PlainTextResponse("ok")


def _add_judging(app: FastAPI, pages: _Pages) -> None:
    database = pages.database

    def own(request: Request, who: Person, name: str) -> store.Assignment:
        found = store.find(database, who.name, name)
        if found is None:
            raise _Stop(pages.problem(request, "This pair was not given to you; go back to your queue.", 404))
        return found

    def work(request: Request, who: Person, assignment: store.Assignment | None) -> Response:
        name = "work.html" if "hx-request" in request.headers else "judge.html"
        return pages.show(request, name, views.judging(database, who, assignment))

    @app.get("/")
    def judge(request: Request) -> Response:
        who = pages.person(request, "annotator")
        return work(request, who, store.current(database, who.name))

    @app.get("/pairs/{name}")
    def again(request: Request, name: str) -> Response:
        who = pages.person(request, "annotator")
        return work(request, who, own(request, who, name))

    @app.get("/back")
    def back(request: Request, of: str = "") -> Response:
        who = pages.person(request, "annotator")
        found = store.before(database, who.name, of)
        if found is None:
            return pages.problem(request, "There is no pair before this one.", 404)
        return work(request, who, found)

    @app.post("/pairs/{name}")
    def answer(request: Request, name: str, fields: Fields) -> Response:
        who = pages.writer(request, "annotator", fields.get("csrf", ""))
        assignment = own(request, who, name)
        answer = Answer(
            preferred=views.preference(fields.get("choice", ""), swapped=assignment.swapped),
            confidence=views.confidence(fields.get("confidence", "")),
            reason=fields.get("reason", "").replace("\r\n", "\n").strip(),
            seconds=_number(fields.get("seconds", "")),
        )
        write = fields.get("write", "")
        if not 8 <= len(write) <= 64:
            raise Refused("This form was not understood; reload the page and try again.")
        revision = int(_number(fields.get("revision", "")))
        store.submit(database, who.name, name, answer, write=write, revision=revision)
        rounds.settle(database)
        if "hx-request" in request.headers:
            return work(request, who, store.current(database, who.name))
        return RedirectResponse("/", 303)

    @app.get("/pairs/{name}/attributes")
    def attributes(request: Request, name: str, edit: bool = False) -> Response:
        who = pages.person(request, "annotator")
        assignment = own(request, who, name)
        values = {
            "attributes": views.attributes(database, assignment, editing=edit),
            "assignment": assignment,
        }
        return pages.show(request, "attributes.html", values | {"person": who})

    @app.post("/pairs/{name}/attributes")
    def edit(request: Request, name: str, fields: Fields) -> Response:
        who = pages.writer(request, "annotator", fields.get("csrf", ""))
        assignment = own(request, who, name)
        revision = int(_number(fields.get("revision", "")))
        store.edit_attributes(database, assignment, views.edited(fields, who.name), revision=revision)
        values = {"attributes": views.attributes(database, assignment), "assignment": assignment}
        return pages.show(request, "attributes.html", values | {"person": who})

    @app.get("/judged")
    def judged(request: Request) -> Response:
        who = pages.person(request, "annotator")
        return pages.show(request, "judged.html", views.judged(database, who))


def _add_lead(app: FastAPI, pages: _Pages) -> None:
    @app.get("/lead")
    def lead(request: Request) -> Response:
        who = pages.person(request, "lead")
        name = "board.html" if "hx-request" in request.headers else "lead.html"
        return pages.show(request, name, views.board(pages.database, who))

    @app.get("/lead/tasks/{number}")
    def task(request: Request, number: int) -> Response:
        who = pages.person(request, "lead")
        values = views.task(pages.database, who, number)
        if values is None:
            return pages.problem(request, "There is no such pair.", 404)
        return pages.show(request, "task.html", values)

    @app.post("/lead/rounds/{number}/close")
    def close(request: Request, number: int, fields: Fields) -> Response:
        pages.writer(request, "lead", fields.get("csrf", ""))
        try:
            rounds.close(pages.database, number)
        except DataError as error:
            return pages.problem(request, f"{error}.".capitalize(), 404)
        return RedirectResponse("/lead", 303)


def _number(text: str) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 <= value < 1e9 else 0.0
