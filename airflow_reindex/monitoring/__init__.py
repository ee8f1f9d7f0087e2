"""Data shown of a run, on its page and on the command line: from its folder and Airflow's task states."""
