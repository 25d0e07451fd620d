"""The HTTP side: API, repository files, live view. Handlers are thin: they call the repository and the fleet."""
