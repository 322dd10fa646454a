"""The report of a transfer study, as Markdown and as an HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from mars_assets.images import encode
from mars_assets.lake import Lake
from mars_assets.plotting import as_image, to_png
from mars_assets.storage.files import write_bytes
from mars_assets.transfer.figures import draw_costs, draw_label_efficiency
from mars_assets.transfer.heads import NEIGHBOURS, REGULARISATION
from mars_assets.transfer.protocol import BASELINES, TransferStudy, trained_on
from mars_assets.transfer.results import MAIN, SECOND, Results, interval
from mars_assets.transfer.run import ASSET
from mars_assets.transfer.verdict import verdicts

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "What encoders are worth on these images"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        title: its heading.
        text: paragraphs; lines that begin with ``- `` are a list.
        table: shown below the text.
        figure: title and picture, shown below the table.
    """

    title: str
    text: str = ""
    table: pd.DataFrame | None = None
    figure: tuple[str, Image] | None = None


def sections_of(lake: Lake, study: TransferStudy, results: Results) -> list[Section]:
    """Compose the report."""
    estimates = results.estimates
    most = estimates["fraction"].max()
    descriptions = {
        contender.name: trained_on(lake, contender.name)
        for contender in results.contenders
        if contender.name not in BASELINES and contender.name != "random"
    }
    verdict = "\n".join(f"- {sentence}" for sentence in verdicts(results, descriptions))
    return [
        Section("Verdict", f"{verdict}\n\n{_HOW_TO_READ}"),
        Section("Scores with the most labels", table=_scores(results, most)),
        Section("What training added", _COMPARED, _differences(results)),
        Section(
            "Labels", _LABELS, _by_fraction(estimates), ("label efficiency", as_image(draw_label_efficiency(results)))
        ),
        Section("Cost", "Bars are 95 % intervals.", figure=("cost", as_image(draw_costs(results)))),
        Section("Protocol", _protocol(study, results)),
    ]


def write_report(lake: Lake, sections: Sequence[Section]) -> None:
    """Write the report as Markdown, with its figures, and as one HTML file."""
    for section in sections:
        if section.figure:
            to_png(section.figure[1], lake.figure(ASSET, section.figure[0]))
    names = {section.figure[0]: lake.figure(ASSET, section.figure[0]).name for section in sections if section.figure}
    write_bytes(lake.metrics(ASSET, ".md"), markdown(sections, names).encode())
    write_bytes(lake.metrics(ASSET, ".html"), page(sections).encode())


def markdown(sections: Sequence[Section], figures: Mapping[str, str]) -> str:
    """Format the report as Markdown; ``figures`` has the file of each figure."""
    parts = [f"# {TITLE}"]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        if section.table is not None:
            parts.append(section.table.to_markdown(index=False, disable_numparse=True))
        if section.figure:
            title = section.figure[0]
            parts.append(f"![{title}]({figures[title].replace(' ', '%20')})")
    return "\n\n".join(filter(None, parts)) + "\n"


def page(sections: Sequence[Section]) -> str:
    """Format the report as HTML, with its figures inside."""
    parts = [f"<h1>{html.escape(TITLE)}</h1>"]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", _paragraphs(section.text)]
        if section.table is not None:
            parts.append(section.table.to_html(index=False, border=0))
        if section.figure:
            title, picture = section.figure
            content = base64.b64encode(encode(picture, "PNG")).decode()
            parts.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{content}">')
    return _PAGE.format(title=html.escape(TITLE), body="\n".join(filter(None, parts)))


def _paragraphs(text: str) -> str:
    """Convert paragraphs, lists and bold words."""
    found = []
    for block in filter(None, text.split("\n\n")):
        lines = [re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(line)) for line in block.splitlines()]
        if all(line.startswith("- ") for line in lines):
            found.append("<ul>" + "".join(f"<li>{line[2:]}</li>" for line in lines) + "</ul>")
        else:
            found.append(f"<p>{' '.join(lines)}</p>")
    return "\n".join(found)


def _scores(results: Results, most: float) -> pd.DataFrame:
    costs = results.runs[results.runs["fraction"] == most].groupby(["encoder", "way"], sort=False)
    shown = results.estimates[results.estimates["fraction"] == most]
    rows = []
    for row in shown.sort_values([MAIN], ascending=False).to_dict("records"):
        cost = costs.get_group((row["encoder"], row["way"]))
        rows.append(
            {
                "encoder": row["encoder"],
                "way": row["way"],
                MAIN.replace("_", " "): interval(row, MAIN),
                "AUROC": interval(row, SECOND),
                "interquartile mean over seeds": interval(row, "iqm"),
                "parameters": f"{cost['parameters'].iloc[0]:,}",
                "trained": f"{cost['trained_parameters'].iloc[0]:,}",
                "GFLOP an image": f"{cost['gflop'].iloc[0]:.3g}",
                "seconds a seed": f"{cost['seconds'].mean():.2g}",
            }
        )
    return pd.DataFrame(rows)


def _differences(results: Results) -> pd.DataFrame:
    rows = [
        {
            "encoder": row["encoder"],
            "way": row["way"],
            "minus": f"{row['to']} ({row['what']})",
            MAIN.replace("_", " "): interval(row, "difference", signed=True),
            "p, corrected": f"{row['p_value']:.2g}",
            "AUROC": interval(row, SECOND, signed=True),
        }
        for row in results.comparisons.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _by_fraction(estimates: pd.DataFrame) -> pd.DataFrame:
    shown = estimates.assign(score=[interval(row, MAIN) for row in estimates.to_dict("records")])
    labels = shown.groupby("fraction")["n_train"].mean()
    shown["labels"] = [f"{labels[fraction]:.0f} labels" for fraction in shown["fraction"]]
    order = list(dict.fromkeys(shown.sort_values("fraction")["labels"]))
    wide = shown.pivot(index=["encoder", "way"], columns="labels", values="score")[order]
    return wide.reindex(pd.MultiIndex.from_frame(shown[["encoder", "way"]].drop_duplicates())).reset_index()


def _protocol(study: TransferStudy, results: Results) -> str:
    contender, runs = results.contenders[0], results.runs
    images = contender.images
    train, valid = (images[images["split"] == split] for split in ("train", "valid"))
    seen = runs.groupby("encoder")["pretrained_on"].max()
    sentences = [
        f"Task: crater or no crater. Labels {contender.label_version[:12]}; images shown at "
        f"{contender.recipe.image_size} pixels, normalised by {contender.recipe.normalize}, features are the "
        f"{contender.recipe.pooling} of the patches.",
        f"Scores are of {len(train)} training images of {train['observation'].nunique()} observations, in "
        f"{study.folds} parts by observation. Each part is predicted by models that were trained on the others.",
        f"{len(valid)} validation images of {valid['observation'].nunique()} observations choose one of "
        f"{len(REGULARISATION)} strengths of the linear probe's penalty, or of {len(NEIGHBOURS)} numbers of "
        "neighbours, anew for each run: the same budget for all. They are more than the training images at the "
        "smallest fractions, so scores there are better than somebody with so few labels would reach.",
        f"{study.seeds} seeds. Each draws which observations are labelled, and random or shuffled weights. Smaller "
        "fractions of a seed are subsets of larger ones. With all labels, seeds of trained weights and of baselines do "
        "not differ, and the interquartile mean's interval has no width.",
        "Images of the split test take no part.",
        "The size and the pooling are those of cls_model's default recipe. Held-out images choose nothing.",
        *(
            f"{name} was pretrained on {count} of the {runs['n_observations'].max()} held-out observations, without "
            "labels."
            for name, count in seen.items()
            if count
        ),
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


_HOW_TO_READ = """Brackets are 95 % intervals of a bootstrap over observations and seeds, crossed: of what other
observations and another repetition would give. p-values are two-sided, from the same resamples, and corrected by Holm's
method for all differences below. A difference counts if p is below 0.05."""
_COMPARED = """Differences are paired: by image, and by seed. Random weights have the same architecture. Shuffled
weights are the encoder's own, each tensor in a random order: the same values without structure. The best untrained CNN,
and the best baseline, are the ones of the lowest validation loss."""
_LABELS = """Lines in the figure are solid for trained weights, dashed for shuffled and dotted for random ones. Bands
are 95 % intervals."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }}
th, td {{ text-align: left; padding: 0.25em 0.7em; border-bottom: 1px solid #ddd; white-space: nowrap }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""
