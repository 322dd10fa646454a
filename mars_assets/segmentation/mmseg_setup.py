"""Preparation of MMSegmentation for use in this process.

This is the only place with side effects on mmseg, mmcv and mmengine.

Its advice and greetings are hidden; what a user needs to know is reported by ``Progress``.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def mmseg_ready() -> Iterator[None]:
    """Register this project's parts and make mmseg's registries the default.

    Within the context, mmseg's warnings are hidden: they are about choices made on purpose, which are two output
    channels for two classes, no compiled operators, and how losses are averaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(mmseg|mmcv|mmengine)\b")
        with contextlib.redirect_stdout(io.StringIO()):  # mmseg prints which optional packages it misses
            import mars_assets.segmentation.registry  # noqa: F401
        from mmengine.registry import init_default_scope

        init_default_scope("mmseg")
        yield
