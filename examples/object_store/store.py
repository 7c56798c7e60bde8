"""Putting objects in. An object is there once its first copy is; replication makes the second."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

from .folders import FOLDERS, File

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .folders import Folders

#: New objects all go to one folder, as if the others had been bought later: rebalancing always has something to do.
INBOX = FOLDERS[0]

SEEDS = 40


class Store:
    """What users of the object store call."""

    def __init__(self, catalogue: Catalogue, folders: Folders) -> None:
        self._catalogue = catalogue
        self._folders = folders

    async def put(self, key: str, data: bytes, *, expires_in: float | None = None) -> bool:
        """Store ``data`` durably under ``key``.

        Objects never change: if there is one of that key, it stays as it is.

        Args:
            key: the name of the object.
            data: what it holds.
            expires_in: seconds after which expiry deletes it; None: never.

        Returns:
            Whether the object is a new one.
        """
        file = File.new(INBOX)
        await self._catalogue.announce(file)
        await self._folders.write(file, data)
        sha256 = hashlib.sha256(data).hexdigest()
        return await self._catalogue.add_object(key, len(data), sha256, file, expires_in=expires_in)

    async def seed(self) -> int:
        """Create tables and folders, put in the seeds that are not there, and return how many they were.

        Every fourth seed expires, one after the other from the fifth second on.
        """
        await self._catalogue.create()
        await self._folders.create()
        present = await self._catalogue.keys()
        new = 0
        for number in range(SEEDS):
            key = f"seed-{number:02}"
            if key not in present:
                new += await self.put(key, sample(key), expires_in=5 + number / 4 if number % 4 == 3 else None)
        return new

    async def put_samples(self, count: int, *, expires_in: float) -> None:
        """Put ``count`` new objects in; every third expires after ``expires_in`` seconds."""
        for number in range(count):
            key = f"sample-{uuid.uuid4().hex}"
            await self.put(key, sample(key), expires_in=expires_in if number % 3 == 2 else None)


def sample(key: str) -> bytes:
    """Return something to store: up to 48 KiB, always the same for the same key."""
    size = 1024 * (1 + int.from_bytes(hashlib.sha256(key.encode()).digest()[:2]) % 48)
    return hashlib.shake_128(key.encode()).digest(size)
