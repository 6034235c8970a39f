"""What gunicorn (`wsgi:app`) and the `flask` command load."""

import sys

from app.errors import PolicyError
from app.factory import create_app

try:
    app = application = create_app()
except PolicyError as error:
    sys.stderr.write(error.message + "\n")
    sys.exit(3)
