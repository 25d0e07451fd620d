"""Bundles: what is made of one side comes out on the other, and nothing else ever does."""
