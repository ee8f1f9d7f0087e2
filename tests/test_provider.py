"""What Airflow sees of the package: provider, connection form, settings, links, plugin."""

from __future__ import annotations

import json
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk.configuration import conf

from airflow_reindex import __version__
from airflow_reindex.config import integer
from airflow_reindex.core.failures import RequestError
from airflow_reindex.provider_info import get_provider_info


def manager() -> ProvidersManager:
    """Airflow's view of the installed providers."""
    return ProvidersManager()  # type: ignore[no-untyped-call]


def test_provider_info_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_airflow_finds_the_provider() -> None:
    found = manager()
    assert found.providers["airflow-reindex"].version == __version__
    assert found.hooks["qserv"].hook_name == "Qserv"  # type: ignore[union-attr]
    links = set(found.extra_links_class_names)
    assert {"airflow_reindex.operators.links.ReportLink", "airflow_reindex.operators.links.IndexLink"} <= links


def test_connection_form_has_the_fields_that_the_hook_reads() -> None:
    widgets = manager().connection_form_widgets
    names = {name.removeprefix("extra__qserv__") for name in widgets if name.startswith("extra__qserv__")}
    assert names == {
        "workers", "catalog", "replication_schema", "work_database", "staging_dir", "server_staging_dir", "tls",
            "worker_connections", "data_dir",
    }  # fmt: skip


def test_settings_have_defaults() -> None:
    assert conf.get("reindex", "allowed_conn_ids") == "qserv_*,collections_*"
    assert integer("claim_timeout") == 300


def test_a_setting_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__ROWS_PER_TASK", "many")
    with pytest.raises(RequestError, match=r"\[reindex\] rows_per_task must be a whole number from 1, not 'many'"):
        integer("rows_per_task")
