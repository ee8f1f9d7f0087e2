"""Airflow with Celery workers on this machine."""
