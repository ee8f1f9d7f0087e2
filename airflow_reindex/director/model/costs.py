"""The cost of a row: measured constants, for estimates of time, space and load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Costs:
    """
    Processor time in microseconds of one core; docs/benchmarks.md says how it was measured.

    :param machine: where it was measured.
    :param chunk: to read a chunk table, besides its rows.
    :param read_server: for a worker to send a row.
    :param read_client: for an extract task to decode, sort and write a row.
    :param merge: for a load task to gather and sort a row, and to write it as text.
    :param load: for the czar to load a row over one connection.
    :param load_many: the same over two connections or more, which slow each other down.
    :param verify: for the czar to verify a row.
    """

    machine: str
    chunk: float
    read_server: float
    read_client: float
    merge: float
    load: float
    load_many: float
    verify: float


#: make bench, on 2 cores of an AMD EPYC of 2024, MariaDB 10.11.
FAST = Costs(
    machine="a core of 2024 (AMD EPYC Turin)",
    chunk=250.0, read_server=0.13, read_client=0.11, merge=0.12, load=1.25, load_many=1.45, verify=0.19,
)  # fmt: skip
#: The same steps where one connection loads 271,000 rows/s and two load 330,000: three to four times as slow.
SLOW = Costs(
    machine="a core on which one connection loads 271,000 rows/s",
    chunk=800.0, read_server=0.4, read_client=0.35, merge=0.4, load=3.8, load_many=5.8, verify=0.65,
)  # fmt: skip

#: Estimates assume that more connections do not load one B-tree faster: no more were measured on cores of their own.
LOADING_CONNECTIONS = 2
#: Bytes per row: in the staged runs (random keys of 63 bits), as text, in the redo log (sorted LOAD DATA).
STAGED, TEXT, REDO = 7.0, 30.0, 68.0
