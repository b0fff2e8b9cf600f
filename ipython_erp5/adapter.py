"""The connections below a client: each request is sent once, and the system looks after what is silent.

    Client ─► Adapter ─► urllib3 ─► a socket with keepalives

A stock site may say nothing for hours while a cell runs. With keepalives no firewall forgets the connection then, and one whose other end
has gone is an error after two minutes, and not waited for for ever.
"""

import re
import socket
import warnings
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.connection import HTTPConnection
from urllib3.exceptions import InsecureRequestWarning

KEEPALIVE = {'TCP_KEEPIDLE': 60, 'TCP_KEEPINTVL': 15, 'TCP_KEEPCNT': 4}   # seconds, seconds, times; not every system has all of them


class Adapter(requests.adapters.HTTPAdapter):
    def __init__(self) -> None:
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        known = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in KEEPALIVE.items() if hasattr(socket, name)]
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *known]
        super().init_poolmanager(*args, **more, socket_options=options)


def do_not_warn(url: str) -> None:
    """Who has asked for a site whose certificate is not verified need not be warned of it at every request."""
    host = re.escape(repr(urlsplit(url).hostname))
    warnings.filterwarnings('ignore', f'Unverified HTTPS request is being made to host {host}', InsecureRequestWarning)
