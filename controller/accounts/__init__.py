"""Who may do what: people with passwords and sessions, machines with tokens, and the log of every change."""
