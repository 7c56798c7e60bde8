"""The fault campaign: `nox -s faults -- --minutes 10 --seed 1`.

All faults in random order, again and again until the time is over; then the verdict. Exit status 1 if anything was
convicted. The short form of it, each fault once, is in the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from postgres_view import locks

from faults.arena import open_arena
from faults.injections import KNOWN, KNOWN_OF_A_SMALL_SERVER, SERVER, SMALL_SERVER
from faults.judge import Fault, judge
from faults.record import boot_time
from faults.told import told
from tickrunner_trio._local_postgres import local_postgres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults.arena import Arena
    from faults.injections import Known
    from faults.judge import Evidence, Verdict
    from tickrunner_trio._local_postgres import LocalPostgres

_STEADY_SECONDS = 3.0

#: What the library logs only if it has a bug: its thread died, or a service did.
_BUGS = ("died of a bug", "crashed;")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a campaign."""

    evidence: Evidence
    verdict: Verdict
    findings: tuple[str, ...]  #: What was found broken beside the runs: leaks, locks left, replicas that died.
    skipped: tuple[str, ...]  #: Faults that this machine cannot have, with the reason.

    @property
    def broken(self) -> tuple[str, ...]:
        return (*self.verdict.broken, *self.findings)

    def lines(self) -> list[str]:
        """All of it, to read."""
        return told(self.evidence, self.verdict, findings=self.findings, skipped=self.skipped)


async def campaign(
    server: LocalPostgres,
    faults: Sequence[str],
    *,
    rng: random.Random,
    until: float = 0.0,
    directory: Path,
    **options: Any,
) -> Result:
    """Inject each of the faults once, in random order, and again as long as it is not later than ``until``."""
    known = KNOWN | KNOWN_OF_A_SMALL_SERVER
    reasons = {name: known[name].why_not() for name in faults}
    skipped = tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    possible = [name for name, reason in reasons.items() if reason is None]
    async with open_arena(server, directory, rng, **options) as arena:
        await arena.settled()
        await arena.steady_for(_STEADY_SECONDS)
        before = await _reports(arena)
        while True:
            rng.shuffle(possible)
            for name in possible:
                await _injected(arena, name, known[name])
            if boot_time() >= until:
                break
        await arena.settled()
        await arena.steady_for(_STEADY_SECONDS)
        await _look_for_leaks(arena, before)
        await _drained(arena)
        evidence = arena.evidence()
        findings = tuple(arena.findings)
    return Result(evidence=evidence, verdict=judge(evidence), findings=findings, skipped=skipped)


async def _injected(arena: Arena, name: str, known: Known) -> None:
    await arena.settled()
    began_at = boot_time()
    print(f"  {name} ...", end="", flush=True)
    victim = await known.inject(arena)
    healed_at = boot_time()
    since = began_at if known.others_go_on else healed_at
    arena.faults.append(
        Fault(name=name, replica=victim, began_at=began_at, healed_at=healed_at, succeeded_from=since)
    )
    await arena.all_ran(since=since)
    print(f" {victim or 'the server'}, {healed_at - began_at:.1f} s; all ran {boot_time() - since:.1f} s later")
    arena.findings += [died for replica in arena.replicas.values() if (died := replica.died())]


async def _reports(arena: Arena) -> dict[str, dict[str, Any]]:
    return {name: await replica.told("report") for name, replica in arena.replicas.items()}


async def _look_for_leaks(arena: Arena, before: dict[str, dict[str, Any]]) -> None:
    for name, after in (await _reports(arena)).items():
        for kind in ("descriptors", "threads"):
            if name in before and before[name][kind] != after[kind]:
                arena.findings.append(f"{name} had the {kind} {before[name][kind]} and now has {after[kind]}")


async def _drained(arena: Arena) -> None:
    for name, replica in arena.replicas.items():
        if (status := await replica.drain()) != 0:
            arena.findings.append(f"{name} ended with status {status} when it was drained")
        log = replica.log.read_text()
        arena.findings += [f"{name} logged {words!r}:\n{log[-2000:]}" for words in _BUGS if words in log]
    if left := await trio.to_thread.run_sync(locks, arena.server.dsn):
        arena.findings.append(f"locks are left although all replicas have drained: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s faults --", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, at least one round of all faults")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of a campaign to repeat")
    parser.add_argument("--locker", default="honest", help="a locker that is broken on purpose, to see it convicted")
    parser.add_argument("--only", default="", help="faults whose names contain this")
    parsed = parser.parse_args()
    print(f"seed {parsed.seed}; again by: nox -s faults -- --minutes {parsed.minutes:g} --seed {parsed.seed}")
    rng = random.Random(parsed.seed)
    broken = False
    ends_at = boot_time() + 60 * parsed.minutes
    for known, settings in ((KNOWN_OF_A_SMALL_SERVER, SMALL_SERVER), (KNOWN, SERVER)):
        faults = [name for name in known if parsed.only in name]
        if not faults:
            continue
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(local_postgres(settings=settings))
            until = ends_at if known is KNOWN else 0.0
            run = functools.partial(
                campaign, server, faults, rng=rng, until=until, directory=directory, locker=parsed.locker
            )
            result = trio.run(run)
        print("\n".join(result.lines()))
        broken = broken or bool(result.broken)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
