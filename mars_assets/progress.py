"""Progress reports for long steps: count, rate and time left."""

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
    """A throttled writer of progress lines.

    Args:
        sink: receives each line of text, e.g. ``context.log.info``; None discards them.
        every: seconds between two lines of one task. A shorter task writes only its closing line.
    """

    def __init__(self, sink: Sink | None = None, every: float = 5.0) -> None:
        self._sink = sink
        self._every = every

    def say(self, text: str) -> None:
        """Write a line immediately."""
        if self._sink is not None:
            self._sink(text)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items and report the progress.

        Args:
            items: the items to process.
            what: name of the task, such as "scaling crops".
            total: number of items, by default ``len(items)`` if it has a length.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        counter = self.counter(what, total)
        for item in items:
            yield item
            counter.advance()
        counter.close()

    def counter(self, what: str, total: int | None = None, unit: str = "") -> Counter:
        """Create a counter to advance manually, for loops that are not a plain iteration."""
        return Counter(self, what, total, unit, self._every)


class Counter:
    """The progress of one task.

    Call ``advance`` after every step and ``close`` at the end.
    """

    def __init__(self, progress: Progress, what: str, total: int | None, unit: str, every: float) -> None:
        self._progress = progress
        self._what = what
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._every = every
        self._start = self._last = time.monotonic()
        self.done = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps, and write a line unless the last is too recent.

        ``note`` is appended to it.
        """
        self.done += steps
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._progress.say(self._line(now, note))

    def close(self, note: str = "") -> None:
        """Write the closing line, which is never suppressed."""
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
