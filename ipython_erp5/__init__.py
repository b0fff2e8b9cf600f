"""Run marked cells of an IPython session on an ERP5 cluster: `%load_ext ipython_erp5`, or `connect` without IPython.

Importing this package, and loading the extension, imports nothing of Zope, dill or requests.
"""

from typing import TYPE_CHECKING

from .errors import ERP5Error

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .session import Session

__version__ = '0.1.0'
__all__ = ['ERP5Error', '__version__', 'connect', 'load_ipython_extension', 'unload_ipython_extension']


def connect(url: str | None = None, *, user: str | None = None, password: str | None = None, reference: str | None = None,
            title: str | None = None, serializer: str | None = None, ca_bundle: str | None = None, insecure: bool = False,
            trusted: bool = False, auth: str | None = None) -> 'Session':
    """A session with a notebook of a site; the site has answered and knows the user.

    `url` is the URL of a site, the name of a configured connection, or None: the default connection, else the embedded
    cluster. `trusted`: values that the site sends may be unpickled here, which lets it run code here. `auth`: how to show who you
    are, see `authentication`. Raises TargetError, SiteUnreachableError, NotASiteError or UnauthorizedError.
    """
    from . import connections
    from .credentials import Secret, ask
    from .session import open_session
    hidden, password = Secret(password or ''), None    # tracebacks may show what variables hold
    connection = connections.resolve(url, user=user, password=hidden, reference=reference, title=title, serializer=serializer,
                                     ca_bundle=ca_bundle, insecure=insecure, auth=auth, ask=ask)
    session = open_session(connection, trusted=trusted, ask=ask)
    session.check()
    return session


def load_ipython_extension(shell: 'InteractiveShell') -> None:
    """What `%load_ext` calls. Loading twice is loading once."""
    from . import extension
    extension.load(shell)


def unload_ipython_extension(shell: 'InteractiveShell') -> None:
    """What `%unload_ext` calls: nothing stays in the shell. Sessions are found again after a `%reload_ext`."""
    from . import extension
    extension.unload(shell)
