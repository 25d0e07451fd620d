"""The command `flotilla`. Each module holds the commands of one kind; `main` loads only the one that is called."""
