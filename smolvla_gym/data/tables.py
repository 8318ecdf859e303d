"""Columns of Parquet files as NumPy arrays: sizes are bounded before reading, and types are checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import DatasetError, needs_extra
from smolvla_gym.utils.untrusted import printable

Kind = Literal["integer", "number", "vector", "text"]
"""Type of a column: int64 (N,), float64 (N,), float64 (N, components), or object (N,) of ``str``."""

_MAX_BYTES: Final = 4 << 30
"""Largest size in bytes of the columns of one file, as stated in its metadata. LeRobot's files have 100 MB."""

_BATCH: Final = 4096
"""Rows that are converted at a time."""

_FREE_ROWS: Final = 100_000
_ROWS_PER_BYTE: Final = 8
"""Largest number of rows, and of rows per byte of the file, whichever is more; real rows have time stamps.

A file that claims more rows is refused before memory is allocated for them.
"""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of reading a file of a dataset into a :class:`DatasetError` that names the file.

    Raises:
        DatasetError: The block failed.
        MissingExtraError: pyarrow is not installed.
    """
    with needs_extra("A dataset", "train"):
        import pyarrow as pa
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path} cannot be read ({printable(error, 200)}). Take another copy of the dataset."
        ) from error


def open_parquet(path: Path) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile`` of which only the metadata were read; the caller closes it.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: The file cannot be opened, or claims more rows than it can have.
    """
    import pyarrow.parquet as pq

    check_regular(path)
    file = pq.ParquetFile(
        path, thrift_string_size_limit=64 << 20, thrift_container_size_limit=1_000_000, memory_map=False
    )
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > max(_FREE_ROWS, _ROWS_PER_BYTE * size) or rows < 0:
        file.close()
        raise ValueError(f"it claims {rows} rows in {size} bytes")
    return file


def check_regular(path: Path) -> None:
    """Refuse a path that is not a regular file: opening a FIFO would block.

    Raises:
        OSError: The file is missing.
        ValueError: It is not a regular file, or is empty.
    """
    if not path.is_file():
        if not path.exists():
            raise FileNotFoundError("it is missing")
        raise ValueError("it is not a regular file")
    if path.stat().st_size == 0:
        raise ValueError("it is empty")


def read_columns(path: Path, wanted: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """Return columns of a Parquet file.

    Args:
        path: The file.
        wanted: Names and types of the columns.

    Raises:
        DatasetError: The file is missing or broken, claims to be too large, or a column is missing, has
            another type, or lacks a value.
        MissingExtraError: pyarrow is not installed.
    """
    with reading(path), contextlib.closing(open_parquet(path)) as file:
        names = file.schema_arrow.names
        for name in wanted:
            if names.count(name) != 1:
                raise ValueError(f"it has {'no' if name not in names else 'more than one'} column {name}")
        _check_size(file, wanted)
        # Texts stay a dictionary: a long text that a thousand rows repeat would otherwise fill the memory.
        texts = [name for name, kind in wanted.items() if kind == "text"]
        with contextlib.closing(_with_dictionaries(path, texts) if texts else file) as source:
            table = source.read(columns=list(wanted), use_threads=False)
        return {name: _convert(name, table.column(name), kind) for name, kind in wanted.items()}


def rewrite_columns(
    source: Path,
    target: Path,
    rename: Collection[str] | Callable[[str], str | None],
    changes: Mapping[str, Callable[[NDArray[Any]], Any]],
    add: Callable[[dict[str, NDArray[Any]]], Mapping[str, Any]] = lambda columns: {},
) -> None:
    """Write a copy of a Parquet file with other columns, a batch of rows at a time.

    Columns of texts, records and bytes are left out, and so is the schema's metadata, which describes the old columns.

    Args:
        source: The file.
        target: The copy; it must not exist.
        rename: Names of the columns to keep, or a function that returns the new name of a column, None to drop it.
        changes: For columns of vectors a function from their rows, shape (N, components), to an Arrow array.
        add: Function that returns further Arrow arrays by name, given the column ``episode_index`` of a batch.

    Raises:
        DatasetError: The source is broken or claims to be too large, or the copy cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    new_name = rename if callable(rename) else lambda name: name if name in rename else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(source))
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = stack.enter_context(contextlib.closing(open_parquet(source)))
        schema = file.schema_arrow
        kept = {
            field.name: name
            for field in schema
            if _is_numeric(field.type) and (name := new_name(field.name)) is not None
        }
        if len(set(kept.values())) != len(kept) or any(schema.names.count(name) != 1 for name in kept):
            raise ValueError("it has a column twice")
        for name in (*changes, "episode_index"):
            if name not in kept:
                raise ValueError(f"it has no column {name} of numbers")
        _check_size(file, dict.fromkeys(kept, "vector"))
        writer: Any = None
        for batch in file.iter_batches(_BATCH, columns=list(kept), use_threads=False):
            table = pa.Table.from_batches([batch])
            columns = {
                new: changes[old](_convert(old, table.column(old), "vector")) if old in changes else table.column(old)
                for old, new in kept.items()
            }
            index = {"episode_index": _convert("episode_index", table.column("episode_index"), "integer")}
            made = pa.table({**columns, **add(index)}).replace_schema_metadata(None)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(target, made.schema))
            writer.write_table(made)
        if writer is None:
            raise ValueError("it has no rows")


def _is_numeric(kind: Any) -> bool:
    """Return True for a column type of numbers, or of lists of numbers."""
    import pyarrow as pa

    while True:
        if isinstance(kind, pa.ExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        else:
            return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def column_names(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns.

    Raises:
        DatasetError: The file is missing or broken.
        MissingExtraError: pyarrow is not installed.
    """
    with reading(path), contextlib.closing(open_parquet(path)) as file:
        return list(file.schema_arrow.names)


def _with_dictionaries(path: Path, texts: list[str]) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, read_dictionary=texts)


def _check_size(file: Any, wanted: Mapping[str, Kind]) -> None:
    total, values = 0, 0
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for i in range(row_group.num_columns):
            column = row_group.column(i)
            if any(column.path_in_schema == name or column.path_in_schema.startswith(name + ".") for name in wanted):
                total += column.total_uncompressed_size
                values += column.num_values
    if total > _MAX_BYTES or 8 * values > _MAX_BYTES:
        raise ValueError(f"its columns claim {total} bytes and {values} values")


def _convert(name: str, column: Any, kind: Kind) -> NDArray[Any]:
    import pyarrow as pa

    if kind == "text":
        return np.array(_texts(name, column), dtype=object)
    rows = len(column)
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    depth = 0
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if array.null_count:
            raise ValueError(f"column {name} lacks a value")
        if not isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            break
        array, depth = array.flatten(), depth + 1
    integer = pa.types.is_integer(array.type)
    if not (integer or pa.types.is_floating(array.type)) or (depth and kind != "vector"):
        raise ValueError(f"column {name} has type {printable(column.type, 60)}")
    if kind == "integer" and not integer:
        raise ValueError(f"column {name} has type {printable(column.type, 60)}, not whole numbers")
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if kind == "integer":
        return values.astype(np.int64)
    values = values.astype(np.float64)
    if kind == "number":
        return values
    if rows and (len(values) % rows or (depth and not _same_lengths(column))):
        raise ValueError(f"the rows of column {name} have different lengths")
    return values.reshape(rows, -1) if rows else values.reshape(0, 1)


def _same_lengths(column: Any) -> bool:
    import pyarrow.compute as pc

    if getattr(column.type, "storage_type", None) is not None:
        return True  # LeRobot's Array2D and so on have one shape
    return len(pc.unique(pc.list_value_length(column))) == 1


def _texts(name: str, column: Any) -> list[str]:
    import pyarrow as pa

    texts: list[str] = []
    for chunk in column.chunks:
        if chunk.null_count:
            raise ValueError(f"column {name} lacks a value")
        if isinstance(chunk, pa.DictionaryArray):
            values = chunk.dictionary.to_pylist()
            texts += [values[i] for i in chunk.indices.to_pylist()]
        else:
            texts += chunk.to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {name} has type {printable(column.type, 60)}, not texts")
    return texts
