"""Attempts, and what a server asks to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mars_assets.retries import AttemptError, State, attempts, error_of, retry_after


def test_attempts_end_and_wait_as_long_as_the_server_asks() -> None:
    slept: list[float] = []
    failures = iter([AttemptError("busy", 0.02), AttemptError("broken"), AttemptError("gone")])

    def fail() -> None:
        raise next(failures)

    calls = attempts(
        3, lambda state: 0.001 * state.attempt_number, before_sleep=lambda s: slept.append(s.upcoming_sleep)
    )
    with pytest.raises(AttemptError, match="gone"):
        calls(fail)
    assert slept == [0.02, 0.002]
    assert next(failures, None) is None


def test_progress_earns_the_attempts_anew_and_other_errors_are_not_tried_again() -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(len(tried))
        if len(tried) == 5:
            raise ValueError("no attempt helps")
        raise AttemptError("broken")

    def anew(state: State) -> None:
        assert str(error_of(state)) == "broken"
        state.attempt_number = 1

    with pytest.raises(ValueError, match="no attempt helps"):
        attempts(2, lambda _: 0, after=anew)(fail)
    assert len(tried) == 5


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after(" 7 ") == 7
    soon = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after(format_datetime(soon, usegmt=True)) == pytest.approx(90, abs=2)
    assert retry_after(soon.strftime("%a, %d %b %Y %H:%M:%S")) == pytest.approx(90, abs=2)
    for header in (None, "", "soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert retry_after(header) == 0
