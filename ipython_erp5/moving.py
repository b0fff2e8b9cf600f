"""The magics that move variables: %erp5_push and %erp5_pull.

    a b ─► their values in the shell ─► Session.execute('pass', push=…)         with a progress bar from 50 MB on
    the shell's variables c d ◄─ Session.execute('pass', pull=…)               `_` is what the magic gives
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from typing import Any

from IPython.core.magic import line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from .magics import SessionMagics
from .options import parse


@magics_class
class MovingMagics(SessionMagics):
    """Variables from here to the notebook, and from there."""

    @no_var_expand
    @magic_arguments()
    @argument('names', nargs='+', metavar='NAME', help='Local variables.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_push(self, line: str) -> None:
        """Make local values the values of the notebook's variables of the same names.

        Examples:

            %erp5_push prices model
        """
        options = parse(self.erp5_push, line)
        self._move(options.connection, self.erp5.moved(' '.join(options.names), None))

    @no_var_expand
    @magic_arguments()
    @argument('names', nargs='+', metavar='NAME', help='Variables of the notebook; _ is the last value.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_pull(self, line: str) -> Any:
        """Make values of the notebook's variables the values of local ones of the same names.

        Examples:

            %erp5_pull result
            %erp5_pull _
        """
        options = parse(self.erp5_pull, line)
        return self._move(options.connection, self.erp5.moved(None, ' '.join(options.names)))

    def _move(self, connection: str | None, what: dict[str, Any]) -> Any:
        return self.erp5.run_cell(self.erp5.session(connection), 'pass', store_history=False, **what)
