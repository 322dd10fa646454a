"""Requests that may fail for a while: how often they are tried, how long is waited, and what a server may ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

State: TypeAlias = RetryCallState


class AttemptError(Exception):
    """An attempt failed and another may succeed.

    Args:
        cause: what went wrong, in words.
        after: seconds that the server asks to wait.
    """

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


def attempts(
    most: int,
    wait: Callable[[State], float],
    failed: Callable[[State], None] = lambda _: None,
    sleeping: Callable[[State], None] = lambda _: None,
) -> Retrying:
    """Build a caller that calls a function again when it raises an :class:`AttemptError`, and raises the last one.

    Args:
        most: attempts.
        wait: seconds after an attempt, one of tenacity's; longer where the server asks for it.
        failed: called after each attempt that failed. It may set ``attempt_number`` back to 1.
        sleeping: called before each wait.
    """
    return Retrying(
        retry=retry_if_exception_type(AttemptError),
        stop=stop_after_attempt(most),
        wait=lambda state: max(error_of(state).after, wait(state)),
        after=failed,
        before_sleep=sleeping,
        reraise=True,
    )


def error_of(state: State) -> AttemptError:
    """The error of an attempt that failed."""
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, AttemptError)
    return error


def retry_after(value: str | None) -> float:
    """Read the seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3); 0 if it is neither.

    urllib3's own reading caps them, takes a date without a zone for local time, and raises where it is neither.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
