"""Real servers as private processes: MariaDB, PostgreSQL, Redis, S3, embedding models."""
