"""Every exception of the package: one root, `ERP5Error`; each leaf is also the builtin that a caller would guess.

In a notebook they show as one line, without a frame of this package (`_render_traceback_` is IPython's hook for that). An
error that a remote cell raised is shown with the remote traceback, under the remote class's name: `remote_error`.
"""

import errno
import os
from collections.abc import Iterable, Sequence

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What follows the mention of a word that nobody knows: the known one that is near, or a full stop."""
    meant = near(word, known)
    return f'; did you mean {meant!r}?' if meant else '.'


def near(word: str, known: Iterable[str]) -> str:
    """The known word that may have been meant, '' if none is near."""
    from difflib import get_close_matches
    return next(iter(get_close_matches(word, list(known), 1)), '')


class ERP5Error(Exception):
    """The root. `str(error)` says what was expected, what came and what to do next. `lineno`: the line of the cell, if one is meant."""

    lineno: int = 0

    def _render_traceback_(self) -> list[str]:
        return [f'{type(self).__name__}: {self}']


# ---------------------------------------------------------------- from the client to the site
class TargetError(ERP5Error, ValueError):
    """The target of a connection cannot be understood: an unknown name, not a URL, an unusable setting."""


class OptionError(ERP5Error, ValueError):
    """A magic was called with an option or an argument that it does not have."""


class NotConnectedError(ERP5Error, ConnectionError):
    """There is no session, and none can be made without being told where."""


class SiteUnreachableError(ERP5Error, ConnectionError):
    """Nothing answered at the URL, or the connection broke. Whether a cell on its way was run is said in the text."""


class ConnectionLostError(SiteUnreachableError):
    """The connection broke after something had been sent."""


class NotASiteError(ERP5Error, ValueError):
    """Something answered at the URL, but not an ERP5 site."""


class UnauthorizedError(ERP5Error, PermissionError):
    """The site knows neither this user nor this password, or this user may not run code, or not in this notebook."""


class UnknownUserError(ERP5Error, LookupError):
    """No user of the site has this name."""


class NodeTimeoutError(ERP5Error, TimeoutError):
    """The node said nothing for longer than the limit."""


class StillRunningError(ERP5Error, TimeoutError):
    """A cell that nobody waited for has not ended yet."""


class UnsupportedError(ERP5Error, NotImplementedError):
    """This site, or this installation, cannot do what was asked."""


class WireError(ERP5Error, ValueError):
    """Bytes that are no message of `wire`."""


# ---------------------------------------------------------------- from the node
class NodeError(ERP5Error, RuntimeError):
    """A node cannot be started, stopped or asked."""


class ArchiveError(ERP5Error, ValueError):
    """A file that is not the whole export of a notebook, or a notebook that cannot be exported, or not to this file."""


class ConversionError(ERP5Error, ValueError):
    """A file that is no notebook of ERP5's own kernel, or one that cannot be converted, or not to this file."""


class NodeUnavailableError(NodeError, ConnectionError):
    """The site is there and cannot run anything at the moment: a proxy without a node, a node without its database."""


class CellLost(ERP5Error, RuntimeError):  # noqa: N818 - the name is part of the wire
    """The process, node or machine that ran a cell has gone. Nothing of the cell was saved, and it is not run again."""


class NotSavedError(ERP5Error, NameError):
    """A variable that an earlier cell assigned could not be saved, or its saved value cannot be loaded."""


class SerializationError(ERP5Error, TypeError):
    """A value cannot be serialized, or does not come back as what it was. `position`: of which of those in one dump, if it is known."""

    position: int | None = None


class ReferenceNeededError(ERP5Error, RuntimeError):
    """A dump that only notes what it visits has met an object that may have to be referred to."""


class StorageFullError(ERP5Error, OSError):
    """A large value cannot be written. `needed`, `free`: bytes on the disk of the database, or of this node's cache of it; `code`: of
    `errno`."""

    def __init__(self, needed: int, free: int, code: int) -> None:
        reason = os.strerror(code)
        super().__init__(f'{needed:,} bytes of a large value have no room in the database ({reason}): {free:,} bytes are free. Delete '
                         'what is not needed and run `ipython-erp5 pack`, or give the disk more room' if code in NO_ROOM else
                         f'{needed:,} bytes of a large value cannot be written to the files of the database ({reason}), or of the '
                         "node's cache of them: whoever operates the node has to make their directory writable")
        self.needed, self.free, self.code = needed, free, code


# ---------------------------------------------------------------- the environment
class EnvironmentDefinitionError(ERP5Error, TypeError):
    """`environment.define` was called in a way that cannot be kept."""


class EnvironmentUndefineError(ERP5Error, LookupError):
    """`environment.undefine` was called with an alias that is not defined, or with no literal text."""


class EnvironmentSetupError(ERP5Error, RuntimeError):
    """A setup that an earlier cell defined failed before this cell: none of the cell's own code was run."""


# ---------------------------------------------------------------- what a remote cell raised
class RemoteError(ERP5Error):
    """A remote cell raised. `ename`, `evalue` and `traceback` (lines) are as the node sent them."""

    ename: str = ''
    evalue: str = ''
    traceback: Sequence[str] = ()

    def __str__(self) -> str:
        return self.evalue

    def _render_traceback_(self) -> list[str]:
        return list(self.traceback) or [f'{self.ename}: {self.evalue}']


class RemoteInterrupt(RemoteError, KeyboardInterrupt):
    """A remote cell was interrupted: also for local code this is a `KeyboardInterrupt`, so that "Run all" stops."""


class CellTimeoutError(RemoteError, TimeoutError):
    """A remote cell ran longer than it may: `--timeout` of the cell, or `--cell-timeout` of the node."""


SPECIAL = {'KeyboardInterrupt': RemoteInterrupt, 'CellTimeoutError': CellTimeoutError}


def remote_error(ename: str, evalue: str, traceback: Sequence[str]) -> RemoteError:
    """An exception whose class is named like the remote one, so that a notebook's `error` output has the remote name."""
    base = SPECIAL.get(ename, RemoteError)
    error: RemoteError = type(ename or 'RemoteError', (base,), {'__module__': __name__, '__doc__': base.__doc__})(evalue)
    error.ename, error.evalue, error.traceback = ename, evalue, tuple(traceback)
    return error
