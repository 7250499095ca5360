"""Refuses every connection and every name that leads off this machine.

Python imports a module of this name as it starts; `conftest` puts this folder on PYTHONPATH, so
that the processes that tests start are held to it too.
"""

import ipaddress
import socket
from typing import Any


def _refuse(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    try:
        here = name in (None, "", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        here = False
    if not here:
        raise RuntimeError(f"a test tried to reach {name!r}; tests stay on this machine")


def _guarded(function: Any) -> Any:
    def call(sock: socket.socket, *arguments: Any) -> Any:
        if sock.family != socket.AF_UNIX:
            _refuse(arguments[-1][0])  # the address comes last
        return function(sock, *arguments)

    return call


def _guarded_lookup(function: Any) -> Any:
    def call(host: Any, *arguments: Any, **named: Any) -> Any:
        _refuse(host)
        return function(host, *arguments, **named)

    return call


for _name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, _name, _guarded(getattr(socket.socket, _name)))
socket.getaddrinfo = _guarded_lookup(socket.getaddrinfo)
