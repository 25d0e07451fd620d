"""Database revisions, run by `controller.database.open_database`. Each step is a file in `versions/`."""
