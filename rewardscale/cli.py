"""What all commands do alike: one line for an error, and the same exit codes."""

import sys
from collections.abc import Callable

from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.stages import StageError

UNUSABLE = 2  # bad input, or the machine's fault
INTERRUPTED = 130

RESUMED = "the same command goes on where this one stopped"


def exit_code(command: Callable[[], int], *, kept: str = "", interrupted: str = RESUMED) -> int:
    """Runs `command` and returns its exit code, or says what went wrong in one line: 2, or 130 after Ctrl-C.

    Args:
      kept: what an error of the file system adds about what was written so far.
      interrupted: what Ctrl-C says.
    """
    try:
        return command()
    except (ConfigError, DataError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}{kept and f'; {kept}'}", file=sys.stderr)
    except KeyboardInterrupt:
        print("; ".join(filter(None, ["interrupted", interrupted])), file=sys.stderr)
        return INTERRUPTED
    return UNUSABLE
