"""A fleet of simulated devices: the agent's own decisions and its own words on the wire, with disks in memory.

Each device has its own connection to a real broker. What an update does to a disk is a course of timed steps
(`course.py`); everything that decides or is said is the agent's code.
"""
