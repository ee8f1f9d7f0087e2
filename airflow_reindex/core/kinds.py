"""The kind of a failure: a few fixed names, as metrics need them."""

from __future__ import annotations

import re

#: The first pattern that matches decides; a server's error number says more than the words around it.
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("lost_task", r"left no error: it was killed"),
        ("duplicate_keys", r"duplicate key\(s\)|errno: 1062\b"),
        ("missing_table", r"errno: (1049|1146|1932)\b"),
        ("access", r"errno: (1044|1045|1142|1143|1698)\b"),
        ("disk_full", r"[Nn]o space left|GB left, |errno: (3|28|1021|1114)\b"),
        ("connection", r"Failed to connect|no MySQL connection|errno: (0|1040|1053|1152|1159|1161|1203|1927|20\d\d)\b"),
        ("bad_data", r"is NULL in|out of range for|is not an integer column|errno: 1054\b"),
    )
)


def failure_kind(message: str) -> str:
    """
    Classify a failure by its message.

    :returns: ``lost_task``, ``duplicate_keys``, ``missing_table``, ``access``, ``disk_full``, ``connection``,
        ``bad_data`` or ``other``.
    """
    return next((kind for kind, pattern in _PATTERNS if pattern.search(message)), "other")
