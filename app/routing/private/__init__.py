"""Kinds of private text: their forms, and the candidates that do not count.  `app/routing/detect.py` runs them."""
