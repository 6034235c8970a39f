"""Run the router before a small real model: see `python -m demo`."""
