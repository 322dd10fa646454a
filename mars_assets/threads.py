"""Threads that read ahead or work on several files at once.

Inputs are read while the device computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Generator[Result]:
    """Apply a function in threads, in order.

    At most ``ahead`` results precede the consumer.
    """
    pool = ThreadPoolExecutor(4)
    try:
        pending: deque[Any] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # where the consumer stops early
