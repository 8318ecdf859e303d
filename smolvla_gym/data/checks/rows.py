"""Read the rows of a dataset for the checks: all rows of the files that can be read."""

from __future__ import annotations

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.files import FileReport
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.rows import Rows, join_rows, read_file_rows, row_columns
from smolvla_gym.data.tables import column_names
from smolvla_gym.errors import DatasetError


def read_rows(info: DatasetInfo, report: FileReport) -> tuple[Rows | None, list[Finding]]:
    """Read the rows of all files that can be read.

    Returns:
        The rows, None where there are none; and the defects of the files.
    """
    findings: list[Finding] = []
    wanted = row_columns(info)
    tables = []
    for path in sorted({episode.data for episode in report.episodes} - report.problems.keys()):
        try:
            table = read_file_rows(info, path, wanted)
            if absent := sorted(_columns(info) - set(column_names(path))):
                findings.append(finding("missing_column", f"{path} has no column {', '.join(absent[:3])}"))
        except DatasetError as problem:
            findings.append(finding("unreadable_file", str(problem)))
            continue
        tables.append(table)
    columns = join_rows(tables)
    if columns is None:
        return None, findings
    return Rows.of(info, columns), findings


def _columns(info: DatasetInfo) -> set[str]:
    """Return the features that are columns; LeRobot may leave out the optional ones, whose values are language."""
    return {name for name, feature in info.features.items() if feature.dtype not in ("video", "language", "string")}
