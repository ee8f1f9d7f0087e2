"""An auth manager with rights on single DAGs, as larger deployments have them."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

#: Users who may see and run one DAG only.
RIGHTS = {"builder": {"build_director_index"}, "mover": {"reindex_collection"}}


class RightsManager(SimpleAuthManager):
    """Airflow's simple auth manager, and a list of DAGs for some of its users."""

    def is_authorized_dag(self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        """As the simple one decides, and within the user's list."""
        dags = RIGHTS.get(user.get_name())
        if dags is not None and (details is None or details.id not in dags):
            return False
        return super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
