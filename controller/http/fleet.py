"""`/api/v1/releases`, `rollouts`, `devices` and `watch`: what is asked of the fleet, and what it answers."""
