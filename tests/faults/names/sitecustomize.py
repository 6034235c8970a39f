"""Put on PYTHONPATH of a router: name resolution for the privacy matrix, below everything that Python imports.

`flips.example` leads home while locality is looked up (no port is asked for then), and elsewhere when it is called;
`flips.localhost` likewise.
"""

import _socket

_real = _socket.getaddrinfo


def _getaddrinfo(host, port, *rest, **named):
    name = host.decode() if isinstance(host, bytes) else host
    name = "flips.example" if name == "flips.localhost" else name
    home, elsewhere = "127.0.0.1", "127.0.0.2"
    known = {"home.example": [home], "both.example": [home, elsewhere], "flips.example": [home]}
    if name == "flips.example" and port:
        known[name] = [elsewhere]
    if name == "both.example" and port:
        known[name] = [elsewhere]
    if name in known:
        return [found for address in known[name] for found in _real(address, port, *rest, **named)]
    if isinstance(name, str) and name.endswith(".example"):
        raise _socket.gaierror(-2, "Name or service not known")
    return _real(host, port, *rest, **named)


_socket.getaddrinfo = _getaddrinfo
