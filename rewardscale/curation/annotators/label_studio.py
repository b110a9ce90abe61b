"""A team's Label Studio as the place where people judge pairs, over five endpoints of its REST API.

A round is one or more projects: at most TASKS_A_PROJECT pairs each (its pages slow down beyond), and one overlap each,
because the open-source server knows a number of annotators a project and none a task. Which response is shown left is
drawn for each pair and kept in its task. Nothing is kept here: projects are found by their titles and tasks by the
comparisons in them, so everything may be repeated or cut off. One process at a time should push.

What the open-source server cannot do is done here as far as it goes: a closed round is marked so in its projects'
titles and descriptions, and what is annotated later is not counted; edits of attributes are not taken back.
"""

import datetime
import email.utils
import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx

from rewardscale.curation.annotators.backend import RoundStatus, Task
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import Verdict

TASKS_A_PROJECT = 5000
TASKS_AN_IMPORT = 250
SETTLE_SECONDS = 600.0  # a verdict that was last changed so long ago is taken
FORM = "label-studio-1"
# What the words of the form mean as a probability of being right; None: it prefers nothing.
ANSWERS: dict[str, float | None] = {
    "clearly better": 0.9,
    "slightly better": 0.6,
    "tie": None,
    "cannot say": None,
}
_TRIES = 4
Held = tuple[dict[str, Any], list[dict[str, Any]]]  # a project and its tasks with their annotations
_CLOSED = re.compile(r"closed (\S+)")


class LabelStudioError(RuntimeError):
    """The server refused or cannot be reached; the message names it and the mend. Never holds a token."""


class LabelStudio:
    """An AnnotationBackend on a Label Studio server (1.20 or newer, open source or hosted).

    Args:
      url: of the server. token: a legacy token (40 hex digits) or a personal access token, of a user who may make
        projects; read it from the environment or a file, never from a config.
      name: starts the projects' titles and the annotators' names; one a curation run.
      seed: of which response is shown left.

    Attributes:
      unreadable: annotations of the last pull that say nothing that the form allows; they are no verdicts.
    """

    def __init__(
        self, url: str, token: str, *, name: str = "rewardscale", seed: int = 0, timeout: float = 120.0
    ):
        if not 0 < len(name) <= 20:
            raise DataError(
                f"the name {name!r} must have 1 to 20 characters: it starts titles of 50 at the most"
            )
        self.name, self.seed, self.unreadable = name, seed, 0
        self._url = url.rstrip("/")
        self._token = token
        self._clock = datetime.datetime.now(datetime.UTC)  # the server's, of its last answer
        self._client = httpx.Client(base_url=self._url, timeout=timeout)
        self._authorize()

    def push_tasks(self, round: int, tasks: Sequence[Task]) -> int:
        """As AnnotationBackend. Raises DataError for a closed round, LabelStudioError if the server refuses."""
        held = self._held(round)
        if any(_closed(project) for project, _ in held):
            raise DataError(f"round {round} is closed; push to another")
        there = {task["data"]["comparison"] for _, exported in held for task in exported}
        fresh = {t.question.comparison.id: t for t in tasks if t.question.comparison.id not in there}
        by_overlap = defaultdict(list)
        for task in sorted(
            fresh.values(), key=lambda task: -task.priority
        ):  # the server shows them as they came
            by_overlap[task.overlap].append(task)
        for overlap, group in sorted(by_overlap.items()):
            parts = [(p, len(e)) for p, e in held if p["maximum_annotations"] == overlap]
            self._fill(round, overlap, group, parts)
        return len(fresh)

    def pull_verdicts(self, round: int) -> list[Verdict]:
        """As AnnotationBackend: those unchanged for SETTLE_SECONDS by the server's clock, or all of a closed round."""
        found = self._annotations(self._held(round))
        return [self._verdict(round, task, annotation) for task, annotation, settled in found if settled]

    def status(self, round: int) -> RoundStatus:
        """As AnnotationBackend."""
        held = self._held(round)
        left = {task["id"]: project["maximum_annotations"] for project, tasks in held for task in tasks}
        wanted = sum(left.values())
        given = skipped = settled = 0
        seconds = 0.0
        for task, annotation, is_settled in self._annotations(held):
            left[task["id"]] -= 1
            given += 1
            skipped += _preferred(task, annotation) is None
            settled += is_settled
            seconds += annotation.get("lead_time") or 0.0
        complete = sum(n <= 0 for n in left.values())
        closed = bool(held) and all(_closed(project) for project, _ in held)
        return RoundStatus(len(left), wanted, given, skipped, complete, settled, seconds, closed)

    def close(self, round: int) -> None:
        """As AnnotationBackend. Raises DataError for a round that nobody pushed."""
        projects = self._projects(round)
        if not projects:
            raise DataError(f"{self._url} has no round {round} of {self.name!r}")
        for project in projects:
            if not _closed(project):
                now = self._clock + datetime.timedelta(seconds=1)  # its header leaves fractions out
                change = {"title": f"{project['title']} (closed)", "description": f"closed {now.isoformat()}"}
                self._ask("PATCH", f"/api/projects/{project['id']}", json=change)

    def _fill(
        self, round: int, overlap: int, tasks: list[Task], parts: list[tuple[dict[str, Any], int]]
    ) -> None:
        """Imports tasks of one overlap into their projects, making new ones where the old are full."""
        count = len(parts)
        while tasks:
            if not parts:
                count += 1
                parts = [(self._create(round, overlap, count), 0)]
            project, size = parts.pop(0)
            free = max(TASKS_A_PROJECT - size, 0)
            room, tasks = tasks[:free], tasks[free:]
            for start in range(0, len(room), TASKS_AN_IMPORT):
                data = [{"data": self._data(task)} for task in room[start : start + TASKS_AN_IMPORT]]
                self._ask("POST", f"/api/projects/{project['id']}/import", json=data)
            self._wait_for(project, size + len(room))

    def _wait_for(self, project: dict[str, Any], tasks: int) -> None:
        """Hosted servers import in the background."""
        for attempt in range(10):
            if len(self._export(project)) >= tasks:
                return
            time.sleep(min(2.0**attempt / 4, 30))
        raise LabelStudioError(
            f"{self._url}: project {project['id']} has not all its tasks yet; push them again later"
        )

    def _data(self, task: Task) -> dict[str, Any]:
        comparison, attributes = task.question.comparison, task.question.attributes
        drawn = hashlib.blake2b(f"{self.seed}|{comparison.id}".encode(), digest_size=1).digest()[0]
        left = 1 if drawn & 1 else -1
        first, second = comparison.responses
        return {
            "row": task.question.row,
            "comparison": comparison.id,
            "left": left,  # +1: the corpus's first response
            "prompt": "\n\n".join(f"{message.role}: {message.content}" for message in comparison.prompt),
            "a": first if left > 0 else second,
            "b": second if left > 0 else first,
            "about": "" if attributes is None else f"{attributes.category}; {attributes.objectivity}",
            "desired": "" if attributes is None else attributes.desired,
            "guideline": "" if attributes is None else attributes.guideline,
        }

    def _create(self, round: int, overlap: int, part: int) -> dict[str, Any]:
        title = f"{self._title(round)}{overlap} each, part {part}"
        settings = {"title": title, "label_config": label_config(), "maximum_annotations": overlap}
        return self._ask("POST", "/api/projects", json=settings).json()

    def _title(self, round: int) -> str:
        return f"{self.name}, round {round}: "

    def _projects(self, round: int) -> list[dict[str, Any]]:
        """The round's projects, oldest first."""
        found: list[dict[str, Any]] = []
        for page in range(1, 10_000):
            query = {"page": page, "page_size": 100}
            answer = self._ask("GET", "/api/projects", params=query).json()
            found += [p for p in answer["results"] if p["title"].startswith(self._title(round))]
            if not answer.get("next"):
                break
        return sorted(found, key=lambda project: project["id"])

    def _export(self, project: dict[str, Any]) -> list[dict[str, Any]]:
        """All tasks with their annotations."""
        query = {"exportType": "JSON", "download_all_tasks": "true"}
        return self._ask("GET", f"/api/projects/{project['id']}/export", params=query).json()

    def _held(self, round: int) -> list[Held]:
        return [(project, self._export(project)) for project in self._projects(round)]

    def _annotations(self, held: list[Held]) -> Iterator[tuple[dict[str, Any], dict[str, Any], bool]]:
        """(task, annotation, whether it is settled): the last of each person and comparison that can be read."""
        latest: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any], bool]] = {}
        self.unreadable = 0
        for project, tasks in held:
            closed, old = _closed(project), self._clock - datetime.timedelta(seconds=SETTLE_SECONDS)
            for task in tasks:
                for annotation in sorted(task["annotations"], key=lambda one: one["id"]):
                    changed = _time(annotation["updated_at"])
                    if closed is not None and changed > closed:
                        continue
                    if _preferred(task, annotation) == "unreadable":
                        self.unreadable += 1
                        continue
                    who = (task["data"]["comparison"], _person(annotation))
                    latest[who] = (task, annotation, closed is not None or changed <= old)
        yield from latest.values()

    def _verdict(self, round: int, task: dict[str, Any], annotation: dict[str, Any]) -> Verdict:
        data, who = task["data"], f"{self.name}-{_person(annotation)}"
        preferred, words = _preferred(task, annotation), _words(annotation)
        assert preferred != "unreadable"
        key = hashlib.blake2b(
            f"{FORM}|{round}|{data['comparison']}|{who}".encode(), digest_size=16
        ).hexdigest()
        return Verdict(
            row=data["row"], comparison=data["comparison"], annotator=who, kind="person", preferred=preferred,
            iteration=round, confidence=ANSWERS.get(words.get("judgement", "")), key=key, prompt_version=FORM,
            seconds=annotation.get("lead_time") or 0.0, time=_time(annotation["updated_at"]),
            reason=words.get("reason", ""),
        )  # fmt: skip

    def _authorize(self) -> None:
        """Legacy tokens are sent as they are; personal access tokens are exchanged for one of some minutes."""
        if self._token.count(".") != 2:
            self._client.headers["Authorization"] = f"Token {self._token}"
            return
        self._client.headers.pop("Authorization", None)
        answer = self._send("POST", "/api/token/refresh", json={"refresh": self._token})
        if answer.status_code != 200:
            raise LabelStudioError(
                f"{self._url} refuses the token ({answer.status_code}); make a new one there"
            )
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access']}"

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """An answer of success. What reads is tried again where the server is busy; what writes is not."""
        answer = self._send(method, path, **arguments)
        if answer.status_code == 401 and self._token.count(".") == 2:
            self._authorize()
            answer = self._send(method, path, **arguments)
        if answer.is_success:
            return answer
        refused = answer.status_code in (401, 403)
        mend = "check the token, and that its user may make projects" if refused else "see the server's log"
        raise LabelStudioError(f"{self._url}{path} answers {answer.status_code}: {answer.text[:300]}; {mend}")

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        for attempt in range(_TRIES):
            last = method != "GET" or attempt == _TRIES - 1
            try:
                answer = self._client.request(method, path, **arguments)
            except httpx.TransportError as error:
                if last:
                    raise LabelStudioError(
                        f"{self._url} cannot be reached: {type(error).__name__} {error}"
                    ) from error
            else:
                if "date" in answer.headers:
                    self._clock = email.utils.parsedate_to_datetime(answer.headers["date"])
                if last or answer.status_code not in (429, 500, 502, 503, 504):
                    return answer
            time.sleep(2.0**attempt)
        raise AssertionError("the last try returns or raises")


def label_config() -> str:
    """The form, in Label Studio's markup; `$name` are fields of a task, which it shows as text and never as markup."""
    answers = "".join(f"<Choice value={quoteattr(words)}/>" for words in ANSWERS)
    return f"""<View>
  <Style>.pair {{ display: flex; gap: 1em }} .pair > div {{ flex: 1; border: 1px solid #ccc; padding: .5em }}</Style>
  <Text name="about" value="$about"/>
  <Header value="What the user wants"/><Text name="desired" value="$desired"/>
  <Header value="How to decide"/><Text name="guideline" value="$guideline"/>
  <Header value="Conversation"/><Text name="prompt" value="$prompt"/>
  <Pairwise name="preferred" toName="a,b" selectionStyle="background: #e6ffe6"/>
  <View className="pair"><View><Text name="a" value="$a"/></View><View><Text name="b" value="$b"/></View></View>
  <Header value="Click the better response. How much better is it?"/>
  <Choices name="judgement" toName="prompt" choice="single-radio" required="true" showInLine="true">{answers}</Choices>
  <TextArea name="reason" toName="prompt" rows="2" maxSubmissions="1" placeholder="Why?"/>
</View>"""


def _words(annotation: dict[str, Any]) -> dict[str, str]:
    """The form's fields that were filled in: preferred ("left" or "right"), judgement, reason."""
    words: dict[str, str] = {}
    for item in annotation.get("result") or ():
        value = item.get("value", {})
        found = value.get("selected") or value.get("choices") or value.get("text") or ""
        words[item.get("from_name", "")] = found if isinstance(found, str) else "\n".join(map(str, found))
    return words


def _preferred(task: dict[str, Any], annotation: dict[str, Any]) -> Any:
    """+1, -1, 0, None for a skipped task or one that could not be judged; "unreadable" if it says none of these."""
    words = _words(annotation)
    judgement = words.get("judgement")
    if annotation.get("was_cancelled") or judgement == "cannot say":
        return None
    if judgement == "tie":
        return 0
    side = {"left": 1, "right": -1}.get(words.get("preferred", ""))
    if side is None or judgement not in ANSWERS:
        return "unreadable"
    return side * task["data"]["left"]


def _person(annotation: dict[str, Any]) -> int:
    who = annotation["completed_by"]
    return who["id"] if isinstance(who, dict) else who


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _closed(project: dict[str, Any]) -> datetime.datetime | None:
    """When the project was closed."""
    found = _CLOSED.fullmatch(project.get("description") or "")
    return None if found is None else _time(found[1])
