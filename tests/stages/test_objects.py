"""The commit protocol on an object store: in memory, and over `file://` where several processes are needed."""

import json
import uuid

import fsspec
import pytest

from rewardscale.stages import StageError, Task, run, verify
from rewardscale.stages.objects import ObjectStore
from rewardscale.stages.task import Done
from tests.stages import tasks
from tests.stages.tasks import runs, writing


@pytest.fixture
def url():
    """An object store of its own for each test."""
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    system = fsspec.filesystem("memory")
    if system.exists(name):
        system.rm(name, recursive=True)


def objects(url: str) -> dict[str, bytes]:
    system, path = fsspec.core.url_to_fs(url)
    return {str(name).removeprefix(path): system.cat_file(name) for name in system.find(path)}


def test_a_stage_on_an_object_store_has_the_same_outputs_as_in_a_folder(tmp_path, url):
    log = tmp_path / "log"
    there = run(url, "one", writing(4, log=log))
    here = run(tmp_path, "one", writing(4))
    assert [(d.name, d.counts, d.output) for d in here] == [(d.name, d.counts, d.output) for d in there]
    for local, remote in zip(here, there, strict=True):
        for name in ("part/data.bin", "rest.bin"):
            assert (remote.folder / name).read_bytes() == (local.folder / name).read_bytes()
    assert objects(url)["/one/stage.json"] == (tmp_path / "one" / "stage.json").read_bytes()
    before = objects(url)
    assert run(url, "one", writing(4, log=log)) == there
    assert objects(url) == before and runs(log) == [0, 1, 2, 3]
    assert verify(url, "one", writing(4)) == []


def test_processes_write_the_same_objects(tmp_path):
    run(f"file://{tmp_path}/a", "one", writing(5))
    run(f"file://{tmp_path}/b", "one", writing(5), engine="process:2")
    assert objects(f"file://{tmp_path}/a") == objects(f"file://{tmp_path}/b")


def test_later_tasks_get_what_earlier_ones_wrote_as_local_files(tmp_path, url):
    def build(directory) -> bytes:
        first = run(directory, "one", writing(3))
        sources = {"sources": [str(d.folder) for d in first]}
        (done,) = run(
            directory, "two", [Task("t", f"{tasks.__name__}:read", {}, (first[0].output,), sources)]
        )
        return (done.folder / "digest.txt").read_bytes()

    assert build(url) == build(tmp_path)


def test_a_stage_on_an_object_store_goes_on_after_a_failure(tmp_path, url):
    jobs = [*writing(3), Task("bad", f"{tasks.__name__}:fail", {"how": "raise"})]
    with pytest.raises(StageError, match="task 'bad' failed"):
        run(url, "one", jobs)
    assert "/one/stage.json" not in objects(url) and not [name for name in objects(url) if "/bad/" in name]
    run(url, "one", writing(4, log=tmp_path / "log"))
    assert runs(tmp_path / "log") == [3]


def cut(data: bytes) -> bytes | None:
    return data[:-1]


def edit(data: bytes) -> bytes | None:
    return bytes([data[0] ^ 1]) + data[1:]


def lose(data: bytes) -> bytes | None:
    return None


@pytest.mark.parametrize(
    ("ill", "what"), [(cut, "rest.bin"), (lose, "rest.bin"), (cut, ".json"), (edit, ".json")]
)
def test_a_damaged_object_is_made_again(tmp_path, url, ill, what):
    run(url, "one", writing(3))
    before = objects(url)
    (name,) = [name for name in before if "unit-001" in name and name.endswith(what)]
    system, path = fsspec.core.url_to_fs(url)
    data = ill(before[name])
    if data is None:
        system.rm_file(path + name)
    else:
        system.pipe_file(path + name, data)
    lines: list[str] = []
    run(url, "one", writing(3, log=tmp_path / "log"), report=lines.append)
    assert objects(url) == before and runs(tmp_path / "log") == [1]
    assert len(lines) == 1 and "unit-001" in lines[0]


def test_an_edited_object_of_the_same_size_is_found_by_verify(url):
    run(url, "one", writing(2))
    (name,) = [name for name in objects(url) if "unit-001" in name and name.endswith("rest.bin")]
    system, path = fsspec.core.url_to_fs(url)
    system.pipe_file(path + name, edit(objects(url)[name]))
    (line,) = verify(url, "one", writing(2))
    assert "unit-001" in line and "rest.bin was changed" in line


def test_the_first_record_stays(tmp_path, url):
    (task,) = writing(1)
    store = ObjectStore(url, "one")
    for text in ("first", "second"):
        folder = tmp_path / text
        folder.mkdir()
        (folder / "file").write_text(text)
        store.commit(folder, task, text)
    done = store.look(task)
    assert isinstance(done, Done) and done.counts == "first"
    assert (done.folder / "file").read_bytes() == b"first"


def test_other_arguments_have_a_record_of_their_own(url):
    (first,) = run(url, "one", [Task("t", f"{tasks.__name__}:write", {"seed": 1})])
    (second,) = run(url, "one", [Task("t", f"{tasks.__name__}:write", {"seed": 2})])
    assert first.output != second.output
    assert json.loads(objects(url)["/one/stage.json"])["tasks"] == [{"name": "t", "output": second.output}]
    assert run(url, "one", [Task("t", f"{tasks.__name__}:write", {"seed": 1})]) == [first]


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "gcs://bucket/x"])
def test_a_store_that_cannot_be_opened_is_one_error(url):
    if url.startswith("gcs"):
        try:
            import gcsfs  # pyright: ignore[reportMissingImports]
        except ImportError:
            pass
        else:
            pytest.skip(f"gcsfs {gcsfs.__version__} is installed: it would ask the network")
    with pytest.raises(StageError, match=url):
        run(url, "one", writing(1))
