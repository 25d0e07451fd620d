"""From a publisher's folder to one package file, and back. Nothing is imported here, so that this stays cheap."""
