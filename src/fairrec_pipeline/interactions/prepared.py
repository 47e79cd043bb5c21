"""A prepared dataset as a training and an evaluation read it: flat arrays and groups, made ready once."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import (
    ATOMIC,
    ITEM,
    POSITION,
    ROLE,
    STANDARD_SPLITS,
    TRAIN,
    USER,
)
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.interactions.parts import concatenated, histories_of, whole_users
from fairrec_pipeline.interactions.statistics import RowHashes, group_fingerprints

if TYPE_CHECKING:
    import ibis.expr.types as ir

_PARTS = ("train", "validation", "test")
_ROWS_AT_ONCE = 2**20
_LOCAL_HEADER = struct.Struct("<26s2H")  # of a member of a zip archive; it ends in the lengths of name and extra field
_PADDING = struct.Struct("<2H")  # head of an extra field: what it is, and its length
_ZIP64 = 20  # bytes of the extra field that a member of any size has
_ALIGNED = 64
_ARRAYS = ("users", "items", "offsets", "targets", "repeats")


@dataclass(frozen=True)
class PreparedHistories:
    """Every history of a prepared dataset.

    Attributes:
        train, validation, test: the last two with targets; one catalogue for all.
        fingerprint: of the interactions with their roles (see `statistics.fingerprint`).
    """

    train: Histories
    validation: Histories
    test: Histories
    fingerprint: str

    @classmethod
    def of(cls, interactions: pd.DataFrame) -> PreparedHistories:
        """Arrays of a table with the columns user_id, item_id, position, role; rows in any order."""
        catalogue = np.unique(interactions.loc[interactions[ROLE] == TRAIN, ITEM].to_numpy())
        return cls._of_parts([interactions.sort_values([USER, POSITION])], catalogue)

    @classmethod
    def read(cls, interactions: ir.Table) -> PreparedHistories:
        """Arrays of a table as `of` takes, which need not fit into memory; its rows are ordered by user and position.

        DuckDB reads a file in the order of its rows. Spark reads the parts of one in any order, and sorts them here.

        Raises:
            DataError: they are not in that order.
        """
        seen = interactions.filter(interactions[ROLE] == TRAIN).select(ITEM).distinct().order_by(ITEM)
        catalogue = seen.to_pandas()[ITEM].to_numpy()  # before the stream, which another query would close
        rows = interactions.select(USER, ITEM, POSITION, ROLE)
        ordered = rows if rows.get_backend().name == "duckdb" else rows.order_by(USER, POSITION)
        batches = ordered.to_pyarrow_batches(chunk_size=_ROWS_AT_ONCE)
        tables = (batch.to_pandas() for batch in batches if len(batch))
        return cls._of_parts(tables, catalogue)

    @classmethod
    def _of_parts(cls, tables: Iterable[pd.DataFrame], catalogue: np.ndarray) -> PreparedHistories:
        hashes, parts = RowHashes((USER, ITEM, POSITION, ROLE)), []
        for table in whole_users(tables):
            hashes.add(table)
            parts.append(histories_of(table, catalogue))
        found, of_roles = hashes.hexdigest(), [list(of_role) for of_role in zip(*parts, strict=True)]
        del hashes, parts  # what is put together goes at once: the arrays are large
        train, validation, test = (concatenated(of_roles.pop(0)) for _ in _PARTS)
        return cls(train, validation, test, found)

    def save(self, file: IO[bytes]) -> None:
        """Write the arrays as `numpy.savez` does, each where it can be mapped: at a multiple of 64 bytes."""
        arrays = {f"{part}.{name}": getattr(getattr(self, part), name) for part in _PARTS for name in _ARRAYS}
        arrays |= {"catalogue": self.train.catalogue, "fingerprint": np.array(self.fingerprint)}
        present = {name: _packed(array) for name, array in arrays.items() if array is not None}
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in present.items():
                info = zipfile.ZipInfo(f"{name}.npy")
                begins = file.tell() + _LOCAL_HEADER.size + len(info.filename) + _PADDING.size + _ZIP64
                fill = -begins % _ALIGNED
                info.extra = _PADDING.pack(0xD935, fill) + bytes(fill)  # as zipalign has it
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> PreparedHistories:
        """Map what `save` wrote: after one look at the whole file, arrays are read from it where they are used.

        Raises:
            zipfile.BadZipFile: the file is damaged or holds something else.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is not what was written")
                mapped = {
                    info.filename.removesuffix(".npy"): _mapped(archive, info, path) for info in archive.infolist()
                }
            arrays = {name: _unpacked(array) for name, array in mapped.items()}
            fields: dict[str, Any] = {"fingerprint": str(arrays["fingerprint"])}
            for part in _PARTS:
                of_part: dict[str, Any] = {name: arrays.get(f"{part}.{name}") for name in _ARRAYS}
                fields[part] = Histories(catalogue=arrays["catalogue"], **of_part)
            return cls(**fields)
        except (KeyError, ValueError, EOFError, TypeError) as error:
            raise zipfile.BadZipFile(f"it does not hold prepared histories: {error}") from error


@dataclass(frozen=True)
class PreparedData(PreparedHistories):
    """The histories and the groups of a prepared dataset; it may be sent to another process.

    Attributes:
        split: the parameters of the split.
        group_fingerprints: of every column of labels in `user_groups`.
    """

    dataset: str
    split: Mapping[str, Any]
    user_groups: pd.DataFrame
    group_fingerprints: Mapping[str, str]

    def groups_fingerprint(self, groups: str | None) -> str | None:
        """Fingerprint of the groups that a loss uses (see `combined_fingerprint`)."""
        return combined_fingerprint(self.group_fingerprints, groups)


def prepare_data(
    histories: PreparedHistories, user_groups: pd.DataFrame, statistics: Mapping[str, Any], dataset: str
) -> PreparedData:
    """Put together what training and evaluation read.

    Raises:
        DataError: the statistics describe another dataset, other interactions or other groups.
    """
    present = {"interactions": histories.fingerprint, **group_fingerprints(user_groups)}
    described = {"interactions": statistics.get("fingerprint"), **statistics.get("group_fingerprints", {})}
    other = sorted(name for name in {*present, *described} if present.get(name) != described.get(name))
    if statistics["dataset"] != dataset or other:
        what = f" that differ in {', '.join(other)}" if other else ""
        raise DataError(
            f"interactions and user_groups are not the prepared data of {dataset}: dataset_statistics describes data "
            f"of {statistics['dataset']}{what}; run: kedro run --pipelines=data --params dataset={dataset}"
        )
    split = statistics["prepared_with"]["split"]
    fingerprints = statistics["group_fingerprints"]
    return PreparedData(
        **vars(histories), dataset=dataset, split=split, user_groups=user_groups, group_fingerprints=fingerprints
    )


def combined_fingerprint(of_columns: Mapping[str, str], groups: str | None) -> str | None:
    """Fingerprint of a column of labels; None without groups, or where there is no such column.

    `atomic` is made of pop33 and seq33, so its fingerprint is made of theirs.
    """
    if groups != ATOMIC:
        return of_columns.get(groups) if groups else None
    parts = [of_columns.get(name, "") for name in STANDARD_SPLITS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _mapped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """An array of an archive that is not compressed; what is assigned to it stays in this process.

    Raises:
        ValueError: the member is compressed, no array, or one of objects.
    """
    other = ValueError(f"{info.filename} is of another format")
    with archive.open(info) as member:
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(member) != (1, 0):
            raise other
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        header = member.tell()
    if dtype.hasobject:  # a map of pointers; NumPy would want a pickle
        raise other
    if 0 in shape:
        return np.empty(shape, dtype)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        *_, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + name + extra + header
    return np.memmap(path, dtype, "c", start, shape).view(np.ndarray)  # plain: another process gets a copy of it


def _packed(array: np.ndarray) -> np.ndarray:
    """Texts as one JSON list in bytes: an array of texts would give every id the room of the longest."""
    return np.frombuffer(json.dumps(array.tolist()).encode(), np.uint8) if array.dtype == object else array


def _unpacked(array: np.ndarray) -> np.ndarray:
    return np.array(json.loads(bytes(array)), dtype=object) if array.dtype == np.uint8 else array
