"""Addresses that are listened on."""

from __future__ import annotations

import ipaddress
import socket

from r1trt.errors import R1TrtError

LOOPBACK = "127.0.0.1"
BACKLOG = 128


class PortError(R1TrtError):
    """A port cannot be listened on."""


def listening_socket(host: str, port: int, *, fix: str) -> socket.socket:
    """Takes a port of this machine.

    Args:
        host: Address of the interface, or a name that stands for one.
        port: The port.
        fix: What to do where it is taken.

    Raises:
        PortError: It is taken, or not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise PortError("This is no address.", found=host, expected="such as 127.0.0.1 or 0.0.0.0") from error
    listening = socket.socket(family)
    # As servers do: a port that a closed connection still lingers on is free.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise PortError(
            f"Port {port} of this machine cannot be used.",
            where=None if host == LOOPBACK else host,
            found=error.strerror,
            fix=fix,
        ) from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
