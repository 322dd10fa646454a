"""HiRISE imagery: which observations, their products from the archive, and the crops cut out of them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.metadata import columns, mendable, picture, progress_of, table, where
from mars_assets.code_versions import CROPS, DOWNLOAD, INDEX, OBSERVATIONS
from mars_assets.errors import ArchiveError, MarsError, MissingInputError
from mars_assets.imagery.crops import CropSettings, Source, cut_crops
from mars_assets.imagery.download import changed_at_source, fetch_product, source_state
from mars_assets.imagery.figures import contact_sheet, map_of_observations, overview_with_grid
from mars_assets.imagery.index import INDEX_FILES, IndexQuery, read_index
from mars_assets.imagery.observations import choose_observations, query_before, read_observations, write_observations
from mars_assets.imagery.products import ProductFiles
from mars_assets.lake import Lake
from mars_assets.partitions import observation_partitions
from mars_assets.resources import ArchiveResource, LakeResource
from mars_assets.storage.files import read_provenance, read_table, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.schema import columns_of

if TYPE_CHECKING:
    from mars_assets.imagery.index import IndexQuery


GROUP = "imagery"


class IndexConfig(dg.Config):
    """The cumulative index."""

    refresh: bool = Field(False, description="Fetch the index again if it has changed at the archive.")


@dg.asset(group_name=GROUP, kinds={"csv", "parquet"}, code_version=INDEX)
def hirise_index(
    context: dg.AssetExecutionContext, config: IndexConfig, lake: LakeResource, archive: ArchiveResource
) -> dg.MaterializeResult:
    """HiRISE's cumulative index: every map-projected product with its place, season and illumination.

    `RDRCUMINDEX.TAB` and its label, some 160 MB, downloaded once and kept as Parquet under the label's column names.
    `observations` can be chosen from it by place, season and incidence angle, and products that are not map projected get
    their approximate position from it. Without it, `observations.csv` names the observations.
    """
    progress = progress_of(context)
    with mendable():
        here, source = lake.open(), archive.open()
        folder = here.index_products
        if config.refresh:
            for name in changed_at_source(source, INDEX_FILES, folder):
                progress.say(f"{name} has changed at the archive: fetching it again")
                (folder / name).unlink(missing_ok=True)
        table_file, label_file = fetch_product(source, INDEX_FILES, folder, progress)
        version = fingerprint(table_file.sha256, label_file.sha256)[:16]
        if here.index.exists() and read_provenance(here.index).get("version") == version:
            index = read_table(here.index, "hirise_index")
        else:
            progress.say(f"reading {table_file.path.name}")
            index = read_index(table_file.path, label_file.path)
            write_table(here.index, index, {"version": version})
        kinds = index["PRODUCT_ID"].str.rsplit("_", n=1).str[-1].value_counts()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(index),
            "observations": int(index["OBSERVATION_ID"].nunique()),
            "products": table(kinds.rename_axis("product").reset_index(name="rows")),
            "map": picture(map_of_observations(index), "where the observations lie"),
            "first rows": table(index[["PRODUCT_ID", "INCIDENCE_ANGLE", "SOLAR_LONGITUDE"]].head(10)),
            "file": where(here.index),
        },
        data_version=dg.DataVersion(version),
    )


class QueryConfig(dg.Config):
    """A choice from HiRISE's index. Needs `hirise_index`."""

    product: Literal["RGB.NOMAP.browse", "RGB.NOMAP", "COLOR", "RED"] = Field(
        "RGB.NOMAP.browse", description="The product to take of each observation; the default is the paper's."
    )
    latitude: list[float] = Field([-90.0, 90.0], description="Southern and northern bound, planetocentric degrees.")
    longitude: list[float] = Field(
        [0.0, 360.0], description="Western and eastern bound, degrees east; [350, 10] goes over the prime meridian."
    )
    solar_longitude: list[float] = Field(
        [0.0, 360.0], description="Season by L_s in degrees: northern spring is [0, 90], southern summer [270, 360]."
    )
    incidence: list[float] = Field(
        [0.0, 180.0], description="Smallest and largest incidence angle of the sun, degrees."
    )
    limit: int | None = Field(None, ge=1, description="At most so many, drawn at random from those that fit.")
    seed: int = Field(0, description="Of that draw.")
    exclude: list[str] = Field(
        default=[], description="Ids of observations to leave out, such as those whose product the archive lacks."
    )

    def domain(self) -> "IndexQuery":

        def pair(name: str) -> tuple[float, float]:
            values = getattr(self, name)
            if len(values) != 2:
                raise MarsError(f"a query's {name} is two numbers, [from, to]; this one is {values}")
            return values[0], values[1]

        return IndexQuery(
            product=self.product,
            latitude=pair("latitude"),
            longitude=pair("longitude"),
            solar_longitude=pair("solar_longitude"),
            incidence=pair("incidence"),
            limit=self.limit,
            seed=self.seed,
            exclude=tuple(self.exclude),
        )


class ObservationsConfig(dg.Config):
    """Where observations come from."""

    query: QueryConfig | None = Field(
        None,
        description="Observations chosen from the index, beside those that observations.csv lists, if there is one. Not given: "
        "the query that the observations were chosen by before, if any.",
    )
    listed_only: bool = Field(
        False, description="Drop the query that is in force: only what observations.csv lists is chosen."
    )

    def chosen(self, lake: Lake) -> "IndexQuery | None":
        """The query that this run is to go by."""
        if self.query is not None:
            if self.listed_only:
                raise MarsError("observations: listed_only drops the query, so give one of the two")
            return self.query.domain()
        return None if self.listed_only else query_before(lake)


@dg.asset(group_name=GROUP, kinds={"csv", "parquet"}, code_version=OBSERVATIONS, deps=[hirise_index])
def observations(
    context: dg.AssetExecutionContext, config: ObservationsConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """The chosen HiRISE observations, resolved to products and archive addresses.

    Reads `observations.csv` of the lake (columns `id`, `product`, `note`), runs the configuration's `query` on
    `hirise_index`, or both, and registers one partition for each observation, so that `hirise_images` and `crops` can be
    made for them. A run without configuration goes on with the last query; `listed_only` drops it. An observation that is
    no longer chosen loses its partition; its files stay, and its crops in use, until you delete them.
    """
    from mars_assets.imagery.schema import Observations

    with mendable():
        here = lake.open()
        query = config.chosen(here)
        rows = choose_observations(here, query)
        write_observations(here, rows, query)
    keys = rows["observation"].tolist()
    registered = set(context.instance.get_dynamic_partitions("observation"))
    context.instance.add_dynamic_partitions("observation", keys)
    for key in sorted(registered - set(keys)):
        context.instance.delete_dynamic_partition("observation", key)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "observations": table(rows[["observation", "product", "incidence_angle", "solar_longitude", "note"]]),
            "dagster/column_schema": columns(columns_of(Observations), rows),
            "no longer chosen": len(registered - set(keys)),
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
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def hirise_images(
    context: dg.AssetExecutionContext, lake: LakeResource, archive: ArchiveResource
) -> dg.MaterializeResult:
    """The observation's product and label, downloaded from the archive and verified.

    A file has its name only when it is whole: right length, right end, decodable. Its sha256 and address stand in the
    observation's `ledger.json`. What is there already is not fetched again; an interrupted download continues. Of a file
    that was there the archive is asked whether it still is the same: `at the archive` says so. Where some observations of
    a run cannot be fetched the others are, and are recorded as made, before the run fails.
    """
    progress = progress_of(context)
    with mendable():
        here, source = lake.open(), archive.open()
        chosen = _chosen(here)

        def fetched(key: str) -> list[dict]:
            row = _observation(chosen, key)
            wanted = ProductFiles(row["image"], row["label"])
            state = source_state(source, wanted, here.products(key))
            return [
                {
                    "observation": key,
                    "file": file.path.name,
                    "MB": file.bytes / 1e6,
                    "sha256": file.sha256[:16],
                    "at the archive": state.get(file.path.name, "fetched now"),
                    "address": file.address,
                }
                for file in fetch_product(source, wanted, here.products(key), progress)
            ]

        rows = _each_observation(context, "fetched", fetched)
    return _partitioned(rows, {"folder": where(here.all_products)})


class CropsConfig(dg.Config):
    """How products are cut."""

    size: int = Field(512, ge=16, description="Side of a crop in pixels.")
    stride: int = Field(
        512, ge=1, description="Distance of neighbouring crops in pixels; less than size overlaps them."
    )
    max_invalid: float = Field(
        0.0, ge=0, lt=1, description="Share of no-data, damaged or band-missing pixels that a crop may have."
    )
    max_saturated: float = Field(0.01, ge=0, lt=1, description="Share of saturated pixels that a crop may have.")


@dg.asset(
    group_name=GROUP,
    kinds={"png"},
    code_version=CROPS,
    deps=[hirise_images],
    partitions_def=observation_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def crops(context: dg.AssetExecutionContext, config: CropsConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Crops of 512 x 512 pixels, 8-bit RGB, ready for labelling, with a manifest of every cell of the grid.

    No crop has no-data, a missing band or damaged rows; the manifest says for every skipped cell why. The stretch from
    the product's values to 8 bit is one for a whole scene and is recorded. Crops of calibrated products (COLOR, RED) have
    their DN beside them as GeoTIFF. Where a crop lies is exact for map-projected products and approximate for others.
    Where some observations of a run cannot be cut the others are, and are recorded as made, before the run fails.
    """
    progress = progress_of(context)
    with mendable():
        here = lake.open()
        chosen = _chosen(here)
        settings = CropSettings(config.size, config.stride, config.max_invalid, config.max_saturated)
        pictures: dict[str, dg.MetadataValue] = {}

        def cut(key: str) -> list[dict]:
            row = _observation(chosen, key)
            image = here.products(key) / PurePosixPath(row["image"]).name
            label = here.products(key) / PurePosixPath(row["label"]).name if row["label"] else None
            if not image.exists():
                raise MissingInputError(f"hirise_images --partition {key}", image)
            corners = None if row.get("corners") is None else [float(value) for value in row["corners"]]
            source = Source(image, label, key, row["product"], corners)
            manifest = cut_crops(source, here.crops(key), settings, progress)
            kept = manifest[manifest["kept"]]
            skipped = manifest.loc[~manifest["kept"], "reason"].value_counts()
            if len(pictures) < 3:
                pictures[f"{key}: grid"] = picture(overview_with_grid(image, manifest, longest=300), f"grid of {key}")
                pictures[f"{key}: crops"] = picture(contact_sheet(kept, here.crops(key)), f"crops of {key}")
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

        rows = _each_observation(context, "cut", cut)
    return _partitioned(rows, {"folder": where(here.all_crops), **pictures})


def _chosen(lake: Lake) -> dict[str, dict]:
    rows = read_observations(lake).astype(object)
    rows = rows.where(rows.notna(), None)
    return {row["observation"]: row for row in rows.to_dict("records")}


def _observation(chosen: dict[str, dict], key: str) -> dict:
    if key not in chosen:
        raise MarsError(
            f"{key} is not among the chosen observations: add it to observations.csv, or widen the query, and materialize "
            "'observations'"
        )
    return chosen[key]


def _each_observation(context: dg.AssetExecutionContext, what: str, work: Callable[[str], list[dict]]) -> list[dict]:
    """Does the work of every observation of a run; one that cannot be done does not keep the others from it.

    Args:
        context: the run's.
        what: what the work does to an observation, for messages.
        work: takes an observation and gives its rows of the run's table.

    Raises:
        MarsError: some observations could not be done. The others are recorded as made.
    """
    done: dict[str, list[dict]] = {}
    failures: dict[str, str] = {}
    for key in context.partition_keys:
        try:
            done[key] = work(key)
        except MarsError as error:
            failures[key] = str(error)
            context.log.error(f"{key}: {error}")
            if isinstance(error, ArchiveError):  # it says no to all of them, and is not to be asked for each
                break
    if not failures:
        return [row for rows in done.values() for row in rows]
    if len(failures) == len(context.partition_keys) == 1:
        raise MarsError(*failures.values())
    for key, rows in done.items():
        # A step that fails has no result, so what it did make is said here.
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key,
                partition=key,
                metadata=_described(rows),
                tags={"dagster/data_version": fingerprint(rows)[:16]},
            )
        )
    listed = "\n".join(f"{key}: {message}" for key, message in failures.items())
    keys = context.partition_keys
    if untried := len(keys) - len(done) - len(failures):
        listed += f"\n{untried} more: not tried"
    raise MarsError(
        f"{len(keys) - len(done)} of {len(keys)} observations could not be {what}. The others are recorded as made, and what "
        f"follows on them can be run for their partitions:\n{listed}"
    )


def _described(rows: list[dict]) -> dict[str, Any]:
    return {"dagster/partition_row_count": len(rows), "partitions": table(pd.DataFrame(rows))}


def _partitioned(rows: list[dict], metadata: dict) -> dg.MaterializeResult:
    """One result for all partitions of a run: the table of all, the pictures of a few."""
    return dg.MaterializeResult(metadata={**_described(rows), **metadata})
