"""Versions of the ways of computing."""

import re

from mars_assets import code_versions
from mars_assets.code_versions import COUNTING, EVALUATION, code_version


def test_no_two_ways_of_computing_share_a_version() -> None:
    versions = [value for name, value in vars(code_versions).items() if name.isupper() and isinstance(value, str)]
    assert len(versions) == len(set(versions)) > 15
    assert all(re.fullmatch(r"[a-z-]+ [1-9]\d*", version) for version in versions)


def test_an_asset_of_several_computations_names_them_all() -> None:
    assert code_version(EVALUATION, COUNTING) == f"{EVALUATION}, {COUNTING}"
    assert code_version(EVALUATION) == EVALUATION
