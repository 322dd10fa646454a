from typing import Any

import dagster as dg
import pandas as pd
import pytest
import torch

from mars_assets.assets.metadata import MAX_ROWS, cached_metadata, mendable, table
from mars_assets.assets.models import model_config
from mars_assets.assets.run_config import recipe_from
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.task import CLASSIFICATION
from mars_assets.errors import MarsError
from mars_assets.lake import Lake


def test_what_people_can_mend_fails_once_with_its_message() -> None:
    with pytest.raises(dg.Failure, match=r"a\.tif is damaged") as caught, mendable():
        raise MarsError("a.tif is damaged")
    assert caught.value.allow_retries is False


def test_out_of_memory_fails_once_with_advice() -> None:
    with pytest.raises(dg.Failure, match="Lower batch_size") as caught, mendable():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert caught.value.allow_retries is False


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="a bug") as caught, mendable():
        raise RuntimeError("a bug")
    assert not isinstance(caught.value, dg.Failure)


def test_tables_are_markdown_for_reading() -> None:
    text = table(pd.DataFrame({"name": ["a|b", None], "value": [0.123456789, float("nan")]})).value
    assert text.splitlines() == ["| name | value |", "|---|---|", "| a\\|b | 0.1235 |", "| – | – |"]
    long = table(pd.DataFrame({"n": range(MAX_ROWS + 7)})).value
    assert long.endswith("7 more rows.")


def test_a_configuration_is_its_recipe_and_bounds_are_listed() -> None:
    assert recipe_from(model_config(CLASSIFICATION)(), ClsRecipe) == ClsRecipe()
    values = model_config(CLASSIFICATION)().model_dump() | {"dropout": 2.0, "steps": 0}
    with pytest.raises(MarsError, match=r"(?s)steps.*dropout"):
        recipe_from(model_config(CLASSIFICATION).model_construct(**values), ClsRecipe)


def test_what_is_shown_is_cached_while_its_key_is_the_same(lake: Lake) -> None:
    made: list[str] = []

    def make() -> dict[str, Any]:
        made.append("again")
        return {
            "picture": dg.MetadataValue.md("![x](data:image/png;base64,)"),
            "file": dg.MetadataValue.path("/there"),
            "text": "a",
            "count": 1,
            "score": 0.5,
            "yes": True,
        }

    first = cached_metadata(lake, "scores", "key", make)
    assert cached_metadata(lake, "scores", "key", make) == first
    assert made == ["again"]
    cached_metadata(lake, "scores", "another key", make)
    assert len(made) == 2
    for damage in (b"{", b"[]", b'{"key": "another key"}'):
        lake.shown("scores").write_bytes(damage)
        assert cached_metadata(lake, "scores", "another key", make) == first
    assert len(made) == 5
    with pytest.raises(TypeError, match="cannot be cached"):
        cached_metadata(lake, "scores", "third", lambda: {"table": object()})


def test_what_fails_half_way_does_not_bring_back_what_was_shown_before(lake: Lake) -> None:
    def fails() -> dict[str, Any]:
        raise MarsError("after the table was written")

    assert cached_metadata(lake, "scores", "a", lambda: {"of": "a"}) == {"of": "a"}
    with pytest.raises(MarsError):
        cached_metadata(lake, "scores", "b", fails)
    assert cached_metadata(lake, "scores", "a", lambda: {"of": "a again"}) == {"of": "a again"}
