"""The agent: hears announcements, fetches, switches, proves, reports, and goes back by itself."""
