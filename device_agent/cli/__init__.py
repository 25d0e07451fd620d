"""The command `flotilla-agent`. Built on argparse: everything imported here stays in an agent's memory."""
