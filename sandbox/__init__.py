"""A small Qserv-like database cluster on this machine: one czar and several workers, all real MariaDB servers.

It is meant for tests, demonstrations and benchmarks:

* :mod:`sandbox.servers.cluster` starts and stops the servers,
* :mod:`sandbox.catalog.catalog` fills them with a made-up, partitioned sky catalog,
* :mod:`sandbox.fixtures` is a pytest plugin around both,
* ``python -m sandbox`` is the command line.

Nothing in here imports Airflow. The package itself imports nothing, so that the guard process stays small.
"""
