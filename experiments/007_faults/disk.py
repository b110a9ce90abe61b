"""A file system of its own for a sweep's folder, which may be filled, frozen, broken and lost as no real one may.

ext4 in an image file, by a loop device: needs root and Linux. What happens to it happens in the kernel: writes meet
ENOSPC, wait, or get EIO, as on the real thing; only the cause is ours.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN of linux/fs/ext4/ext4.h
_WITHOUT_LOG = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: what was not written out is gone, as when the power fails


class Disk:
    """The file system in the file `image`, mounted on `folder`.

    Args:
      megabytes: its size.
    """

    def __init__(self, image: Path, folder: Path, megabytes: int = 512):
        self.folder, self._image = folder, image
        folder.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def fill(self, leave: int) -> None:
        """Takes all space but `leave` bytes, until `empty`."""
        state = os.statvfs(self.folder)
        if state.f_bavail * state.f_frsize <= leave:
            return
        ballast = self.folder / f"ballast-{len(list(self.folder.glob('ballast-*')))}"
        try:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - leave))
        except OSError as error:  # the sweep has written meanwhile
            if error.errno != errno.ENOSPC:
                raise

    def empty(self) -> None:
        """Gives back what `fill` took."""
        for path in self.folder.glob("ballast-*"):
            path.unlink()

    def freeze(self, frozen: float, *, times: int = 1, between: float = 0.0) -> subprocess.Popen[bytes]:
        """Makes every write wait for `frozen` seconds, `times` over; a process of its own ends it whatever happens."""
        command = f"fsfreeze -f {self.folder}; sleep {frozen}; fsfreeze -u {self.folder}; sleep {between};"
        return subprocess.Popen(["sh", "-c", command * times], start_new_session=True)

    def lose(self) -> None:
        """From here on everything meets an input/output error, and what was not written out is gone."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG))
        finally:
            os.close(handle)

    def break_(self) -> None:
        """The kernel finds an error in the file system and makes it read-only, files open for writing or not."""
        device = os.stat(self.folder).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")

    def again(self) -> None:
        """Checks it and mounts it again; nobody may be using it."""
        self.close()
        done = subprocess.run(["fsck.ext4", "-p", str(self._image)], capture_output=True, text=True)
        if done.returncode > 1:  # 1: errors that were mended
            raise OSError(f"fsck of {self._image}: {done.stdout}{done.stderr}")
        self._mount()

    def close(self) -> None:
        """Unmounts it."""
        until = time.monotonic() + 30
        while True:
            done = subprocess.run(["umount", str(self.folder)], capture_output=True, text=True)
            if not done.returncode:
                return
            if time.monotonic() > until:
                raise OSError(f"{self.folder} stays in use: {done.stderr.strip()}")
            time.sleep(0.1)


def why_not() -> str:
    """Empty, or why no such disk can be made here."""
    missing = [name for name in ("mkfs.ext4", "fsck.ext4", "mount", "fsfreeze") if not shutil.which(name)]
    if missing:
        return f"no {' and no '.join(missing)} here"
    if os.geteuid():
        return "needs root"
    if not Path("/dev/loop-control").exists():
        return "no loop devices here"
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def on_a_disk(folder: Path):
    """A Disk on `folder`/disk while the block runs."""
    disk = Disk(folder / "disk.img", folder / "disk")
    try:
        yield disk
    finally:
        disk.close()
        (folder / "disk.img").unlink()
