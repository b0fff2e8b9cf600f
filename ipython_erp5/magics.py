"""The magics: parse what the user typed, ask the session, publish the answer.

    %erp5_connect ─► connections.resolve ─► Session, kept by its connection's name; the last connected is the default
    %%erp5        ─► Session.execute(cell) ─► Display ─► RemoteResult or the remote error
    %erp5 EXPR    ─► the same, and the value itself where it can travel

What requests or dill would import is imported by the first magic that needs it. `extension` puts the magics into a shell.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import dataclasses
import difflib
import getpass
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Bool, Enum, Float, List, Unicode

from . import wire
from .display import NORMAL, QUIET, VERBOSE, Display, fields, moment, table, without_colors, write
from .errors import NotConnectedError, OptionError, RemoteError, UnsupportedError

if TYPE_CHECKING:
    from .connections import Connection
    from .reply import Reply
    from .session import Session

DEFAULT_SERIALIZER = 'cloudpickle'
LATER = ('push', 'pull', 'noblock')
PASSWORD_OPTIONS = ('--password', '--passwd', '--pass', '-p')
PASSWORD_PLACES = ('Put it into ERP5_PASSWORD, a file named by ERP5_PASSWORD_FILE, a section of connections.ini, the keyring or '
                   'netrc; without any of them you are asked for it')


@dataclasses.dataclass
class Sessions:
    """The sessions of one shell by name; `default` is the name of the last connected one."""

    by_name: dict[str, 'Session'] = dataclasses.field(default_factory=dict)
    default: str = ''
    left: bool = False  # the user has disconnected: nothing connects by itself any more


# Outside of the extension's own life, so that %reload_ext finds the sessions again; gone with the shell.
KEPT: 'WeakKeyDictionary[InteractiveShell, Sessions]' = WeakKeyDictionary()


@magics_class
class ERP5Magics(Magics):
    """Run cells on an ERP5 cluster."""

    shell: InteractiveShell

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

    transformers: tuple[Callable[[list[str]], list[str]], ...] = ()
    replaced: dict[tuple[str, str], Callable[..., Any]] = {}   # the magics of others, by kind and name

    @property
    def sessions(self) -> Sessions:
        return KEPT.setdefault(self.shell, Sessions())

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
        self._execute(self._session(options.connection), cell, display, store_history=not options.no_history, timeout=options.timeout)
        return display.result

    def _evaluate(self, expression: str) -> Any:
        if not expression.strip():
            raise OptionError('%erp5 needs an expression, such as: %erp5 context.getTitle(). A whole cell goes below %%erp5')
        session, display = self._session(), Display(self.shell, self.feedback)
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
        session = self._existing(name)
        session.close()
        del self.sessions.by_name[name]
        self.sessions.default = next(reversed(self.sessions.by_name), '')
        self.sessions.left = True
        self._tell(f'Disconnected from {described(session)}\n')

    def _connect(self, target: str | None, options: Namespace | None = None) -> 'Session':
        from .session import open_session
        connection = self._resolve(target, options or Namespace())
        trusted = connection.url.rstrip('/') in [site.rstrip('/') for site in self.trusted_sites]
        session = open_session(connection, trusted=trusted, timeout=self.timeout)
        known = session.check()
        serializer = serializer_of(session)
        self.sessions.left = False
        self.sessions.by_name.pop(connection.name, None)
        self.sessions.by_name[connection.name] = session
        self.sessions.default = connection.name
        kept = f"({'existing' if known else 'new'}), serializer {serializer}"
        self._tell(f'Connected: {described(session)} {kept}\n')
        return session

    def _resolve(self, target: str | None, options: Namespace) -> 'Connection':
        """Options first, then the traits, then what `connections` finds."""
        from . import connections
        chosen = {name: getattr(options, name, None) or getattr(self, name, None) or None
                  for name in ('user', 'reference', 'title', 'serializer', 'ca_bundle', 'auth')}
        insecure = getattr(options, 'insecure', False) or self.insecure
        return connections.resolve(target or self.url or None, **chosen, insecure=insecure, ask=self._asker(),
                                   notebook_name=str(self.shell.user_ns.get('__vsc_ipynb_file__') or ''))

    def _asker(self) -> Callable[[str], str] | None:
        """How to ask for a password, or None where nobody could answer."""
        if hasattr(self.shell, 'kernel') or (sys.stdin is not None and sys.stdin.isatty()):
            return getpass.getpass
        return None

    def _session(self, name: str | None = None) -> 'Session':
        """The session of that name, or the default one; a first one is connected if there is none."""
        if (name or self.sessions.default) in self.sessions.by_name:
            return self.sessions.by_name[name or self.sessions.default]
        if not self.autoconnect or self.sessions.left and not name:
            return self._existing(name or '')
        return self._connect(name)

    def _existing(self, name: str) -> 'Session':
        if name in self.sessions.by_name:
            return self.sessions.by_name[name]
        if not self.sessions.by_name:
            raise NotConnectedError('there is no session: %erp5_connect [TARGET] makes one')
        raise OptionError(f'there is no session {name!r}{did_you_mean(name, self.sessions.by_name)}: '
                          f'connected are {", ".join(self.sessions.by_name)}')

    # ------------------------------------------------------------ looking
    @no_var_expand
    @magic_arguments()
    @line_magic
    def erp5_status(self, line: str) -> None:
        """The sessions, and what the node of the default one says of itself."""
        parse(self.erp5_status, line)
        sessions = self.sessions
        if not sessions.by_name:
            write('stdout', 'Not connected: %erp5_connect [TARGET] connects.\n')
            return
        rows = [('*' if name == sessions.default else '', name, described(session)) for name, session in sessions.by_name.items()]
        write('stdout', table(('', 'session', 'notebook'), rows))
        status = sessions.by_name[sessions.default].status()
        if status is None:
            write('stdout', 'A stock ERP5 site: it says nothing of itself.\n')
            return
        from .status import render
        write('stdout', '\n' + render(status))

    @no_var_expand
    @magic_arguments()
    @line_magic
    def erp5_vars(self, line: str) -> None:
        """The variables that the notebook keeps, and those that it could not keep."""
        parse(self.erp5_vars, line)
        context = self._session().context()
        rows = [(v.get('name'), v.get('type'), v.get('size'), v.get('group'), v.get('cell'), moment(v.get('modified')),
                 ', '.join(v.get('shares') or ())) for v in context.get('variables') or ()]
        head = ('name', 'type', 'bytes', 'group', 'cell', 'written', 'shares with')
        write('stdout', table(head, rows) if rows else 'No variables.\n')
        lost = [(item.get('name'), item.get('reason')) for item in context.get('not_saved') or ()]
        if lost:
            write('stdout', '\n' + table(('not saved', 'reason'), lost))

    @no_var_expand
    @magic_arguments()
    @line_magic
    def erp5_environment(self, line: str) -> None:
        """The setups that run before every cell, in their order."""
        parse(self.erp5_environment, line)
        setups = self._session().context().get('environment') or ()
        head = ('alias', 'kind', 'name', 'cell', 'line')
        rows = [tuple(setup.get(key) for key in head) for setup in setups]
        write('stdout', table(head, rows) if rows else 'Nothing is defined.\n')

    @no_var_expand
    @magic_arguments()
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_interrupt(self, line: str) -> None:
        """End the cell that runs in the notebook with KeyboardInterrupt; again, to end its process."""
        name = parse(self.erp5_interrupt, line).connection or self.sessions.default
        write('stdout', fields(self._existing(name).interrupt()))

    @no_var_expand
    @magic_arguments()
    @argument('--share', metavar='USER', help='Let this user use the notebook.')
    @argument('--unshare', metavar='USER', help='Let this user use it no longer.')
    @argument('--reference', metavar='NAME', help='The notebook to share, if not that of the session.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_notebooks(self, line: str) -> None:
        """The notebooks of the site that you may use; or share one of yours."""
        options = parse(self.erp5_notebooks, line)
        user = options.share or options.unshare
        if options.share and options.unshare or options.reference and not user:
            raise OptionError('%erp5_notebooks lists, or shares with --share USER, or ends that with --unshare USER, one at a time; '
                              '--reference NAME goes with these two')
        session = self._session(options.connection)
        if user:
            reference = options.reference or session.reference
            others = session.share(user, reference, remove=bool(options.unshare))
            write('stdout', f'The notebook {reference!r} is shared with {", ".join(others) or "nobody"}.\n')
            return
        rows = [(row['reference'], row.get('title'), row.get('owner'), ', '.join(row.get('shared_with') or ()), row.get('lines'))
                for row in session.notebooks()]
        head = ('reference', 'title', 'owner', 'shared with', 'lines')
        write('stdout', table(head, rows) if rows else 'No notebooks.\n')

    def _tell(self, text: str) -> None:
        if self.feedback >= NORMAL:
            write('stdout', text)


def pulled(session: 'Session', reply: 'Reply', shown: Any) -> Any:
    """The value itself, or what it looks like there if it cannot travel, may not, or cannot be loaded here."""
    if reply.pulled is None or 'data' not in reply.pulled:
        return shown
    try:
        return session.value(reply.pulled)
    except Exception:   # a pickle may raise anything: the value is shown all the same
        return shown


def serializer_of(session: 'Session') -> str:
    """The one that was asked for, if the node has it, else the one that the notebook has, or will have."""
    status = session.status()
    if status is None:
        return session.serializer or 'of the site'
    known = status.get('serializers') or [session.serializer]
    if session.serializer and session.serializer not in known:
        raise OptionError(f'the node has no serializer {session.serializer!r}{did_you_mean(session.serializer, known)}: '
                          f'it has {", ".join(known)}')
    return session.serializer or str(session.context().get('serializer') or DEFAULT_SERIALIZER)


def described(session: 'Session') -> str:
    """user@host/site, reference 'name'"""
    site = session.client.url.partition('://')[2]
    user = f'{session.client.user}@' if session.client.user else ''
    return f'{user}{site}, reference {session.reference!r}'


# ---------------------------------------------------------------- options
def parse(magic: Any, line: str) -> Namespace:
    """The options of a magic. A wrong one is an OptionError: of a UsageError, papermill and nbclient do not tell the reason."""
    parser = magic.parser
    parser.allow_abbrev = False
    words = split(line)
    if any(word.lower().partition('=')[0] in PASSWORD_OPTIONS for word in words):
        raise OptionError(f'a password is never an option: it would stay in the notebook and its history. {PASSWORD_PLACES}')
    try:
        options: Namespace = parser.parse_args(words)
    except UsageError as error:
        known = parser._option_string_actions
        wrong = next((word for word in words if word.startswith('-') and word.partition('=')[0] not in known), '')
        failure = f'%{parser.prog}: {error}{did_you_mean(wrong, known)}. %{parser.prog}? tells its options'
    else:
        return options
    raise OptionError(failure)


def split(line: str) -> list[str]:
    """Words as a shell has them, but for backslashes, which are parts of paths."""
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, '', ''
    try:
        return list(words)
    except ValueError:
        raise OptionError(f'a quotation mark is not closed in: {line.strip()}') from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.partition('=')[0], list(known), 1)
    return f' (did you mean {close[0]}?)' if close else ''
