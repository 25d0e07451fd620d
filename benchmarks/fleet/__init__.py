"""What a controller costs with fleets of 100, 1 000 and 10 000 simulated devices: `python -m benchmarks.fleet`."""
