"""Public archives that are fetched when absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairrec_pipeline.errors import DataError


@dataclass(frozen=True)
class Archive:
    """A file on the web, with its MD5 sum."""

    name: str
    url: str
    md5: str


MOVIELENS_1M = Archive(
    "ml-1m.zip", "https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"
)


def download(archive: Archive, path: Path) -> None:
    """Fetch an archive, with a progress bar; `path` appears only when it is complete and its sum is right.

    Raises:
        DataError: no connection, or the file that came has another sum.
    """
    # Imported here: only a machine without the file needs them.
    import pooch
    import requests

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=True),
        )
    except (requests.RequestException, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = (
            f"{path} does not exist and could not be downloaded from {archive.url}: {reason}. Without a connection, "
            f"download {archive.name} elsewhere and put it at {path}"
        )
        raise DataError(message) from error
