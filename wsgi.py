"""Create the application for gunicorn (`wsgi:app`) and for the `flask` command."""

import sys

from app.errors import PolicyError
from app.factory import create_app

try:
    app = application = create_app()
except PolicyError as error:
    sys.stderr.write(error.message + "\n")
    sys.exit(3)
