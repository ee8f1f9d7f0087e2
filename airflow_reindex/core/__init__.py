"""What both jobs share: plain Python, without Airflow and without a database driver."""
