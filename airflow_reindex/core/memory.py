"""How much memory a task may take: one setting, of which Airflow and the libraries have their part."""

from __future__ import annotations

#: What a task's process takes before its first row: Airflow's task runner, pyarrow and the driver, measured.
BASE_BYTES = 224 << 20
#: Less is not worth a task.
LEAST_BYTES = 32 << 20


def rows_that_fit(memory: int, bytes_per_row: int) -> int:
    """
    How many rows a task may hold.

    :param memory: bytes that the whole process may take.
    :param bytes_per_row: what a row takes, with all that is made of it.
    :returns: a number of rows, at least what :data:`LEAST_BYTES` hold.
    """
    return max(memory - BASE_BYTES, LEAST_BYTES) // bytes_per_row
