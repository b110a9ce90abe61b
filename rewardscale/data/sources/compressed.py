"""Files opened by what their name says they are compressed with, and what a damaged one raises."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

import zstandard

SUFFIXES = (".gz", ".xz", ".zst", ".bz2")
# What reading a truncated or overwritten file raises, by format.
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_CHUNK = 1 << 20
_SIP = 1 << 10  # of compressed data at once: four bytes of it may stand for 128 KiB


def split_suffix(name: str) -> tuple[str, str]:
    """("train.jsonl", ".gz") of "train.jsonl.gz"; the second is "" for a plain file."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)], suffix
    return name, ""


def open_binary(path: Path) -> io.BufferedIOBase:
    """The file's bytes, decompressed. Reading raises one of DAMAGED where the file is."""
    match split_suffix(path.name)[1]:
        case ".gz":
            return gzip.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case ".zst":
            return io.BufferedReader(_Zstandard(path.open("rb")), _CHUNK)
        case _:
            return io.BufferedReader(path.open("rb", buffering=0), _CHUNK)


class _Zstandard(io.RawIOBase):
    """Frames one after the other. Unlike the library's reader it notices that the last one is cut short."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._frame: Any = None
        self._waiting = memoryview(b"")  # compressed
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            self._waiting = self._waiting or memoryview(self._file.read(_CHUNK))
            if not self._waiting:
                if self._frame is not None:
                    raise EOFError("the compressed data end in the middle of a frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            sip = self._waiting[:_SIP]
            self._ready = memoryview(self._frame.decompress(sip))
            left = 0
            if self._frame.eof:
                left = len(self._frame.unused_data)
                self._frame = None
            self._waiting = self._waiting[len(sip) - left :]
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
