"""The magics that connect and run cells: parse what the user typed, ask the session, publish the answer.

    %erp5_connect ─► connections.resolve ─► Session, kept by its connection's name; the last connected is the default
    %%erp5        ─► Session.execute(cell) ─► Display ─► RemoteResult or the remote error
    %erp5 EXPR    ─► the same, and the value itself where it can travel

What requests or dill would import is imported by the first magic that needs it. `extension` puts the magics into a shell.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Bool, Enum, Float, List, Unicode

from . import wire
from .display import NORMAL, QUIET, VERBOSE, Display, without_colors, write
from .errors import OptionError, RemoteError, UnsupportedError
from .options import parse
from .sessions import Sessions, described, resolve, serializer_of, sessions_of

if TYPE_CHECKING:
    from .reply import Reply
    from .session import Session

LATER = ('push', 'pull', 'noblock')


@magics_class
class ERP5Magics(Magics):
    """Run cells on an ERP5 cluster."""

    shell: InteractiveShell
    loaded: Any = None  # what `extension` has put into the shell

    url = Unicode('', help='The site, or the configured connection, for %erp5_connect without a target.').tag(config=True)
    user = Unicode('', help='The user, where no option names one.').tag(config=True)
    reference = Unicode('', help='The reference of the notebook, where no option names one.').tag(config=True)
    serializer = Unicode('', help='What keeps the variables: cloudpickle, dill, zodbpickle or an installed one.').tag(config=True)
    ca_bundle = Unicode('', help="The certificates of the authorities that sign the site's.").tag(config=True)
    auth = Unicode('', help='How to show who you are: basic, bearer, certificate or an installed one.').tag(config=True)
    insecure = Bool(False, help="Do not verify the site's certificate, and allow plain HTTP.").tag(config=True)
    trusted_sites = List(Unicode(), help='URLs of sites that may send pickles, which can run code here.').tag(config=True)
    timeout = Float(20.0, help='Seconds of silence after which a node has gone; 0: wait for ever.').tag(config=True)
    autoconnect = Bool(True, help='Connect to the default target when a cell needs a session and there is none.').tag(config=True)
    feedback = Enum((QUIET, NORMAL, VERBOSE), NORMAL, help='0: outputs, and what was not saved; 1: also warnings, and a line for '
                    'a connection; 2: also a line for each cell.').tag(config=True)

    @property
    def sessions(self) -> Sessions:
        return sessions_of(self.shell)

    # ------------------------------------------------------------ cells
    @no_var_expand
    @output_can_be_silenced
    @magic_arguments()
    @argument('--no-history', action='store_true', help='Leave no line in the notebook\'s history.')
    @argument('--connection', metavar='NAME', help='The session that runs it, if not the last connected one.')
    @argument('--push', metavar='NAMES', help='Not available in this version.')
    @argument('--pull', metavar='NAMES', help='Not available in this version.')
    @argument('--timeout', metavar='S', help='Seconds after which the cell is ended, from when it begins.')
    @argument('--noblock', action='store_true', help='Not available in this version.')
    @line_cell_magic
    def erp5(self, line: str, cell: str | None = None) -> Any:
        """Run the cell on the connected site; as a line magic, evaluate the expression there."""
        if cell is None:
            return self._evaluate(line)
        options = parse(self.erp5, line)
        for name in LATER:
            if getattr(options, name):
                raise UnsupportedError(f'%%erp5 --{name} is not available in this version: leave it out')
        display = Display(self.shell, self.feedback)
        if options.timeout is not None:
            wire.seconds(options.timeout or '0')  # before anything is connected
        self._execute(self.session(options.connection), cell, display, store_history=not options.no_history, timeout=options.timeout)
        return display.result

    def _evaluate(self, expression: str) -> Any:
        if not expression.strip():
            raise OptionError('%erp5 needs an expression, such as: %erp5 context.getTitle(). A whole cell goes below %%erp5')
        session, display = self.session(), Display(self.shell, self.feedback)
        reply = self._execute(session, expression, display, pull='_')
        return None if display.result is None else pulled(session, reply, display.result)

    def _execute(self, session: 'Session', code: str, display: Display, **options: Any) -> 'Reply':
        """Run it and show it. A shell without colours gets the remote traceback without them."""
        try:
            return session.execute(code, on_message=display.take, **options)
        except RemoteError as error:
            if self.shell.colors == 'nocolor':
                error.traceback = [without_colors(line) for line in error.traceback]
            raise

    # ------------------------------------------------------------ connections
    @no_var_expand
    @magic_arguments()
    @argument('target', nargs='?', metavar='TARGET', help='A URL such as https://host/erp5, the name of a configured connection, '
              'or nothing: the default connection, else the embedded cluster, started if none runs.')
    @argument('--user', help='The user on the site.')
    @argument('--reference', help='The notebook: who gives the same one again finds its variables.')
    @argument('--title', help='The title of a new notebook.')
    @argument('--serializer', help='What keeps the variables: cloudpickle, dill, zodbpickle or an installed one.')
    @argument('--ca-bundle', metavar='FILE', help='The certificates of the authorities that sign the site\'s.')
    @argument('--auth', metavar='NAME', help='How to show who you are: basic, bearer, certificate or an installed one.')
    @argument('--insecure', action='store_true', help='Do not verify the site\'s certificate.')
    @line_magic
    def erp5_connect(self, line: str) -> None:
        """Connect to a site and one of its notebooks."""
        options = parse(self.erp5_connect, line)
        self._connect(options.target, options)

    @no_var_expand
    @magic_arguments()
    @argument('name', nargs='?', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_disconnect(self, line: str) -> None:
        """Close a session. Its notebook stays on the site."""
        name = parse(self.erp5_disconnect, line).name or self.sessions.default
        session = self.sessions.existing(name)
        session.close()
        self.sessions.remove(name)
        self.tell(f'Disconnected from {described(session)}\n')

    def _connect(self, target: str | None, options: Namespace | None = None) -> 'Session':
        from .session import open_session
        connection = resolve(self.shell, target, options or Namespace(), self)
        trusted = connection.url.rstrip('/') in [site.rstrip('/') for site in self.trusted_sites]
        session = open_session(connection, trusted=trusted, timeout=self.timeout)
        known = session.check()
        serializer = serializer_of(session)
        self.sessions.add(connection.name, session)
        kept = f"({'existing' if known else 'new'}), serializer {serializer}"
        self.tell(f'Connected: {described(session)} {kept}\n')
        return session

    # ------------------------------------------------------------ for the other magics
    def session(self, name: str | None = None) -> 'Session':
        """The session of that name, or the default one; a first one is connected if there is none."""
        if (name or self.sessions.default) in self.sessions.by_name:
            return self.sessions.by_name[name or self.sessions.default]
        if not self.autoconnect or self.sessions.left and not name:
            return self.sessions.existing(name or '')
        return self._connect(name)

    def tell(self, text: str) -> None:
        if self.feedback >= NORMAL:
            write('stdout', text)


class SessionMagics(Magics):
    """Magics in a file of their own, which use the sessions and settings of `erp5`."""

    shell: InteractiveShell

    def __init__(self, erp5: ERP5Magics) -> None:
        super().__init__(shell=erp5.shell)
        self.erp5 = erp5


def pulled(session: 'Session', reply: 'Reply', shown: Any) -> Any:
    """The value itself, or what it looks like there if it cannot travel, may not, or cannot be loaded here."""
    if reply.pulled is None or 'data' not in reply.pulled:
        return shown
    try:
        return session.value(reply.pulled)
    except Exception:   # a pickle may raise anything: the value is shown all the same
        return shown
