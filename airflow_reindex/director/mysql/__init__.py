"""MySQL and MariaDB: sessions, types, the binary protocol, bulk loads, disk space."""
