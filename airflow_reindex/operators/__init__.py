"""Airflow operators: thin wrappers around the steps, with XCom, retries and links."""
