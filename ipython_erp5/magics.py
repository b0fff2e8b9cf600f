"""The magics that connect and run cells: parse what the user typed, ask the session, publish the answer.

    %erp5_connect ─► connections.resolve ─► Session, kept by its connection's name; the last connected is the default
    %%erp5        ─► Session.execute(cell) ─► Display ─► RemoteResult or the remote error
    %erp5 EXPR    ─► the same, and the value itself where it can travel

What requests or dill would import is imported by the first magic that needs it. `extension` puts the magics into a shell.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand, output_can_be_silenced
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Bool, Bunch, Enum, Float, List, Unicode, observe

from . import wire
from .display import NORMAL, QUIET, VERBOSE, Display, without_colors, write
from .errors import OptionError, RemoteError, TargetError, UnauthorizedError
from .options import did_you_mean, has_password, parse
from .progress import aside
from .sessions import Sessions, described, meant_instead, resolve, serializer_of, sessions_of

if TYPE_CHECKING:
    from .reply import Reply
    from .session import Session


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
    progress_after = Float(2.0, help='Seconds after which a cell that runs shows how long it has, where, and how to stop it; 0: '
                           'never.').tag(config=True)
    feedback = Enum((QUIET, NORMAL, VERBOSE), NORMAL, help='0: outputs, and what was not saved; 1: also warnings, and a line for '
                    'a connection; 2: also a line for each cell.').tag(config=True)
    log = Unicode('', help='A file that gets a line for each exchange with a site, as %erp5_debug shows it; empty: none.').tag(config=True)

    @observe('log')
    def _log_elsewhere(self, change: Bunch) -> None:
        self.sessions.exchanges.log = change.new

    @property
    def sessions(self) -> Sessions:
        return sessions_of(self.shell)

    # ------------------------------------------------------------ cells
    @no_var_expand
    @output_can_be_silenced
    @magic_arguments()
    @argument('--no-history', action='store_true', help='Leave no line in the notebook\'s history.')
    @argument('--connection', metavar='NAME', help='The session that runs it, if not the last connected one.')
    @argument('--push', metavar='NAMES', help='Local variables whose values the cell finds in its own: a,b.')
    @argument('--pull', metavar='NAMES', help='Variables of the notebook that become local ones after the cell: c,d.')
    @argument('--timeout', metavar='S', help='Seconds after which the cell is ended, from when it begins.')
    @argument('--noblock', action='store_true', help='Return at once: a handle with which to wait for the cell, or to end it.')
    @line_cell_magic
    def erp5(self, line: str, cell: str | None = None) -> Any:
        """Run the cell on the connected site; as a line magic, evaluate the expression there.

        A comment `# erp5: OPTIONS` at the head of a cell does the same as `%%erp5 OPTIONS`. The value of an expression is the line magic's,
        if it can travel.

        Examples:

            %%erp5 --no-history
            prices = {'tea': 4.2, 'coffee': 7.9}

            # erp5: --timeout 60
            prices['milk'] = 1.1

            total = %erp5 sum(prices.values())
        """
        if cell is None:
            return self._evaluate(line)
        options = parse(self.erp5, line)
        moved = self.moved(options.push, options.pull) if options.push or options.pull else {}
        if options.timeout is not None:
            wire.seconds(options.timeout or '0')  # before anything is connected
        session = self.session(options.connection)
        if not moved and self._helped(session, cell):
            return None
        how = {'store_history': not options.no_history, 'timeout': options.timeout, **moved}
        if options.noblock:
            from . import background
            self.tell_ended()
            with self.display(session) as display:   # of what is pushed
                return background.start(session, self.shell, self.feedback, cell, on_bytes=display.progress.bytes, **how)
        return self.run_cell(session, cell, **how)

    def run_cell(self, session: 'Session', code: str, **options: Any) -> Any:
        """Run a cell and show it, as `%%erp5` does; its RemoteResult or None."""
        display = self.display(session)
        reply = self._execute(session, code, display, **options)
        if 'push' in options or 'pull' in options:
            from . import local_values
            self.tell(local_values.arrived(self.shell, reply, options.get('push', ())))
            return local_values.last(reply, display.result)
        return display.result

    def moved(self, push: str | None, pull: str | None) -> dict[str, Any]:
        """For `run_cell`: the local values of these names, and the names of what becomes local."""
        from . import local_values
        return local_values.options(self.shell, push, pull)

    def _evaluate(self, expression: str) -> Any:
        if not expression.strip():
            raise OptionError('%erp5 needs an expression, such as: %erp5 context.getTitle(). A whole cell goes below %%erp5')
        word = expression.split()[0].partition('=')[0]
        if word in self.erp5.parser._option_string_actions:
            raise OptionError(f'%erp5 EXPRESSION has no options: {word} is one of cells, as %%erp5 {word} or # erp5: {word}')
        session = self.session()
        if self._helped(session, expression):
            return None
        display = self.display(session)
        reply = self._execute(session, expression, display, pull='_', fetch=False)
        return None if display.result is None else self._pulled(session, reply, display.result)

    def _helped(self, session: 'Session', code: str) -> bool:
        """Whether the code asks for help only, and that has been shown."""
        shown = code.rstrip().endswith('?') and self.loaded.completion.help_on(session, code)
        if shown:
            write('stdout', self.colored(shown.rstrip('\n')) + '\n')
        return bool(shown)

    def _pulled(self, session: 'Session', reply: 'Reply', shown: Any) -> Any:
        """The value itself, or what it looks like there if it cannot travel, may not, or cannot be loaded here.

        One that takes its time stays there, as whoever typed this may only have wanted to look at it.
        """
        from .progress import LARGE
        from .values import size_of
        there = size_of(reply.pulled.get('_', {}))
        if there > LARGE:
            from .amounts import size
            self.tell(f'The value ({size(there)}) stays there, and this is how it looks: %%erp5 --pull NAME brings a variable.\n')
            return shown
        try:
            return session.fetched(reply, '_')['_']
        except Exception:   # a pickle may raise anything: the value is shown all the same
            return shown

    def _execute(self, session: 'Session', code: str, display: Display, **options: Any) -> 'Reply':
        self.tell_ended()
        with display:
            return self.shown(lambda: session.execute(code, on_message=display.take, on_bytes=display.progress.bytes, **options))

    def display(self, session: 'Session') -> Display:
        """What shows a cell of this session, and around it its progress."""
        return Display(self.shell, self.feedback, self.progress_after, session.place)

    def shown(self, run: Callable[[], 'Reply']) -> 'Reply':
        """What running a cell gives. A shell without colours gets the remote traceback without them, and one that puts nothing between
        its lines, as with `%xmode Plain`, in one."""
        try:
            return run()
        except RemoteError as error:
            lines = [self.colored(line) for line in error.traceback]
            error.traceback = lines if self.shell.InteractiveTB.tb_join_char else ['\n'.join(lines)]
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
        """Connect to a site and one of its notebooks.

        A password is never an option: it comes from ERP5_PASSWORD, a file that ERP5_PASSWORD_FILE names, connections.ini, the keyring or
        ~/.netrc, or you are asked for it.

        Examples:

            %erp5_connect --reference first-steps
            %erp5_connect https://host/erp5 --user ana --reference "sales of the year"
            %erp5_connect sales
        """
        if has_password(line.split()) or '@' in line and '://' in line:   # refused, but IPython keeps what was typed
            from .masking import mask_typed
            mask_typed(self.shell, 'erp5_connect')
        if line.strip():
            self.sessions.left = True   # until it is connected: a cell that is meant for there runs nowhere else
        options = parse(self.erp5_connect, line)
        self._connect(options.target, options)

    @no_var_expand
    @magic_arguments()
    @argument('name', nargs='?', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_disconnect(self, line: str) -> None:
        """Close a session. Its notebook stays on the site.

        Examples:

            %erp5_disconnect
            %erp5_disconnect sales
        """
        name = parse(self.erp5_disconnect, line).name or self.sessions.default
        session = self.sessions.existing(name)
        session.close()
        self.sessions.remove(name)
        self.tell(f'Disconnected from {described(session)}\n')

    def _connect(self, target: str | None, options: Namespace | None = None) -> 'Session':
        session, known, serializer = self.opened(target, options or Namespace())
        kept = 'existing' if known else f'new{meant_instead(session)}'
        self.tell(f'Connected: {described(session)} ({kept}), serializer {serializer}\n')
        return session

    def opened(self, target: str | None, options: Namespace) -> tuple['Session', bool, str]:
        """A session that has become the default one, whether its notebook exists already, and the name of its serializer."""
        from .reconnecting import interruptible
        from .session import open_session
        with interruptible():
            connection = resolve(self.shell, target, options, self)
        trusted = connection.url.rstrip('/') in [site.rstrip('/') for site in self.trusted_sites]
        session = open_session(connection, trusted=trusted, timeout=self.timeout, exchanges=self.sessions.exchanges, ask=self.ask,
                               tell=self.tell)
        if hasattr(self.shell, 'kernel'):
            session.leaving = lambda: bool(self.shell.exit_now)
        try:
            with interruptible():
                known, serializer = session.check(), serializer_of(session)
        except BaseException:
            session.close()
            raise
        self.sessions.add(connection.name, session)
        return session, known, serializer

    # ------------------------------------------------------------ for the other magics
    def session(self, name: str | None = None) -> 'Session':
        """The session of that name, or the default one; a first one is connected if there is none."""
        if not name and self.sessions.refusal:
            raise UnauthorizedError(self.sessions.refusal)
        if (name or self.sessions.default) in self.sessions.by_name:
            return self.sessions.by_name[name or self.sessions.default]
        if not self.autoconnect or self.sessions.left and not name:
            return self.sessions.existing(name or '')
        try:
            return self._connect(name)
        except TargetError:
            if name and did_you_mean(name, self.sessions.by_name):
                self.sessions.existing(name)   # an error that says so
            raise

    def colored(self, text: str) -> str:
        return without_colors(text) if self.shell.colors == 'nocolor' else text

    def tell_ended(self) -> None:
        """Of cells that nobody waits for: see `background`."""
        for session in self.sessions.by_name.values():
            if session.cells:
                from . import background
                for line in background.ended(session):
                    self.tell(line)

    def own_magics(self) -> dict[str, Callable[..., Any]]:
        """All magics of the extension by how they are written, with `%` or `%%`; those that others have replaced are not ours."""
        functions = {name: (kind, function) for kind, name, function in reversed(list(self.loaded.functions()))}   # a cell's wins
        return {('%%' if kind == 'cell' else '%') + name: function for name, (kind, function) in reversed(functions.items())}

    def tell(self, text: str) -> None:
        if self.feedback >= NORMAL:
            with aside():
                write('stdout', text)

    def ask(self, prompt: str) -> str:
        """A password, '' where nobody could answer."""
        from .credentials import ask
        with aside():
            return ask(prompt)


class SessionMagics(Magics):
    """Magics in a file of their own, which use the sessions and settings of `erp5`."""

    shell: InteractiveShell

    def __init__(self, erp5: ERP5Magics) -> None:
        super().__init__(shell=erp5.shell)
        self.erp5 = erp5
