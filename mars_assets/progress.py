"""Progress of long steps: how far, how fast, how much longer.

It writes to any callable that takes a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
Sink = Callable[[str], object]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Progress:
    """Throttled lines of progress.

    Args:
        sink: takes one line of text, e.g. ``context.log.info``; None is silence.
        every: seconds between two lines of one task. A shorter task prints only its closing line.
    """

    def __init__(self, sink: Sink | None = None, every: float = 5.0) -> None:
        self._sink = sink
        self._every = every

    def say(self, text: str) -> None:
        """Write a line at once."""
        if self._sink is not None:
            self._sink(text)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items and report ``what`` as they pass.

        Args:
            items: the items to work through.
            what: a phrase such as "scaling crops".
            total: how many items there are; taken from ``len(items)`` where it has one.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        counter = self.counter(what, total)
        for item in items:
            yield item
            counter.advance()
        counter.close()

    def counter(self, what: str, total: int | None = None, unit: str = "") -> Counter:
        """Create a counter to advance by hand, for loops that are not a plain iteration."""
        return Counter(self, what, total, unit, self._every)


class Counter:
    """The progress of one task. Call ``advance`` after every step and ``close`` at the end."""

    def __init__(self, progress: Progress, what: str, total: int | None, unit: str, every: float) -> None:
        self._progress = progress
        self._what = what
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._every = every
        self._start = self._last = time.monotonic()
        self.done = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps, and write a line if the last is long enough ago.

        ``note`` is appended to it.
        """
        self.done += steps
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._progress.say(self._line(now, note))

    def close(self, note: str = "") -> None:
        """Write the closing line, always, so that the log records what was done."""
        elapsed = time.monotonic() - self._start
        tail = f", {note}" if note else ""
        self._progress.say(f"{self._what}: {self.done}{self._unit} in {_duration(elapsed)}{tail}")

    def _line(self, now: float, note: str) -> str:
        elapsed = now - self._start
        rate = self.done / elapsed if elapsed > 0 else 0.0
        of = f"/{self._total}" if self._total else ""
        text = f"{self._what}: {self.done}{of}{self._unit}, {rate:.3g}/s"
        if self._total and rate > 0:
            text += f", {_duration((self._total - self.done) / rate)} left"
        return f"{text}, {note}" if note else text


SILENT = Progress()
