"""Exports with random changes: read, or refused with a message, and never a row that contradicts its files.

``--hypothesis-profile=long`` goes on for an hour or so. ``mars_assets_tests/fuzz_exports.py`` is guided by coverage.
"""

from random import Random

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from mars_assets_tests import fuzz_exports
from mars_assets_tests.changes import fuzz
from mars_assets_tests.labels.fuzz import changed_inbox, check_ingest, packed, seeds, shown


@pytest.mark.slow
@given(random=st.randoms(use_true_random=False))
@fuzz
def test_a_changed_export_is_read_or_refused(random: Random) -> None:
    seed = random.choice(seeds())
    inbox = changed_inbox(seed, random)
    note(shown(inbox))
    check_ingest(*[seed] * (not random.randrange(4)), inbox)


def test_the_guided_fuzz_runs_on_a_seed() -> None:
    assert fuzz_exports.check(packed(seeds()[0]))
    assert not fuzz_exports.check(b"")
