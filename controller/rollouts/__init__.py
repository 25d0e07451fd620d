"""Rollouts: which release a channel's devices are asked to take, and how far each of them is.

`plan` has the values, `engine` decides and touches nothing, `store` keeps both in the database.
"""
