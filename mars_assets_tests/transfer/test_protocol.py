"""Settings of a transfer study."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mars_assets.errors import MarsError
from mars_assets.transfer.protocol import TransferStudy, random_of, shuffled_of, study_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": [0.5, 1.5]}, "1.5"),
        ({"fractions": [0.0]}, "above 0"),
        ({"fractions": []}, "fractions"),
        ({"encoders": ["galileo_nanno"]}, "galileo_nano"),
        ({"folds": 1}, "folds"),
        ({"seeds": 0}, "seeds"),
        ({"ways": ["magic"]}, "ways"),
        ({"way": ["linear"]}, "way"),
    ],
)
def test_what_is_refused(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        TransferStudy(**settings)


def test_settings_are_read_from_a_run_configuration(tmp_path: Path):
    file = tmp_path / "study.yaml"
    file.write_text("ops:\n  transfer_study:\n    config: {seeds: 3, ways: [knn, knn]}\n")
    assert study_of(file) == TransferStudy(seeds=3, ways=["knn"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ops: {cls_model: {config: {steps: 3}}}", "no settings of transfer_study"),
        ("- 1", "no settings of transfer_study"),
        ("ops: [", "no settings of transfer_study"),
        ("ops: {transfer_study: {config: {seeds: 0, magic: 1}}}", "seeds.*magic"),
    ],
)
def test_a_file_without_valid_settings_is_refused(tmp_path: Path, content: str, message: str):
    file = tmp_path / "study.yaml"
    file.write_text(content)
    with pytest.raises(MarsError, match=f"study.yaml.*{message}"):
        study_of(file)
    with pytest.raises(MarsError, match="No such file"):
        study_of(tmp_path / "none.yaml")


def test_repeated_settings_count_once():
    study = TransferStudy(fractions=[1, 0.5, 0.5], encoders=["galileo_nano", "hog", "galileo_nano"])
    assert study.fractions == [0.5, 1.0]
    assert study.encoders == ["galileo_nano", "hog"]


@pytest.mark.parametrize(
    ("encoder", "random"),
    [("prithvi_weights", "random"), ("mars_weights", "random"), ("galileo_nano", "random:galileo_nano")],
)
def test_names_of_controls(encoder: str, random: str):
    assert random_of(encoder) == random
    assert shuffled_of(encoder) == f"shuffled:{encoder}"
