"""Lockers, each broken in one way on purpose, that the campaign must convict; and the honest one."""

from __future__ import annotations

from tickrunner_trio import PostgresLocker

LOCKERS: dict[str, type[PostgresLocker]] = {"honest": PostgresLocker}
