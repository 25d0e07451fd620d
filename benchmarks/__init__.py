"""Measurements, each against a baseline of the same run. They print tables; what must hold is tested elsewhere."""
