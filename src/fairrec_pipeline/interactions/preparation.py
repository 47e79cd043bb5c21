"""When data have to be prepared: what they depend on, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from fairrec_pipeline.interactions.sources.raw_files import PARQUET, file_times, parquet_parts
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source
from fairrec_pipeline.storage import sha256

FORMAT = 4
"""Of the prepared data; raised when their files, or what they mean, change."""


class RawFile(BaseModel):
    """A raw file, as `raw_files.describe_file` says."""

    size: int
    mtime_ns: int
    sha256: str


class PreparedWith(BaseModel):
    """What the data depend on: the parameters (see `prepared_with`), and the raw files."""

    format: int
    dataset: str
    source: dict[str, Any]
    split: dict[str, Any]
    groups: dict[str, Any]
    raw_files: dict[str, RawFile]


class Statistics(BaseModel):
    """Those of the statistics of prepared data that others rely on; there are more."""

    dataset: str
    fingerprint: str
    group_fingerprints: dict[str, str]
    group_shares: dict[str, dict[str, dict[str, float]]]
    prepared_with: PreparedWith


class _Described(BaseModel):
    prepared_with: dict[str, Any] = {}


def check_statistics(content: Any) -> None:
    """Raise a ValidationError if a file lacks what others rely on; other formats are prepared again anyway."""
    TypeAdapter(dict[str, Any]).validate_python(content)  # names no class of ours in its message
    if _Described.model_validate(content).prepared_with.get("format") == FORMAT:
        Statistics.model_validate(content)


def prepared_with(dataset: str, source: Source, split: Split, groups: Groups) -> dict[str, Any]:
    """The parameters that the prepared data depend on, as JSON values.

    The `parameters` of a dataset's block are left out: those that matter here are already in `split` and `groups`.
    """
    return {
        "format": FORMAT,
        "dataset": dataset,
        "source": source.root.model_dump(mode="json", exclude={"parameters"}),
        "split": split.model_dump(mode="json"),
        "groups": groups.model_dump(mode="json"),
    }


def why_prepare(described: Mapping[str, Any] | None, wanted: Mapping[str, Any], folder: Path) -> str | None:
    """Say why data have to be prepared (again); None if they are there and as wanted.

    Args:
        described: `prepared_with` of the dataset's statistics, with its `raw_files`; None without statistics.
        wanted: `prepared_with` of the present parameters.
        folder: of the raw files. A raw file that is no longer there does not make the prepared data worse.

    Returns:
        The end of the sentence "the data ...".
    """
    if described is None:
        return "are not prepared yet"
    if described.get("format") != wanted["format"]:
        return "were prepared by an older version of this project"
    changed = [name for name in wanted if described.get(name) != wanted[name]]
    if changed:
        return f"were prepared with other parameters ({', '.join(changed)})"
    read = described.get("raw_files", {})
    for table in filter(None, (wanted["source"].get(name) for name in ("interactions", "users"))):
        if (parts := _files_of(folder, table)) and parts != {name for name in read if _is_of(name, table)}:
            return f"were prepared from other files of {table} than those in {folder}"
    for name, before in read.items():
        path = folder / name
        same = not path.exists() or file_times(path).items() <= before.items()
        if not same and (path.stat().st_size != before["size"] or sha256(path) != before["sha256"]):
            return f"were prepared from another {name} than the one in {folder}"
    return None


def _files_of(folder: Path, table: str) -> set[str]:
    """Names of the raw files of a table, which is one file or a folder of parts; none if it is gone."""
    path = folder / table
    names = {""} if path.is_file() else set(parquet_parts(path))
    return {(Path(table) / name).as_posix() for name in names}


def _is_of(name: str, table: str) -> bool:
    """Whether a raw file that was read is one of that table."""
    is_part = Path(name).is_relative_to(table) and Path(name).suffix.lower() in PARQUET
    return Path(name) == Path(table) or is_part
