"""Weights that are downloaded: whether they can be, said at once."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from expcam.errors import ClassifierError

WITHOUT = "give a file with --weights, or leave out --model: the default needs no network"


def require_host(url: str, model: str) -> None:
    """Raise an error where a host is unknown here, instead of asking it for a minute in vain.

    Raises:
        ClassifierError: Its name cannot be looked up, and there is no proxy that could.
    """
    host = urlsplit(url).hostname or url
    if getproxies():
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise not_downloaded(model, f"no network: {host} is unknown here") from error


def not_downloaded(model: str, reason: object) -> ClassifierError:
    """The error for published weights that cannot be had."""
    first = (str(reason).strip() or type(reason).__name__).split("\n")[0]
    return ClassifierError(
        f"the weights of `{model}` are not on this machine and cannot be downloaded ({first}); "
        f"{WITHOUT}"
    )
