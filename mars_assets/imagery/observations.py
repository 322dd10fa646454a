"""The observations of a lake: listed in ``observations.csv`` or found by a query."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import pyarrow as pa

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.index import NEEDED, IndexQuery, observation_facts, select
from mars_assets.imagery.products import product_files, read_observations_csv
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_provenance, read_table
from mars_assets.storage.schema import read_checked, write_checked


def query_before(lake: Lake) -> IndexQuery | None:
    """Read the query that selected the lake's observations; None if there was none.

    Raises:
        DamagedFileError: the table of observations cannot be read.
    """
    if not lake.observations.exists():
        return None
    try:
        stored = read_provenance(lake.observations).get("query")
        return None if stored is None else IndexQuery.of(stored)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DamagedFileError(
            f"{lake.observations} cannot be read, so its query is unknown ({error}): delete the file, and give the "
            "query again if there was one"
        ) from error


def write_observations(lake: Lake, rows: pd.DataFrame, query: IndexQuery | None) -> None:
    """Write the result of :func:`choose_observations` together with its query."""
    from mars_assets.imagery.schema import Observations

    write_checked(lake.observations, rows, Observations, {"query": None if query is None else asdict(query)})


def read_observations(lake: Lake) -> pd.DataFrame:
    """Read the selected observations.

    See :class:`mars_assets.imagery.schema.Observations`.

    Raises:
        MissingInputError: none have been selected.
        DamagedFileError: their table cannot be read, or does not match its schema.
    """
    from mars_assets.imagery.schema import Observations

    return read_checked(lake.observations, "observations", Observations)


def choose_observations(lake: Lake, query: IndexQuery | None = None, progress: Progress = SILENT) -> pd.DataFrame:
    """Combine the observations in ``observations.csv`` with those of a query.

    The file is optional if there is a query, and the index if there is none. An observation in both keeps the file's
    product and note.

    Returns:
        See :class:`mars_assets.imagery.schema.Observations`.

    Raises:
        MissingInputError: there is a query but no index.
        MarsError: the file has bad rows, or nothing matches the query.
    """
    if query is not None or lake.index.exists():
        index = read_table(lake.index, "hirise_index")
    else:
        index = pd.DataFrame(columns=list(NEEDED))
    if query is None or lake.observations_csv.exists():
        rows = read_observations_csv(lake.observations_csv)
    else:
        rows = pd.DataFrame(columns=["observation", "product", "note"], dtype="str")
    if query is not None:
        listed = set(rows["observation"])
        found = [name for name in select(index, query, progress) if name not in listed]
        rows = pd.concat(
            [rows, pd.DataFrame({"observation": found, "product": query.product, "note": "from the index"})],
            ignore_index=True,
        )
    addresses = [product_files(*chosen) for chosen in zip(rows["observation"], rows["product"], strict=True)]
    rows = rows.assign(
        image=[files.image for files in addresses],
        label=pd.Series([files.label for files in addresses], dtype=object),
    )
    facts = observation_facts(index, rows["observation"].tolist(), rows["product"].tolist())
    return pd.concat([rows, facts], axis=1)
