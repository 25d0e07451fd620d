"""The steps of an update, one module each, named as in the life cycle. Each may be done again after a restart."""
