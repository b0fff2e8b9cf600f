"""The magics that look at a session, its notebook and its node, and change nothing that cells have made."""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from IPython.core.magic import line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from .display import moment, plain, table, write
from .errors import OptionError
from .magics import SessionMagics
from .options import parse
from .sessions import described


@magics_class
class LookingMagics(SessionMagics):
    """Look at notebooks and nodes."""

    @no_var_expand
    @magic_arguments()
    @line_magic
    def erp5_status(self, line: str) -> None:
        """The sessions, and what the node of the default one says of itself.

        Examples:

            %erp5_status
        """
        parse(self.erp5_status, line)
        sessions = self.erp5.sessions
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
        """The variables that the notebook keeps, and those that it could not keep.

        Examples:

            %erp5_vars
        """
        parse(self.erp5_vars, line)
        context = self.erp5.session().context()
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
        """The setups that run before every cell, in their order.

        Examples:

            %erp5_environment
        """
        parse(self.erp5_environment, line)
        setups = self.erp5.session().context().get('environment') or ()
        head = ('alias', 'kind', 'name', 'cell', 'line')
        rows = [tuple(setup.get(key) for key in head) for setup in setups]
        write('stdout', table(head, rows) if rows else 'Nothing is defined.\n')

    @no_var_expand
    @magic_arguments()
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_interrupt(self, line: str) -> None:
        """End the cell that runs in the notebook with KeyboardInterrupt; again, to end its process.

        Examples:

            %erp5_interrupt
            %erp5_interrupt --connection sales
        """
        name = parse(self.erp5_interrupt, line).connection or self.erp5.sessions.default
        answer = self.erp5.sessions.existing(name).interrupt()
        told = {'not running': 'Nothing to interrupt: no cell runs in the notebook.',
                'interrupted': f'Interrupted. A cell that does not heed it for {answer.get("grace")} seconds loses its process, at once '
                               'if it is interrupted again.'}
        self.erp5.tell(told.get(str(answer.get('status')), plain(answer)) + '\n')

    @no_var_expand
    @magic_arguments()
    @argument('--share', metavar='USER', help='Let this user use the notebook.')
    @argument('--unshare', metavar='USER', help='Let this user use it no longer.')
    @argument('--reference', metavar='NAME', help='The notebook to share, if not that of the session.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_notebooks(self, line: str) -> None:
        """The notebooks of the site that you may use; or share one of yours.

        Examples:

            %erp5_notebooks
            %erp5_notebooks --share bob
            %erp5_notebooks --unshare bob --reference sales
        """
        options = parse(self.erp5_notebooks, line)
        user = options.share or options.unshare
        if options.share and options.unshare or options.reference and not user:
            raise OptionError('%erp5_notebooks lists, or shares with --share USER, or ends that with --unshare USER, one at a time; '
                              '--reference NAME goes with these two')
        session = self.erp5.session(options.connection)
        if user:
            reference = options.reference or session.reference
            others = session.share(user, reference, remove=bool(options.unshare))
            self.erp5.tell(f'The notebook {reference!r} is shared with {", ".join(others) or "nobody"}.\n')
            return
        rows = [(row['reference'], row.get('title'), row.get('owner'), ', '.join(row.get('shared_with') or ()), row.get('lines'))
                for row in session.notebooks()]
        head = ('reference', 'title', 'owner', 'shared with', 'lines')
        write('stdout', table(head, rows) if rows else 'No notebooks.\n')
