"""What bundles cost and what they save, on real pairs of releases: `python -m benchmarks.bundles --help`."""
