"""The files: each is written whole or not at all, under a name that is never used again.

The caller announces a file before it is written and confirms it afterwards (see `object_store`); this module sees to
what lies between: temporary name, flush, rename, flush of the folder. The rename is what lets anybody who looks into a
folder (a backup, a person) take every file without the suffix for a complete one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
    from pathlib import Path

#: The folders of the store. In real life these are disks, buckets, or machines.
FOLDERS = ("a", "b", "c")

PARTIAL = ".partial"
CHUNK_SIZE = 16 * 1024


class CorruptFileError(Exception):
    """A file does not hold what the catalogue says that it holds.

    Files are checked when they are copied, and only then: one that rots or is truncated after its object has both
    copies is not noticed, unless rebalancing happens to move it. What would notice is a scrubber, a service that reads
    every copy from time to time; this example has none.
    """


@dataclass(frozen=True, slots=True)
class File:
    """Where a file is, or will be."""

    folder: str
    name: str

    @classmethod
    def new(cls, folder: str) -> File:
        """Return a file in ``folder`` under a name that nobody has used or will use."""
        return cls(folder, uuid.uuid4().hex)


class Folders:
    """The folders under one root.

    Args:
        root: the directory that holds them.
        chunk_delay: seconds to wait after each chunk of 16 KiB, as a slow disk makes one wait: with files as small as
            this example's there would be nothing to watch otherwise.

    Every method raises `OSError` as the file system does. **Cancellation handling:** each stops at the next chunk or
    the next call to the file system, and leaves at worst a partial file behind, for the clean-up.
    """

    def __init__(self, root: Path, *, chunk_delay: float = 0.005) -> None:
        self._root = trio.Path(root)
        self._chunk_delay = chunk_delay

    async def create(self) -> None:
        """Create the folders that are not there."""
        for folder in FOLDERS:
            await (self._root / folder).mkdir(parents=True, exist_ok=True)

    async def missing(self, folders: Iterable[str]) -> list[str]:
        """Return those of ``folders`` that are not there."""
        return [folder for folder in folders if not await (self._root / folder).is_dir()]

    async def check(self, folder: str) -> None:
        """Raise `FileNotFoundError` if ``folder`` is not there."""
        if await self.missing([folder]):
            raise FileNotFoundError(errno.ENOENT, "folder is missing: mount it", str(self._root / folder))

    async def write(self, file: File, data: bytes) -> None:
        """Write ``data`` durably."""
        async with self._writing(file) as write:
            for start in range(0, len(data), CHUNK_SIZE):
                await write(data[start : start + CHUNK_SIZE])

    async def copy(self, source: File, target: File, *, sha256: str) -> None:
        """Copy ``source`` to ``target`` durably.

        Raises:
            CorruptFileError: ``source`` is not what ``sha256`` says; ``target`` was not written.
            FileNotFoundError: ``source`` is not there.
        """
        digest = hashlib.sha256()
        async with await trio.open_file(self._path(source), "rb") as reader, self._writing(target) as write:
            while chunk := await reader.read(CHUNK_SIZE):
                digest.update(chunk)
                await write(chunk)
            if digest.hexdigest() != sha256:  # pragma: no branch - the way out of two contexts is not seen
                raise CorruptFileError(
                    f"{self._path(source)} has the checksum {digest.hexdigest()}, the catalogue says {sha256}: "
                    "restore it by hand, from another copy if the object has one (compare its checksum first), "
                    "else from a backup"
                )

    async def remove(self, file: File) -> None:
        """Remove ``file``, whole or partial, durably. It need not be there; its folder must."""
        path = self._path(file)
        await path.with_name(path.name + PARTIAL).unlink(missing_ok=True)
        await path.unlink(missing_ok=True)
        await trio.to_thread.run_sync(_sync_folder, path.parent)

    async def list(self) -> list[File]:
        """Return every file there is, whole or partial."""
        return [
            File(folder, path.name.removesuffix(PARTIAL))
            for folder in FOLDERS
            for path in await (self._root / folder).iterdir()
        ]

    @asynccontextmanager
    async def _writing(self, file: File) -> AsyncGenerator[Callable[[bytes], Awaitable[None]], None]:
        path = self._path(file)
        partial = path.with_name(path.name + PARTIAL)
        async with await trio.open_file(partial, "xb") as writer:

            async def write(chunk: bytes) -> None:
                await writer.write(chunk)
                await trio.sleep(self._chunk_delay)

            yield write
            await writer.flush()
            await trio.to_thread.run_sync(os.fsync, writer.fileno())
        await partial.rename(path)
        await trio.to_thread.run_sync(_sync_folder, path.parent)

    def _path(self, file: File) -> trio.Path:
        return self._root / file.folder / file.name


def _sync_folder(folder: trio.Path) -> None:
    # A rename or a removal is durable only once the folder itself has been flushed.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
