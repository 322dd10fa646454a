"""What the models' assets refuse before they train."""

import pandas as pd
import pytest

from mars_assets.assets.models import _check_comparable
from mars_assets.errors import ProvenanceError
from mars_assets.lake import Lake, write_json
from mars_assets.models import make_current, start_version

IMAGES = pd.DataFrame({"image_id": ["a"], "split": ["train"], "observation": ["A"]})


def test_a_model_is_not_judged_on_chips_of_other_statistics(lake: Lake) -> None:
    _check_comparable(lake, "seg_model", "v1")  # there is none in use
    folder = start_version(lake, "seg_model", "abc", IMAGES)
    write_json(folder / "config.json", {"provenance": {"statistics": "v1"}})
    make_current(lake, "seg_model", "abc", {})
    _check_comparable(lake, "seg_model", "v1")
    with pytest.raises(ProvenanceError, match=r"'v1'.*'v2'.*without retrain"):
        _check_comparable(lake, "seg_model", "v2")
