"""gunicorn's worker, made for this application.

gunicorn.conf.py loads this package in the master.  It imports no module of the project except `descriptors`, because
other packages would load ssl before the gevent worker patches it.
"""
