"""The controller: builds, stores and announces releases, and keeps the books on the fleet."""
