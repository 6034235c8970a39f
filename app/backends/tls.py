"""Create the TLS context for backends, with the trusted certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util import ALPN_PROTOCOLS, create_urllib3_context

from app.backends.failures import AuthoritiesError
from app.descriptors import NONE_LEFT


def client_context(authorities: str = "") -> ssl.SSLContext:
    """Return the context for all connections to a backend.

    `authorities` is a file or a folder of certificates to trust instead of the public ones in requests' package.
    Raise AuthoritiesError with the reason when it cannot be used.
    """
    context = create_urllib3_context()
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    path = Path(authorities or DEFAULT_CA_BUNDLE_PATH)
    try:
        if path.is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise AuthoritiesError(f"{path}, which holds no certificate in PEM form") from None
    except OSError as error:
        if error.errno in NONE_LEFT:
            raise
        raise AuthoritiesError(f"{path}: {(error.strerror or 'it cannot be read').lower()}") from None
    return context
