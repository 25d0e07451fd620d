"""Whole stories with real processes."""
