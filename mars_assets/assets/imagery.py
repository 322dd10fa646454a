"""HiRISE imagery: which observations, their products from the archive, and the crops cut out of them."""

import dagster as dg
from pydantic import Field

from mars_assets.assets.reporting import columns, mendable, picture, progress_of, table, where
from mars_assets.errors import MarsError
from mars_assets.lake import Lake, fingerprint, read_table, write_table
from mars_assets.partitions import observation_partitions
from mars_assets.resources import ArchiveResource, LakeResource

GROUP = "imagery"
OBSERVATION_COLUMNS = {
    "observation": "HiRISE observation id",
    "product": "which of its products is used",
    "note": "the note of observations.csv",
    "image": "address of the image, relative to the archive's base",
    "label": "address of the PDS3 label, where the product has one",
}


@dg.asset(group_name=GROUP, kinds={"csv", "parquet"}, code_version="1")
def observations(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """The chosen HiRISE observations, resolved to products and archive addresses.

    Reads `observations.csv` of the lake (columns `id`, `product`, `note`) and registers one partition for each
    observation, so that `hirise_images` and `crops` can be made for them. An observation that is no longer listed loses
    its partition; its files stay.
    """
    import pandas as pd

    from mars_assets.imagery.products import product_files, read_observations_csv

    with mendable():
        here = lake.open()
        chosen = read_observations_csv(here.observations_csv)
        addresses = [product_files(row.observation, row.product) for row in chosen.itertuples()]
        rows = chosen.assign(
            image=[files.image for files in addresses],
            label=pd.Series([files.label for files in addresses], dtype=object),
        )
        write_table(here.observations, rows)
    keys = rows["observation"].tolist()
    registered = set(context.instance.get_dynamic_partitions("observation"))
    context.instance.add_dynamic_partitions("observation", keys)
    for key in sorted(registered - set(keys)):
        context.instance.delete_dynamic_partition("observation", key)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "observations": table(rows[["observation", "product", "note"]]),
            "dagster/column_schema": columns(OBSERVATION_COLUMNS, rows),
            "no longer listed": len(registered - set(keys)),
            "file": where(here.observations),
        },
        data_version=dg.DataVersion(fingerprint(rows.to_dict("records"))[:16]),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"jpeg2000", "jpeg"},
    code_version="1",
    deps=[observations],
    partitions_def=observation_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def hirise_images(
    context: dg.AssetExecutionContext, lake: LakeResource, archive: ArchiveResource
) -> dg.MaterializeResult:
    """The observation's product and label, downloaded from the archive and verified.

    A file has its name only when it is whole: right length, right end, decodable. Its sha256 and address stand in the
    observation's `ledger.json`. What is there already is not fetched again; an interrupted download continues.
    """
    from mars_assets.imagery.download import fetch_product
    from mars_assets.imagery.products import ProductFiles

    progress = progress_of(context)
    with mendable():
        here, source = lake.open(), archive.open()
        chosen = _chosen(here)
        failures: dict[str, str] = {}
        rows = []
        for key in context.partition_keys:
            row = _observation(chosen, key)
            try:
                files = fetch_product(source, ProductFiles(row["image"], row["label"]), here.products(key), progress)
            except MarsError as error:
                failures[key] = str(error)
                context.log.error(f"{key}: {error}")
                continue
            for file in files:
                rows.append(
                    {
                        "observation": key,
                        "file": file.path.name,
                        "MB": file.bytes / 1e6,
                        "sha256": file.sha256[:16],
                        "address": file.address,
                    }
                )
        if failures:
            listed = "\n".join(f"{key}: {message}" for key, message in failures.items())
            raise MarsError(
                f"{len(failures)} of {len(context.partition_keys)} observations could not be fetched:\n{listed}"
            )
    return _partitioned(context, rows, {"folder": where(here.root / "imagery" / "hirise")})


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
    code_version="1",
    deps=[hirise_images],
    partitions_def=observation_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def crops(context: dg.AssetExecutionContext, config: CropsConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Crops of 512 x 512 pixels, 8-bit RGB, ready for labelling, with a manifest of every cell of the grid.

    No crop has no-data, a missing band or damaged rows; the manifest says for every skipped cell why. The stretch from
    the product's values to 8 bit is one for a whole scene and is recorded.
    """
    from pathlib import PurePosixPath

    from mars_assets.errors import MissingInputError
    from mars_assets.imagery.crops import CropSettings, cut_crops
    from mars_assets.imagery.figures import contact_sheet, overview_with_grid

    progress = progress_of(context)
    with mendable():
        here = lake.open()
        chosen = _chosen(here)
        settings = CropSettings(config.size, config.stride, config.max_invalid, config.max_saturated)
        rows: list[dict] = []
        pictures: dict[str, dg.MetadataValue] = {}
        for key in context.partition_keys:
            row = _observation(chosen, key)
            image = here.products(key) / PurePosixPath(row["image"]).name
            label = here.products(key) / PurePosixPath(row["label"]).name if row["label"] else None
            if not image.exists():
                raise MissingInputError(f"hirise_images --partition {key}", image)
            manifest = cut_crops(image, label, key, row["product"], here.crops(key), settings, progress)
            kept = manifest[manifest["kept"]]
            skipped = manifest.loc[~manifest["kept"], "reason"].value_counts()
            rows.append(
                {
                    "observation": key,
                    "crops": len(kept),
                    "skipped": len(manifest) - len(kept),
                    "reasons": ", ".join(f"{count} {reason}" for reason, count in skipped.items()),
                }
            )
            if len(pictures) < 3:
                pictures |= {
                    f"{key}: grid": picture(overview_with_grid(image, manifest, longest=300), f"grid of {key}"),
                    f"{key}: crops": picture(contact_sheet(kept, here.crops(key)), f"crops of {key}"),
                }
    return _partitioned(context, rows, {"folder": where(here.all_crops), **pictures})


def _chosen(lake: Lake) -> dict[str, dict]:
    rows = read_table(lake.observations, "observations").astype(object)
    rows = rows.where(rows.notna(), None)
    return {row["observation"]: row for row in rows.to_dict("records")}


def _observation(chosen: dict[str, dict], key: str) -> dict:
    if key not in chosen:
        raise MarsError(f"{key} is not in observations.csv: add it there and materialize 'observations'")
    return chosen[key]


def _partitioned(context: dg.AssetExecutionContext, rows: list[dict], metadata: dict) -> dg.MaterializeResult:
    """One result for all partitions of a run: the table of all, the pictures of a few."""
    import pandas as pd

    return dg.MaterializeResult(
        metadata={"dagster/partition_row_count": len(rows), "partitions": table(pd.DataFrame(rows)), **metadata}
    )
