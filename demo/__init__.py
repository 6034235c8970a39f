"""Run the router with a small real model: see `python -m demo`."""
