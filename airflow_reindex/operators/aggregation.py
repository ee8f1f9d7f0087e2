"""The last task of each DAG: account for the run's work, write the report, and fail when the run is not done."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_reindex.core.report import Report, Status
from airflow_reindex.core.run_outcome import States, count_states, report_stands, task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT, now, task_records
from airflow_reindex.operators import metrics
from airflow_reindex.operators.base import ReindexOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class AggregationOperator(ReindexOperator):
    """
    Account for all work of a run, write the report, and fail when the run is not done.

    It needs the trigger rule ``all_done``: it must also run when everything before it failed.
    """

    #: The task ids whose states count, in their order.
    STEPS: ClassVar[Sequence[str]]
    #: What a report counts.
    UNIT: ClassVar[str]
    #: The metric that counts what a run made, and the report's field with that number; empty: none.
    OUTPUT: ClassVar[tuple[str, str] | tuple[()]] = ()
    #: The file that is dropped first when a run is done: without it the report alone describes the run; empty: none.
    STAGED: ClassVar[str] = ""

    @abstractmethod
    def account(self, context: Context, folder: Folder, states: Mapping[str, States]) -> tuple[Report, Iterable[str]]:
        """Return the report, and the kind of each failure."""

    def announce(self, context: Context, report: Mapping[str, Any]) -> None:
        """Emit the asset event of a run that is done."""

    def tidy(self, context: Context, folder: Folder) -> None:
        """Drop what a finished run needs no more; its report is written."""

    def is_finished(self, report: Report) -> bool:
        """Whether there is nothing to resume."""
        return report.status is Status.DONE

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Aggregate, and return the report; it is in XCom even when the task then fails.

        :raises AirflowFailException: the run is not done.
        """
        folder = self.folder(context)
        states = task_states(self.states_now(context), self.STEPS)
        tidied = self.STAGED and self.STAGED not in folder.names()
        if tidied and (standing := self._standing_report(folder, states)):
            self.announce(context, standing)
            return standing
        report, kinds = self.account(context, folder, states)
        folder.write_json(REPORT, report.as_dict())
        self.log.info(
            "status %s: %s of %s %s, %s failed%s",
            report.status,
            report.count,
            report.total,
            self.UNIT,
            report.failed,
            f"; {report.detail}" if report.detail else "",
        )
        made = {self.OUTPUT[0]: getattr(report, self.OUTPUT[1])} if self.OUTPUT else {}
        # First of all: a try after this one takes the report that stands, and counts nothing again.
        if self.is_finished(report):
            self.tidy(context, folder)
        metrics.count_run(context, report, made, kinds)
        if report.status is Status.DONE:
            self.announce(context, report.as_dict())
        return self.conclude(context, report)

    def _standing_report(self, folder: Folder, states: Mapping[str, States]) -> dict[str, Any] | None:
        """The run's earlier report as of now; ``None`` when a task that failed since invalidates it."""
        written = folder.read_json(REPORT)
        if written is None or not report_stands(written, states, task_records(folder)):
            return None
        written.update(updated_at=now(), children=count_states(states))
        folder.write_json(REPORT, written)
        return dict(written)
