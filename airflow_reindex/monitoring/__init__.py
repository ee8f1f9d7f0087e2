"""What is shown of a run, on its page and on the command line: figures from its folder and Airflow's task states."""
