"""Public archives that are fetched when absent."""

from __future__ import annotations

from pathlib import Path

from fairrec_pipeline.errors import DataError


def download(url: str, md5: str, path: Path) -> None:
    """Fetch an archive, with a progress bar; `path` appears only when it is complete and its MD5 sum is right.

    Raises:
        DataError: no connection, the file that came has another sum, or it cannot be written.
    """
    # Imported here: only a machine without the file needs them.
    import pooch
    import requests

    bar = pooch.HTTPDownloader(progressbar=True)
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=bar)
    except (requests.RequestException, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = (
            f"{path} does not exist and could not be downloaded from {url}: {reason}. Without a connection, download "
            f"{url.rpartition('/')[2]} elsewhere and put it at {path}"
        )
        raise DataError(message) from error
