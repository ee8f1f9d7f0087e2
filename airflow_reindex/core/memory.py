"""How many rows fit into a task's memory, after what Airflow and the libraries take of it."""

from __future__ import annotations

#: What a task's process takes besides its rows, as measured: 184 MiB for Airflow's task runner and imports, 50 MiB for
#: code and allocators of pyarrow and the driver, the rest for what is encoded, decoded or sent at a time.
BASE_BYTES = 256 << 20
#: The least that a task gets for rows: with less it is not worth running.
LEAST_BYTES = 32 << 20


def rows_that_fit(memory: int, bytes_per_row: int) -> int:
    """
    The number of rows that a task may hold.

    :param memory: bytes that the whole process may take.
    :param bytes_per_row: what a row takes, with everything that is derived from it.
    """
    return max(memory - BASE_BYTES, LEAST_BYTES) // bytes_per_row
