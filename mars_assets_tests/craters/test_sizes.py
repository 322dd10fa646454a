import numpy as np
import pandas as pd
import pytest

from mars_assets.craters.sizes import shares_by_size


def test_shares_of_each_size_have_intervals() -> None:
    trials = pd.DataFrame(
        {"diameter_px": [8.0, 11.0, 11.4, *[16.1] * 10], "success": [True, False, False, *[True] * 8, *[False] * 2]}
    )
    shares = shares_by_size(trials)
    np.testing.assert_allclose(shares["diameter_from"], [8, 8 * np.sqrt(2), 16])
    np.testing.assert_allclose(shares["diameter_to"], shares["diameter_from"] * np.sqrt(2))
    assert shares["craters"].tolist() == [2, 1, 10]
    assert shares["share"].tolist() == [0.5, 0, 0.8]
    # Wilson's interval of 8 out of 10.
    assert shares["low"].iloc[2] == pytest.approx(0.490, abs=5e-4)
    assert shares["high"].iloc[2] == pytest.approx(0.943, abs=5e-4)


def test_no_trials_no_rows() -> None:
    assert list(shares_by_size(pd.DataFrame({"diameter_px": [], "success": []}))) == [
        *("diameter_from", "diameter_to", "craters", "share", "low", "high")
    ]
