"""The fleet as the controller knows it: devices, their events, what they are told, and who watches.

`intake` takes messages in and acknowledges them after the commit, `registry` answers questions,
`orders` keeps what single devices are told, `service` runs all of it on one connection to the broker.
"""
