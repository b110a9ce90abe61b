"""A stub of the gcloud CLI, for what cannot run here: a program of its name that keeps queued resources and makes none.

It knows the four commands that the executor uses, and keeps all it is told in a JSON file beside it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python}
import json, pathlib, sys
place = pathlib.Path({place!r})
memory = json.loads(place.read_text())
arguments = sys.argv[1:]
memory["asked"].append(arguments)
there = memory["slices"]
command, named = arguments[2:4], [a for a in arguments[4:] if not a.startswith("-")]
code = 0
if command == ["queued-resources", "create"]:
    script = next(a for a in arguments if a.startswith("--metadata-from-file=")).partition("startup-script=")[2]
    assert pathlib.Path(script).read_text().startswith("#!/bin/bash")
    if named[0] in there:
        code = 1
        print("ERROR: ALREADY_EXISTS: Resource already exists", file=sys.stderr)
    else:
        there[named[0]] = "WAITING_FOR_RESOURCES"
elif command == ["queued-resources", "list"]:
    listed = {{}} if memory["blind"] else there
    prefix = "projects/p/locations/z/queuedResources/"
    print(json.dumps([{{"name": prefix + n, "state": {{"state": s}}}} for n, s in listed.items()]))
elif command == ["queued-resources", "delete"]:
    del there[named[0]]
elif command == ["tpu-vm", "ssh"]:
    assert there[named[0]] == "ACTIVE"
else:
    code = 2
    print("unrecognized arguments", file=sys.stderr)
place.write_text(json.dumps(memory))
sys.exit(code)
"""


class StubGcloud:
    """The program's memory, read anew each time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._place = folder / "memory.json"
        self._place.write_text(json.dumps({"asked": [], "slices": {}, "blind": False}))
        program = folder / "gcloud"
        program.write_text(_PROGRAM.format(python=sys.executable, place=str(self._place)))
        os.chmod(program, 0o755)

    def memory(self) -> dict[str, Any]:
        return json.loads(self._place.read_text())

    def change(self, **what: Any) -> None:
        """Changes states of slices ({name: state}, None for one that is gone), or whether lists are empty."""
        memory = self.memory()
        memory["slices"] |= what.pop("slices", {})
        memory["slices"] = {name: state for name, state in memory["slices"].items() if state}
        self._place.write_text(json.dumps(memory | what))
