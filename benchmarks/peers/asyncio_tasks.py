"""A bare asyncio task per service, on the standard library's loop."""

from __future__ import annotations

import asyncio

from ..lateness import INTERVAL, Watch


def lateness(services: int, lead: float, seconds: int) -> dict[str, float]:
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        now = asyncio.get_running_loop().time
        watch = Watch(services, lead, now)

        async def loop(slot: float) -> None:
            due = slot
            while True:
                await asyncio.sleep(due - now())
                watch.ran(slot)
                due += INTERVAL

        tasks = [asyncio.create_task(loop(slot)) for slot in watch.slots]
        figures = await watch.look(asyncio.sleep, seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return figures

    return asyncio.run(main())
