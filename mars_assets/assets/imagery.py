"""Assets of group imagery: index, observations, images and crops."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.metadata import MAX_ROWS, columns, mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import recipe_from
from mars_assets.cluster.ranges import backfill_policy, remember_seconds
from mars_assets.code_versions import CROPS, DOWNLOAD, INDEX, OBSERVATIONS
from mars_assets.errors import ArchiveError, MarsError, MissingInputError
from mars_assets.imagery.crops import CropSettings, Source, cut_crops
from mars_assets.imagery.download import changed_at_source, fetch_product, source_state
from mars_assets.imagery.figures import contact_sheet, map_of_observations, overview_with_grid
from mars_assets.imagery.index import INDEX_FILES, IndexQuery, missing_values, read_index
from mars_assets.imagery.observations import choose_observations, query_before, read_observations, write_observations
from mars_assets.imagery.products import ProductFiles
from mars_assets.lake import Lake
from mars_assets.partitions import observation_partitions, observations_of, register_observations
from mars_assets.progress import Progress
from mars_assets.resources import ArchiveResource, LakeResource
from mars_assets.resources.archive import ARCHIVE_POOL
from mars_assets.storage.files import as_rows, read_provenance, read_table, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.storage.schema import columns_of

GROUP = "imagery"
TOGETHER = backfill_policy("hirise_images", "crops")
"""The policy of both assets of job ``imagery``, which a run materializes one after the other."""
_Row: TypeAlias = dict[str, Any]


class IndexConfig(dg.Config):
    """Settings of the cumulative index."""

    refresh: bool = Field(False, description="Download the index again if it has changed in the archive.")


@dg.asset(group_name=GROUP, kinds={"csv", "parquet"}, code_version=INDEX, pool=ARCHIVE_POOL)
def hirise_index(
    context: dg.AssetExecutionContext, config: IndexConfig, lake: LakeResource, archive: ArchiveResource
) -> dg.MaterializeResult:
    """HiRISE's cumulative index of map-projected products.

    It gives each product's position, season and illumination. `RDRCUMINDEX.TAB` and its label, about 160 MB, are
    downloaded once and stored as Parquet with the label's column names. `observations` can be selected from it by
    position, season and incidence angle, and products that are not map-projected get their approximate position from
    it. Without the index, `observations.csv` lists the observations.
    """
    progress = progress_of(context)
    with mendable():
        here, source = lake.open(), archive.open()
        folder = here.index_products
        if config.refresh:
            for name in changed_at_source(source, INDEX_FILES, folder):
                progress.say(f"{name} has changed in the archive: downloading it again")
                (folder / name).unlink(missing_ok=True)
        table_file, label_file = fetch_product(source, INDEX_FILES, folder, progress)
        version = fingerprint(table_file.sha256, label_file.sha256)[:16]
        if here.index.exists() and read_provenance(here.index).get("version") == version:
            index = read_table(here.index, "hirise_index")
        else:
            progress.say(f"reading {table_file.path.name}")
            unread: list[str] = []
            index = read_index(table_file.path, label_file.path, Progress(unread.append))
            for line in unread[:MAX_ROWS]:
                progress.say(line)
            write_table(here.index, index, {"version": version, "unread": unread})
        unread = read_provenance(here.index).get("unread", [])
        kinds = index["PRODUCT_ID"].str.rsplit("_", n=1).str[-1].value_counts()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(index),
            "observations": int(index["OBSERVATION_ID"].nunique()),
            "products": table(kinds.rename_axis("product").reset_index(name="rows")),
            "rows that cannot be read": "; ".join(unread[:MAX_ROWS]) or "none",
            "rows without a value": dg.MetadataValue.json(missing_values(index)),
            "map": picture(map_of_observations(index), "positions of the observations"),
            "first rows": table(index[["PRODUCT_ID", "INCIDENCE_ANGLE", "SOLAR_LONGITUDE"]].head(10)),
            "file": where(here.index),
        },
        data_version=dg.DataVersion(version),
    )


class QueryConfig(dg.Config):
    """A selection from HiRISE's index; requires `hirise_index`."""

    product: Literal["RGB.NOMAP.browse", "RGB.NOMAP", "COLOR", "RED"] = Field(
        "RGB.NOMAP.browse", description="Which product of each observation to use; the default is the paper's."
    )
    latitude: list[float] = Field([-90.0, 90.0], description="Southern and northern bound, planetocentric degrees.")
    longitude: list[float] = Field(
        [0.0, 360.0], description="Western and eastern bound, degrees east; [350, 10] crosses the prime meridian."
    )
    solar_longitude: list[float] = Field(
        [0.0, 360.0], description="Season by L_s in degrees: northern spring is [0, 90], southern summer [270, 360]."
    )
    incidence: list[float] = Field(
        [0.0, 180.0], description="Smallest and largest incidence angle of the sun, degrees."
    )
    limit: int | None = Field(
        None, ge=1, description="Maximum number of observations, drawn at random from those that match."
    )
    seed: int = Field(0, description="Seed of that draw.")
    exclude: list[str] = Field(
        default=[], description="Ids of observations to leave out, such as those whose product the archive lacks."
    )


class ObservationsConfig(dg.Config):
    """Selection of observations."""

    query: QueryConfig | None = Field(
        None,
        description="Observations to select from the index, in addition to those in observations.csv. Unset: the "
        "previous "
        "query, if any.",
    )
    listed_only: bool = Field(
        False, description="Drop the previous query and select only the observations in observations.csv."
    )

    def chosen(self, lake: Lake) -> IndexQuery | None:
        """Return the query that this run uses, or None.

        Raises:
            MarsError: both a query and ``listed_only`` are given, or the query makes no sense.
        """
        if self.query is not None:
            if self.listed_only:
                raise MarsError("observations: listed_only drops the query: set only one of the two")
            return IndexQuery.of(self.query.model_dump())
        return None if self.listed_only else query_before(lake)


@dg.asset(group_name=GROUP, kinds={"csv", "parquet"}, code_version=OBSERVATIONS, deps=[hirise_index])
def observations(
    context: dg.AssetExecutionContext, config: ObservationsConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """The selected HiRISE observations, with their products and archive addresses.

    Reads the lake's `observations.csv` (columns `id`, `product`, `note`), runs the configuration's `query` on
    `hirise_index`, or both, and registers one partition per observation, for which `hirise_images` and `crops` can be
    materialized. A run without configuration uses the previous query; `listed_only` drops it. An observation that is no
    longer selected loses its partition; its files remain, and its crops stay in use, until you delete them.
    """
    from mars_assets.imagery.schema import Observations

    with mendable():
        here = lake.open()
        query = config.chosen(here)
        rows = choose_observations(here, query, progress_of(context))
        gone = register_observations(context.instance, rows["observation"])
        write_observations(here, rows, query)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "observations": table(rows[["observation", "product", "incidence_angle", "solar_longitude", "note"]]),
            "dagster/column_schema": columns(columns_of(Observations), rows),
            "no longer selected": len(gone),
            "query": "none" if query is None else dg.MetadataValue.json(asdict(query)),
            "file": where(here.observations),
        },
        data_version=dg.DataVersion(fingerprint(rows.to_json(orient="records"))[:16]),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"jpeg2000", "jpeg"},
    code_version=DOWNLOAD,
    deps=[observations],
    partitions_def=observation_partitions,
    backfill_policy=TOGETHER,
    pool=ARCHIVE_POOL,
)
def hirise_images(
    context: dg.AssetExecutionContext, lake: LakeResource, archive: ArchiveResource
) -> dg.MaterializeResult:
    """Each observation's product and label, downloaded from the archive and verified.

    A file gets its final name only once it is complete: correct length, correct end, decodable. Its sha256 and address
    are recorded in the observation's `ledger.json`. Existing files are not downloaded again, and an interrupted
    download continues; `in the archive` shows whether an existing file has changed there. If some observations of a run
    cannot be downloaded, the others are still downloaded and recorded before the run fails.
    """
    progress = progress_of(context)
    with mendable():
        here, source = lake.open(), archive.open()

        def fetched(row: _Row) -> list[_Row]:
            wanted, folder = ProductFiles(row["image"], row["label"]), here.products(row["observation"])
            state = source_state(source, wanted, folder)
            return [
                {
                    "observation": row["observation"],
                    "file": file.path.name,
                    "MB": file.bytes / 1e6,
                    "sha256": file.sha256[:16],
                    "in the archive": state.get(file.path.name, "downloaded now"),
                    "address": file.address,
                }
                for file in fetch_product(source, wanted, folder, progress)
            ]

        metadata = each_observation(context, here, "downloaded", fetched)
    return dg.MaterializeResult(metadata={**metadata, "folder": where(here.all_products)})


class CropsConfig(dg.Config, CropSettings):
    """Settings for cutting products into crops."""


@dg.asset(
    group_name=GROUP,
    kinds={"png"},
    code_version=CROPS,
    deps=[hirise_images],
    partitions_def=observation_partitions,
    backfill_policy=TOGETHER,
)
def crops(context: dg.AssetExecutionContext, config: CropsConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Crops of 512 x 512 pixels in 8-bit RGB, ready for labelling, with a manifest.

    No crop has no-data pixels, a missing band or damaged rows. The manifest lists every cell of the grid, and for every
    skipped one the reason. The stretch from the product's values to 8 bits is the same for the whole scene and is
    recorded. Crops of calibrated products (COLOR, RED) have their DN next to them as GeoTIFF. Positions are exact for
    map-projected products and approximate for others. If some observations of a run cannot be cut, the others are still
    cut and recorded before the run fails.
    """
    progress = progress_of(context)
    with mendable():
        here = lake.open()
        settings = recipe_from(config, CropSettings)
        pictures: dict[str, dg.MetadataValue] = {}

        def cut(row: _Row) -> list[_Row]:
            key = row["observation"]
            image, label = product_of(here, row)
            corners = None if row.get("corners") is None else [float(value) for value in row["corners"]]
            source = Source(image, label, key, row["product"], corners)
            manifest = cut_crops(source, here.crops(key), settings, progress)
            kept = manifest[manifest["kept"]]
            skipped = manifest.loc[~manifest["kept"], "reason"].value_counts()
            if len(pictures) < 3:
                pictures[f"{key}: grid"] = picture(overview_with_grid(image, manifest, longest=300), f"grid of {key}")
                pictures[f"{key}: crops"] = picture(
                    contact_sheet(kept, version_in_use(here.crops(key))), f"crops of {key}"
                )
            return [
                {
                    "observation": key,
                    "crops": len(kept),
                    "skipped": len(manifest) - len(kept),
                    "reasons": ", ".join(f"{count} {reason}" for reason, count in skipped.items()),
                    "position": manifest["position_kind"].iloc[0],
                    "latitude": float(manifest["latitude"].mean()),
                    "longitude": float(manifest["longitude"].iloc[len(manifest) // 2]),
                }
            ]

        metadata = each_observation(context, here, "cut", cut)
    return dg.MaterializeResult(metadata={**metadata, "folder": where(here.all_crops), **pictures})


def selected_observations(lake: Lake) -> dict[str, _Row]:
    """Read the selected observations by their ids, with None for what is missing."""
    chosen = read_observations(lake).astype(object)
    return {row["observation"]: row for row in as_rows(chosen.where(chosen.notna(), None))}


def product_of(lake: Lake, row: _Row) -> tuple[Path, Path | None]:
    """Locate the image and label of an observation.

    Raises:
        MissingInputError: the image was not downloaded.
    """
    folder = lake.products(row["observation"])
    image = folder / PurePosixPath(row["image"]).name
    if not image.exists():
        raise MissingInputError(f"hirise_images --partition {row['observation']}", image)
    return image, folder / PurePosixPath(row["label"]).name if row["label"] else None


def each_observation(
    context: dg.AssetExecutionContext, lake: Lake, what: str, work: Callable[[_Row], list[_Row]]
) -> dict[str, Any]:
    """Process every observation of a run, continuing after one that fails.

    Args:
        context: the run's context.
        lake: has the selected observations.
        what: past participle of the work, for messages.
        work: takes an observation's row, with None for what is missing, and returns its rows of the run's table.

    Returns:
        The metadata of all observations.

    Raises:
        MarsError: some observations failed, and the others are recorded as materialized; or the run's range is no range
            of observations.
    """
    selected = selected_observations(lake)
    keys = observations_of(context, selected)
    done: dict[str, list[_Row]] = {}
    failures: dict[str, str] = {}
    seconds: list[float] = []
    for key in keys:
        try:
            if key not in selected:
                raise MarsError(
                    f"{key} is not among the selected observations: add it to observations.csv or widen the query, and "
                    "materialize 'observations'"
                )
            begun = time.monotonic()
            done[key] = work(selected[key])
            seconds.append(time.monotonic() - begun)
        except MarsError as error:
            failures[key] = str(error)
            context.log.error(f"{key}: {error}")
            if isinstance(error, ArchiveError):  # it would refuse the others too
                break
    remember_seconds(lake, context.asset_key.to_user_string(), seconds)
    if not failures:
        return _described([row for rows in done.values() for row in rows])
    if len(failures) == len(keys) == 1:
        raise MarsError(*failures.values())
    for key, rows in done.items():
        # A step that fails returns no result, so finished partitions are recorded here.
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key,
                partition=key,
                metadata=_described(rows),
                tags={"dagster/data_version": fingerprint(rows)[:16]},
            )
        )
    listed = "\n".join(f"{key}: {message}" for key, message in failures.items())
    if untried := len(keys) - len(done) - len(failures):
        listed += f"\n{untried} more: not tried"
    raise MarsError(
        f"{len(keys) - len(done)} of {len(keys)} observations could not be {what}. The others are recorded as "
        f"materialized, and downstream assets can be run for their partitions:\n{listed}"
    )


def _described(rows: list[_Row]) -> dict[str, Any]:
    return {"dagster/partition_row_count": len(rows), "partitions": table(pd.DataFrame(rows))}
