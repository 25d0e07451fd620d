"""One module a revision. A revision that was released is never changed; a later one mends it."""
