"""Finding a source's files: a file, a folder, what `datasets` saved, the hub."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import polars as pl
import pytest

from rewardscale.data.comparison import DataError
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.judged import Judged
from rewardscale.data.sources.read import Located, locate, read

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LINE = json.dumps({"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."}) + "\n"


def found(located: Located, **options: int) -> list[Judged]:
    items = [item for unit in located.units(**options) for item in read(located.adapter, unit)]
    assert all(isinstance(item, Judged) for item in items), items
    return [item for item in items if isinstance(item, Judged)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("my-valid.jsonl", "validation"),
        ("x_test_2.jsonl", "test"),
        ("mine.jsonl", ""),
    ],
)
def test_a_single_file_and_its_split(tmp_path: Path, name: str, split: str) -> None:
    (tmp_path / name).write_text(LINE)
    (one,) = found(locate(adapter("pairs"), tmp_path / name))
    assert one.comparison.split == split and one.comparison.source == "pairs"


def test_a_folder_in_the_same_order_whoever_lists_it(tmp_path: Path) -> None:
    for name in (
        "b_train.jsonl",
        "a_test.jsonl",
        "a_train.jsonl",
        "README.md",
        ".cache/train.jsonl",
        "sub/c_train.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINE)
    located = locate(adapter("pairs"), tmp_path)
    assert [unit.name for unit in located.files] == [
        "a_train.jsonl",
        "b_train.jsonl",
        "sub/c_train.jsonl",
        "a_test.jsonl",
    ]
    assert len(found(located)) == 4


def test_a_copy_under_other_names(tmp_path: Path) -> None:
    """A renamed snapshot: the adapter's own names are not there, but files of records are."""
    (tmp_path / "my_validation.jsonl").write_text(
        json.dumps({"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: A?\n\nAssistant: C."})
    )
    (one,) = found(locate(adapter("hh-rlhf"), tmp_path))
    assert one.comparison.split == "validation"


def test_a_folder_without_the_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds none of the files of nectar: looked for data/rlaif\.parquet"):
        locate(adapter("nectar"), tmp_path)
    with pytest.raises(DataError, match=r"fgrlhf is not on the hub: get it from https://github\.com/allenai"):
        locate(adapter("fgrlhf"))
    (tmp_path / "responses.jsonl.xz").write_bytes(b"")
    with pytest.raises(DataError, match=r"one file questions\.jsonl\.xz, and holds 0"):
        locate(adapter("mmlu-pro-responses"), tmp_path)


def test_what_datasets_saved_to_disk(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "Is tea warm?"}, {"role": "assistant", "content": "Yes."}]
    other = [message[0], {"role": "assistant", "content": "No."}]
    frame = pl.DataFrame({"chosen": [message] * 30, "rejected": [other] * 30, "source": ["x"] * 30})
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        files = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
        for name in files:
            frame.write_ipc_stream(folder / name)
        (folder / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": name} for name in files]})
        )
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    both = found(locate(adapter("skywork-reward-preference-80k"), tmp_path))
    assert len(both) == 120 and [item.comparison.split for item in both] == ["train"] * 60 + ["test"] * 60
    assert both[0].comparison.responses == ("Yes.", "No.") and both[0].comparison.category == "x"
    assert len(found(locate(adapter("skywork-reward-preference-80k"), tmp_path / "test"))) == 60


def test_parts_of_a_source_are_the_source(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(LINE.replace("Yes", f"Yes {i}") for i in range(500)))
    located = locate(adapter("pairs"), tmp_path)
    assert len(located.units(target=2000)) > 10 and found(located, target=2000) == found(located)


def test_rows_of_one_prompt_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i // 2}?", "response": f"r{i}", "helpfulness": i % 2} for i in range(100)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    located = locate(adapter("helpsteer2"), tmp_path)
    assert len(located.units(target=100)) == 1 and len(found(located, target=100)) == 50


# --- the hub -----------------------------------------------------------------------------------------


def test_hub_ids_need_a_commit(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no folder nvidia/HelpSteer3; .* name the commit \(its revision: 40 hex"
    ):
        locate(adapter("helpsteer3"))
    with pytest.raises(DataError, match="name the commit"):
        locate(adapter("helpsteer3"), revision="main")
    with pytest.raises(DataError, match="is no hub id"):
        locate(adapter("pairs"), tmp_path / "nowhere" / "at" / "all")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one commit of one dataset asks for."""

    files: ClassVar[dict[str, bytes]] = {
        "preference/train.jsonl.gz": b"",
        "README.md": b"# card",
        "feedback/train.jsonl.gz": b"not wanted",
    }
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        api = "/api/datasets/nvidia/HelpSteer3/"
        base = f"/datasets/nvidia/HelpSteer3/resolve/{COMMIT}/"
        if self.path.split("?")[0] == f"{api}revision/{COMMIT}":
            siblings = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "nvidia/HelpSteer3", "sha": COMMIT, "siblings": siblings}).encode()
        elif self.path.split("?")[0] == f"{api}tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(own), "oid": "0" * 40}
                for name, own in self.files.items()
            ]
            body = json.dumps(tree).encode()
        elif self.path.startswith(base):
            body = self.files[self.path.removeprefix(base)]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


ASK = """
import sys
from rewardscale.data.comparison import DataError
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.read import locate, read
for name, commit in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        located = locate(adapter("helpsteer3"), name, revision=commit)
        print([unit.name for unit in located.files], [len(list(read(located.adapter, u))) for u in located.units()])
    except DataError as error:
        print("DataError:", error)
"""


def ask(cache: Path, endpoint: str, *names: str, **more: str) -> list[str]:
    """What `locate` says of each name and commit, in a process of its own: the library reads its settings once."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HOME": str(cache),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_snapshot_from_the_hub_and_none(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {
        "domain": "code",
        "context": [{"role": "user", "content": "Q?"}],
        "response1": "a",
        "response2": "b",
    }
    line = json.dumps({**record, "overall_preference": 2}) + "\n"
    monkeypatch.setitem(_Hub.files, "preference/train.jsonl.gz", gzip.compress(line.encode()))
    here, whole = ("nvidia/HelpSteer3", COMMIT), "['preference/train.jsonl.gz'] [1]"
    found, unknown = ask(tmp_path, hub, *here, "nobody/nothing", COMMIT)
    assert found == whole and unknown.startswith("DataError: nobody/nothing at")
    assert not any("feedback" in path for path in _Hub.asked)  # of a repository only the adapter's files
    # What was downloaded is there without a network; what was not gives one error.
    found, absent = ask(tmp_path, hub, *here, here[0], "f" * 40, HF_HUB_OFFLINE="1")
    assert found == whole and absent.startswith(
        f"DataError: nvidia/HelpSteer3 at {'f' * 40} cannot be had from the hub"
    )
