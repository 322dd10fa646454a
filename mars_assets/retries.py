"""Requests that may fail: retries, waits as servers ask, errors without secrets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar

import requests
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

State: TypeAlias = RetryCallState
T = TypeVar("T")


class AttemptError(Exception):
    """An attempt failed and another may succeed.

    Args:
        cause: description of the failure.
        after: seconds that the server asks to wait.
    """

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


def attempts(most: int, wait: Callable[[State], float], **callbacks: Any) -> Retrying:
    """Build a caller that retries a function on :class:`AttemptError`.

    The last error is raised.

    Args:
        most: maximum number of attempts.
        wait: one of tenacity's functions for the seconds after an attempt; the wait is longer if the server asks for
            it.
        callbacks: tenacity's ``after``, called after each failed attempt, which may reset ``attempt_number`` to 1, and
            ``before_sleep``; both take a ``State``.
    """
    return Retrying(
        retry=retry_if_exception_type(AttemptError),
        stop=stop_after_attempt(most),
        wait=lambda state: max(error_of(state).after, wait(state)),
        reraise=True,
        **callbacks,
    )


def error_of(state: State) -> AttemptError:
    """Return the error of a failed attempt."""
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, AttemptError)
    return error


def concealing_errors(
    call: Callable[[], T],
    replacement: Callable[[Exception], Exception],
    errors: tuple[type[Exception], ...] = (requests.RequestException, urllib3.exceptions.HTTPError),
) -> T:
    """Call a function, and raise replacements of its errors.

    The libraries' errors quote addresses with keys, headers and a proxy's password, and Dagster stores the whole chain
    of errors that led to one. The replacement is raised outside the clause, so that the original is not its context.
    """
    try:
        return call()
    except errors as error:
        replaced = replacement(error)
    raise replaced


def retry_after(value: str | None) -> float:
    """Parse a Retry-After header to seconds; 0 if it is neither a number nor a date.

    See RFC 9110, 10.2.3. urllib3's own parser caps the seconds, takes a date without a zone for local time, and raises
    an error for other text.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
