"""The package repository: signed releases in a folder that any web server can serve, and their index."""
