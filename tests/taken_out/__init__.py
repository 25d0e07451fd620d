"""Each promise with the code that keeps it and the tests that fail without that code; `make taken-out` tries it."""
