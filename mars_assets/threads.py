"""Threads that read ahead or work on several files at once.

Inputs are read while the device computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Generator[Result]:
    """Apply a function in four threads, in order.

    At most ``ahead`` results precede the consumer.
    """
    with ThreadPoolExecutor(4) as pool:
        yield from in_order(pool, function, items, ahead)


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result]:
    """Apply a function in the threads of a pool, and yield the results in order.

    At most ``ahead`` results precede the consumer.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:  # where the consumer stops early
            future.cancel()
