"""docs/pgbouncer.md: the pools of its configuration take the locks, and refuse them, as the page shows."""

from __future__ import annotations

import configparser
from typing import TYPE_CHECKING

from page_terminal import terminal
from pages import page
from pgbouncer import pgbouncer

if TYPE_CHECKING:
    from pathlib import Path

    from tickrunner_trio._local_postgres import LocalPostgres

PAGE = page("pgbouncer")


def test_its_pools_do_as_it_says(tmp_path: Path, postgres: LocalPostgres) -> None:
    configuration = configparser.ConfigParser()
    configuration.read_string(PAGE.blocks("ini")[0])
    where = "host=db dbname=app "
    pools = {name: settings.removeprefix(where) for name, settings in configuration["databases"].items()}
    assert all(settings.startswith("pool_mode=") for settings in pools.values())
    with pgbouncer(postgres, pools=pools) as bouncer:
        replaced = {f"host=pgbouncer dbname={pool}": bouncer.dsn(pool) for pool in pools}
        with terminal(tmp_path, replaced) as reader:
            reader.write("myapp.py", page("deploy").program("myapp.py"))
            for block in PAGE.blocks("console"):
                reader.follow(block)
