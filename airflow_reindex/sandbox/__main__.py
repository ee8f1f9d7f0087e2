"""Entry point of ``python -m airflow_reindex.sandbox``."""

import sys

from airflow_reindex.sandbox.cli import main

sys.exit(main())
