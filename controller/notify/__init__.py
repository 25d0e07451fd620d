"""Tells people and machines what they would want to be woken for: kept in the database until it is delivered."""
