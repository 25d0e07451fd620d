"""Updates cut off at any instant: every call that changes something on the disk, killed or refused."""
