"""An Airflow 3 provider that rebuilds indexes."""

__version__ = "0.1.0"
