"""Kinds of private text: what each looks like, and which candidates do not count.  `app/routing/detect.py` runs them."""
