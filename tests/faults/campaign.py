"""The fault campaign: `nox -s faults -- --minutes 10 --seed 1`.

First the lockers that are broken on purpose, which must be convicted, or the campaign is worth nothing. Then all faults
in random order, again and again until the time is over, in several arenas at once; then a storm of cancellations. Exit
status 1 if anything was found broken. Without ``--minutes`` each fault comes once, which takes about two minutes.

The seed decides the order of the faults, the victims among those that could be, and the pauses; what the replicas do is
up to them and to the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from postgres_view import locks

from faults.arena import open_arena
from faults.broken_lockers import GIVEN_AWAY_BY
from faults.injections import KNOWN, SERVER, SMALL_SERVER
from faults.judge import Fault, judge
from faults.record import boot_time
from faults.storm import storm
from faults.told import told
from tickrunner_trio._local_postgres import local_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from faults.arena import Arena
    from faults.judge import Evidence, Overlap, Verdict
    from tickrunner_trio._local_postgres import LocalPostgres

_ARENAS = 2
_STEADY_SECONDS = 4.0
_ATTEMPTS = 10  #: To convict a broken locker: the fault must meet a run, and not each time does one overlap.

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
    locker: str = "honest",
) -> Result:
    """Inject each of the faults once, in random order, and again as long as it is not later than ``until``."""
    reasons = {name: KNOWN[name].why_not() for name in faults}
    skipped = tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    possible = [name for name, reason in reasons.items() if reason is None]
    async with open_arena(server, directory, rng, locker=locker) as arena:
        await arena.settled()
        await arena.steady_for(_STEADY_SECONDS)
        before = await _reports(arena)
        while True:
            rng.shuffle(possible)
            for name in possible:
                await _injected(arena, name)
            if boot_time() >= until:
                break
        await arena.settled()
        await arena.steady_for(_STEADY_SECONDS)
        await _look_for_leaks(arena, before)
        await _drained(arena)
        evidence = arena.evidence()
        findings = tuple(arena.findings)
    return Result(evidence=evidence, verdict=judge(evidence), findings=findings, skipped=skipped)


async def convicted(server: LocalPostgres, locker: str, *, rng: random.Random, directory: Path) -> Overlap | None:
    """Return the overlap that convicts a locker which is broken on purpose; None if it gets away with it.

    Each attempt has replicas of its own: such a locker may not recover from the fault, and lose session after session.
    """
    for attempt in range(_ATTEMPTS):
        scene = directory / str(attempt)
        scene.mkdir()
        async with open_arena(server, scene, rng, locker=locker) as arena:
            await _injected(arena, GIVEN_AWAY_BY[locker])
            if overlaps := judge(arena.evidence()).convicting:
                return overlaps[0]
    return None


async def _injected(arena: Arena, name: str) -> None:
    known = KNOWN[name]
    await arena.settled()
    arena.struck_at = boot_time()
    victim = await known.inject(arena)
    began_at, healed_at = arena.struck_at, boot_time()
    since = began_at if known.others_go_on else healed_at
    arena.faults.append(Fault(name=name, replica=victim, began_at=began_at, healed_at=healed_at, succeeded_from=since))
    await arena.all_ran(since=since)
    of = victim or "the server"
    print(f"  {name} of {of}, {healed_at - began_at:.1f} s; all ran {boot_time() - since:.1f} s later", flush=True)
    arena.findings += [died for replica in arena.replicas.values() if (died := replica.died())]


async def _reports(arena: Arena) -> dict[str, dict[str, Any]]:
    return {name: await replica.told("report") for name, replica in arena.replicas.items()}


async def _look_for_leaks(arena: Arena, before: dict[str, dict[str, Any]]) -> None:
    """See whether a replica has more descriptors or threads than at first; it may be opening a session just now."""
    for attempt in range(5):
        await trio.sleep(attempt)
        more = [
            f"{name} has the {kind} {grown} more than before the faults"
            for name, after in (await _reports(arena)).items()
            for kind in ("descriptors", "threads")
            if name in before and (grown := sorted((Counter(after[kind]) - Counter(before[name][kind])).elements()))
        ]
        if not more:
            return
    arena.findings += more


async def _drained(arena: Arena) -> None:
    for name, replica in arena.replicas.items():
        if (status := await replica.drain()) != 0:
            arena.findings.append(f"{name} ended with status {status} when it was drained")
        log = replica.log.read_text()
        arena.findings += [f"{name} logged {words!r}:\n{log[-2000:]}" for words in _BUGS if words in log]
    if left := await trio.to_thread.run_sync(locks, arena.server.dsn):
        arena.findings.append(f"locks are left although all replicas have drained: {left}")


async def _convictions(seed: str) -> list[str]:
    """Try the lockers that are broken on purpose, all at once; return what is wrong with the campaign."""
    acquitted: list[str] = []

    async def try_one(locker: str) -> None:
        async with _server() as (server, directory):
            overlap = await convicted(server, locker, rng=random.Random(f"{seed} {locker}"), directory=directory)
        if overlap is None:
            acquitted.append(f"the locker that {locker} was not convicted")
        else:
            print(f"the locker that {locker} is convicted: {overlap.sentence}", flush=True)

    async with trio.open_nursery() as nursery:
        for locker in GIVEN_AWAY_BY:
            nursery.start_soon(try_one, locker)
    return acquitted


async def _campaigns(seed: str, faults: Sequence[str], until: float, locker: str) -> list[str]:
    """Divide the faults among arenas, in all of which it goes on at once; return what was found broken."""
    small = [name for name in faults if KNOWN[name].needs_small_server]
    rest = [name for name in faults if name not in small]
    random.Random(seed).shuffle(rest)
    shares = [(SERVER, rest[index::_ARENAS]) for index in range(_ARENAS)] + [(SMALL_SERVER, small)]
    broken: list[str] = []

    async def one(number: int, settings: dict[str, int], share: list[str]) -> None:
        rng = random.Random(f"{seed} {number}")
        async with _server(settings) as (server, directory):
            # That of a small server is soon over: it has but a few faults.
            ends_at = until if settings is SERVER else 0.0
            result = await campaign(server, share, rng=rng, until=ends_at, directory=directory, locker=locker)
        print("\n".join(["", f"arena {number}:", *result.lines()]), flush=True)
        broken.extend(result.broken)

    async with trio.open_nursery() as nursery:
        for number, (settings, share) in enumerate(shares, 1):
            if share:
                nursery.start_soon(one, number, settings, share)
    return broken


@contextlib.asynccontextmanager
async def _server(settings: dict[str, int] | None = None) -> AsyncGenerator[tuple[LocalPostgres, Path]]:
    """A server of its own and a directory, which are gone afterwards."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Not in a worker thread: the server would end with it.
        yield stack.enter_context(local_postgres(settings=settings)), directory


async def _whole(parsed: argparse.Namespace) -> list[str]:
    seed, seconds = str(parsed.seed), 60 * parsed.minutes
    broken: list[str] = []
    is_whole = not (parsed.only or parsed.ledger)
    if is_whole:
        broken += await _convictions(seed)
    names = [name for name in KNOWN if parsed.only in name]
    locker = "honest, with a ledger" if parsed.ledger else "honest"
    broken += await _campaigns(seed, names, boot_time() + seconds, locker)
    if is_whole:
        async with _server() as (server, _):
            stormed = await storm(server, seconds=60.0 if seconds else 15.0, rng=random.Random(seed))
        print("\n".join(["", *stormed.lines()]))
        broken += stormed.broken
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s faults --", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long to inject faults; at least each once")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of a campaign to repeat")
    parser.add_argument("--only", default="", help="just the faults whose names contain this")
    parser.add_argument(
        "--ledger", action="store_true", help="with lockers that keep a ledger; no broken ones, no storm"
    )
    parsed = parser.parse_args()
    ledger = " --ledger" if parsed.ledger else ""
    print(f"seed {parsed.seed}; again by: nox -s faults -- --minutes {parsed.minutes:g} --seed {parsed.seed}{ledger}")
    broken = trio.run(_whole, parsed)
    print("\n".join(["", *(f"BROKEN: {sentence}" for sentence in broken)]) if broken else "\nAll demands were met.")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
