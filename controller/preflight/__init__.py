"""What a release would do, said before it is announced; nothing is changed by it.

`rules` foresees one device and touches nothing, `gathering` reads what it needs from the database and the repository,
`openings` knows when devices may start, `pace` goes by what earlier rollouts took.
"""
