"""Styles of a GeoPackage's layers, in QGIS's own format (QML)."""

from __future__ import annotations

_VIRIDIS = ["68,1,84", "59,82,139", "33,145,140", "94,201,98", "253,231,37"]
"""From improbable to certain, in equal steps of probability."""


def _qml(renderer: str) -> str:
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n<qgis version=\"3.28.0\">{renderer}</qgis>\n"


def _symbol(name: str, outline: str, width: float, fill: str | None = None) -> str:
    """Describe the symbol of a polygon; without ``fill`` only its outline is drawn."""
    options = {
        "color": fill or "0,0,0,0",
        "style": "solid" if fill else "no",
        "outline_color": outline,
        "outline_style": "solid",
        "outline_width": str(width),
        "outline_width_unit": "MM",
    }
    rows = "".join(f'<Option type="QString" name="{key}" value="{value}"/>' for key, value in options.items())
    layer = f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{rows}</Option></layer>'
    return f'<symbol type="fill" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">{layer}</symbol>'


def _single(symbol: str) -> str:
    return _qml(f'<renderer-v2 type="singleSymbol" enableorderby="0"><symbols>{symbol}</symbols></renderer-v2>')


def _by_probability() -> str:
    """Colour by calibrated probability, or else by the model's confidence."""
    steps = len(_VIRIDIS)
    ranges = "".join(
        f'<range symbol="{i}" lower="{i / steps:.1f}" upper="{(i + 1) / steps:.1f}" render="true" '
        f'label="{i / steps:.1f} - {(i + 1) / steps:.1f}"/>'
        for i in range(steps)
    )
    symbols = "".join(_symbol(str(i), f"{colour},255", 0.4) for i, colour in enumerate(_VIRIDIS))
    return _qml(
        '<renderer-v2 type="graduatedSymbol" attr="coalesce(&quot;probability&quot;, &quot;confidence&quot;)" '
        f'graduatedMethod="GraduatedColor" enableorderby="0"><ranges>{ranges}</ranges><symbols>{symbols}</symbols>'
        "</renderer-v2>"
    )


STYLES = {
    "craters": _by_probability(),
    "rims": _single(_symbol("0", "255,255,255,200", 0.15)),
    "counted_area": _single(_symbol("0", "31,120,180,255", 0.3, fill="31,120,180,40")),
}
"""By the layer's name."""
