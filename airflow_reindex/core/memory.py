"""How much memory a task may take: one setting, of which Airflow and the libraries have their part."""

from __future__ import annotations

#: What a task's process takes besides its rows, measured: 184 MiB for Airflow's task runner and imports, 50 for code
#: and allocators of pyarrow and the driver, the rest for what is encoded, decoded or sent at a time.
BASE_BYTES = 256 << 20
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
