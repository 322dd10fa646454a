"""Files of Hugging Face's hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mars_assets.errors import MarsError
from mars_assets.progress import SILENT, Progress


def hub_file(repository: str, file: str, revision: str | None = None, progress: Progress = SILENT) -> Path:
    """Download a file of the hub, or find it in Hugging Face's cache.

    A broken download is resumed. A token is read only from ``HF_TOKEN``.

    Args:
        repository: of the hub, such as ``nasaharvest/galileo``.
        file: its path there.
        revision: a commit, tag or branch; None: the newest commit.
        progress: takes lines.

    Returns:
        Its path in the cache, ``.../snapshots/COMMIT/FILE``.

    Raises:
        MarsError: the hub cannot be reached, or does not give the file.
    """
    progress.say(f"fetching {file} of {repository} from Hugging Face or from its cache")
    what = f"{file} of https://huggingface.co/{repository} at revision {revision or 'main'}"
    # False, not None: None would fall back to a token saved on this machine.
    token = os.environ.get("HF_TOKEN") or False
    try:
        return Path(hf_hub_download(repository, file, revision=revision, token=token))
    except GatedRepoError as error:
        raise MarsError(f"{what} requires permission: request it on that page and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError) as error:
        raise MarsError(f"{what} does not exist or requires HF_TOKEN: check the revision") from error
    except HfHubHTTPError as error:
        raise MarsError(f"{what} was refused ({_first_line(error)}): try again later") from error
    except (LocalEntryNotFoundError, ConnectionError, HTTPError) as error:
        raise MarsError(
            f"{what} cannot be reached and is not in the cache ({_first_line(error)}). Connect this machine to the "
            "network, or download the file elsewhere and give its path (to prithvi_weights with source 'file')"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
