"""Define the kinds of private text: a pattern for each, and a check that rejects harmless candidates.

`app/routing/detect.py` runs them."""
