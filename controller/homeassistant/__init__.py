"""An optional bridge to Home Assistant: each package on each device as an `update` entity, and sensors for health."""
