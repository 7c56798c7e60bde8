"""The passes. Each does a bounded number of steps, and each step leaves the store in order.

So a pass may end anywhere: it has nothing more to do, its batch is full, a step raised, it was cancelled or killed.
The next pass, on whichever replica, looks at the catalogue again and goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tickrunner_trio import component_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from .catalogue import Catalogue, CopyPlan, Way
    from .folders import Folders

#: Steps per pass: what takes about half an interval at most, so that a backlog does not make every tick late.
REPLICATE_AT_MOST = 12
REBALANCE_AT_MOST = 8
EXPIRE_AT_MOST = 50
CLEAN_UP_AT_MOST = 50

_log = component_logger("maintenance")


class Maintenance:
    """The maintenance of one store. Every pass returns how many objects or files it dealt with.

    Raises, from every pass: `DatabaseUnavailableError` while the database is away, and what `Folders` raises.

    A folder that is missing, full or broken does not stop the others: the passes that copy leave it out once it has
    failed, do what they can, and raise its `OSError` at the end, so that the tick fails and somebody notices.
    """

    def __init__(self, catalogue: Catalogue, folders: Folders) -> None:
        self._catalogue = catalogue
        self._folders = folders

    async def replicate(self) -> int:
        """Give objects that have too few copies another one."""
        catalogue = self._catalogue
        return await self._copy_many(
            lambda failed: catalogue.next_to_replicate(without=failed), catalogue.add_copy, REPLICATE_AT_MOST
        )

    async def rebalance(self) -> int:
        """Move copies from the fullest folder to the emptiest, until they are even."""
        catalogue = self._catalogue
        return await self._copy_many(
            lambda failed: catalogue.next_to_rebalance(without=failed), catalogue.move_copy, REBALANCE_AT_MOST
        )

    async def expire(self) -> int:
        """Delete objects that are past their time; their files go to the clean-up queue."""
        return await _repeat(self._catalogue.expire_one, EXPIRE_AT_MOST)

    async def clean_up(self) -> int:
        """Remove the files that are due in the clean-up queue. One that resists stays there, for later."""
        removed = 0

        async def step() -> bool:
            nonlocal removed
            file = await self._catalogue.claim_file()
            if file is None:
                return False
            try:
                await self._folders.remove(file)
            except OSError as error:
                _log.warning("could not remove %s from folder %s: %s", file.name, file.folder, error)
                await self._catalogue.removal_failed(file, error)
            else:
                await self._catalogue.file_removed(file)
                removed += 1
            return True

        await _repeat(step, CLEAN_UP_AT_MOST)
        return removed

    async def clean_up_with_strays(self) -> int:
        """Enqueue what lies in the folders and is in no table, then clean up.

        The last safety net, for what the order of writing cannot cover: a machine that lost power and brought a
        removed file back, a backup that was restored, a writer that was frozen for minutes and then killed.
        """
        strays = await self._catalogue.enqueue_strays(await self._folders.list())
        if strays:
            _log.warning("found %d files that the catalogue does not know: enqueued for removal", strays)
        return await self.clean_up()

    async def _copy_many(
        self,
        next_plan: Callable[[Collection[Way]], Awaitable[CopyPlan | None]],
        confirm: Callable[[CopyPlan], Awaitable[bool]],
        at_most: int,
    ) -> int:
        # By way and not by folder, since an error does not always say which of the two folders is at fault: a broken
        # folder fails once with each of the others, and then the pass works around it.
        failed: dict[Way, OSError] = {}

        async def step() -> bool:
            plan = await next_plan(failed.keys())
            if plan is None:
                return False
            try:
                return await self._copy(plan, confirm)
            except OSError as error:
                _log.warning("could not copy from folder %s to folder %s: %s", *plan.way, error)
                failed[plan.way] = error
                return True

        done = await _repeat(step, at_most)
        if failed:
            raise next(iter(failed.values()))
        return done

    async def _copy(self, plan: CopyPlan, confirm: Callable[[CopyPlan], Awaitable[bool]]) -> bool:
        # First: while a folder is missing its announcements cannot be cleaned up, and every pass would add some.
        await self._folders.check(plan.target.folder)
        await self._catalogue.announce(plan.target)
        try:
            await self._folders.copy(plan.source, plan.target, sha256=plan.sha256)
        except FileNotFoundError:
            # Expired or moved by another service since the plan was made; if it was not, a file is missing.
            if await self._catalogue.is_copy(plan.source):  # noqa: ASYNC120 - a cancelled pass reports no missing file
                raise
            return False
        return await confirm(plan)


async def _repeat(step: Callable[[], Awaitable[bool]], at_most: int) -> int:
    """Repeat ``step`` until it says that it did nothing, at most so many times; return how often it did something."""
    for done in range(at_most):
        if not await step():
            return done
    return at_most
