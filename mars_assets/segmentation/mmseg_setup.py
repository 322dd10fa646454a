"""MMSegmentation made ready, and without its greetings and advice: what a person needs to know, ``Progress`` says."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def mmseg_ready() -> Iterator[None]:
    """Registers this project's parts and makes mmseg's registries the default.

    Hides warnings about choices made on purpose: two output channels for two classes, no compiled operators, how
    losses are averaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(mmseg|mmcv|mmengine)\b")
        with contextlib.redirect_stdout(io.StringIO()):  # mmseg prints which optional packages it misses
            import mars_assets.segmentation.registry  # noqa: F401
        from mmengine.registry import init_default_scope

        init_default_scope("mmseg")
        yield
