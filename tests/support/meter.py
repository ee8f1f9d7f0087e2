"""Airflow's OpenTelemetry metrics, kept in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk._shared.observability.metrics.otel_logger import SafeOtelLogger
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

Points = dict[tuple[str, ...], float]


class Meter:
    """What was sent so far."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.logger: Any = SafeOtelLogger(MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False))

    def names(self) -> set[str]:
        """The names of this package's metrics."""
        return {name for name, _ in self._points()}

    def points(self, name: str, *labels: str, **wanted: str) -> Points:
        """The values of a metric by some of its tags, of the points that have the wanted tags."""
        return {
            tuple(str(tags[label]) for label in labels): value.value
            for found, value in self._points()
            if found == name and (tags := value.attributes or {}).items() >= wanted.items()
        }

    def _points(self) -> Iterator[tuple[str, NumberDataPoint]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name.startswith("airflow.reindex."):
                        for point in metric.data.data_points:
                            assert isinstance(point, NumberDataPoint)
                            yield metric.name, point


@contextmanager
def metered(backend: Any = None) -> Iterator[Meter]:
    """Let Airflow send its metrics to a meter, or to another backend."""
    meter = Meter()
    stats.initialize(factory=lambda: backend or meter.logger, export_legacy_names=True)
    try:
        yield meter
    finally:
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
