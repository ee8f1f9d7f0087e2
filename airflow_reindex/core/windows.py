"""Division of work into weighted groups, coarse enough that a mapped task is worth its overhead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Airflow's ``[core] max_map_length``: the most mapped tasks that one XCom list may make.
MAX_MAPPED_TASKS = 1024


def task_count(weight: float, per_task: float, *, least: int = 1, most: int = MAX_MAPPED_TASKS) -> int:
    """
    The number of mapped tasks for an amount of work, from 1 to ``most``.

    :param weight: the work in rows, or in what else ``per_task`` counts.
    :param least: the fewest tasks wanted, for parallelism.
    :param most: the most tasks allowed; beyond it the work per task grows.
    :raises ValueError: when ``per_task`` is not positive, or ``most`` is below 1.
    """
    if per_task <= 0 or most < 1:
        raise ValueError("per_task must be positive and most at least 1")
    return max(1, min(most, max(least, -(-int(weight) // max(1, int(per_task))))))


def contiguous_groups(weights: Sequence[float], groups: int) -> Iterator[range]:
    """
    Cut a sequence into at most ``groups`` contiguous, non-empty groups of about equal weight.

    Every position is in exactly one group, in order.

    :param weights: the weight of each item, not negative.
    :raises ValueError: when ``groups`` is below 1.
    """
    if groups < 1:
        raise ValueError("groups must be at least 1")
    total, start, reached, made = float(sum(weights)), 0, 0.0, 0
    for position, weight in enumerate(weights):
        reached += weight
        left = len(weights) - position - 1
        full = total > 0 and reached >= total * (made + 1) / groups
        # The last group takes the rest; items without any weight are distributed evenly.
        even = total == 0 and (position + 1) * groups >= (made + 1) * len(weights)
        if (full or even) and made < groups - 1 and left:
            yield range(start, position + 1)
            start, made = position + 1, made + 1
    if start < len(weights):
        yield range(start, len(weights))
