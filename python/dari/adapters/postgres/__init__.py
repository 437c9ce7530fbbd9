"""PostgreSQL: where metadata, rows and conversations live."""
