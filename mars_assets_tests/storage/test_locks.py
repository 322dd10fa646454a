import os
import stat
from pathlib import Path

from mars_assets.storage.locks import lock_of


def test_another_user_of_the_group_can_take_a_lock(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with lock_of(tmp_path / "lock"):
            mode = stat.S_IMODE((tmp_path / "lock").stat().st_mode)
    finally:
        os.umask(before)
    assert mode == 0o664
