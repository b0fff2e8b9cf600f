"""The magics for what has run, or runs already: %erp5_result and %erp5_history.

    ID ─► History.find ─► request_id ─► Session.attach ─► Display      as if the cell ran here: Ctrl-C is for it
    ranges ─► Session.history ─► lines, or code and outputs
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class, no_var_expand, output_can_be_silenced
from IPython.core.magic_arguments import argument, magic_arguments

from .display import NORMAL, Display, moment, table, write
from .errors import OptionError
from .history import SHORT
from .magics import SessionMagics
from .options import parse

if TYPE_CHECKING:
    from .session import Session

LIMIT = 30
CODE = 80  # characters of a line of code in the list
RANGE = re.compile(r'(\d+)(?:(-)(\d*))?')
Entry = dict[str, Any]


@magics_class
class RecallingMagics(SessionMagics):
    """Results of cells that nobody has waited for, and the lines of a notebook."""

    @no_var_expand
    @output_can_be_silenced
    @magic_arguments()
    @argument('id', nargs='?', metavar='ID', help='The id of a cell or its beginning, or the number of its line; by default the cell '
              'that runs in the notebook now, else the one that ended last.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_result(self, line: str) -> Any:
        """Wait for a cell as if it ran here, whoever began it; or show what it has shown, and raise what it raised.

        Examples:

            %erp5_result
            %erp5_result 3f2a81bc
            %erp5_result 12
        """
        options = parse(self.erp5_result, line)
        session = self.erp5.session(options.connection)
        request_id = meant(session, options.id or '')
        display, cell = self.erp5.display(session), session.cells.get(request_id)
        try:
            with display:
                self.erp5.shown(lambda: session.attach(request_id, display.take))
        finally:
            if cell is not None and cell.done():
                cell.shown = cell.looked = True
        if cell is not None and cell.status != 'unknown':
            cell.result()   # what was pulled gets its names
            return cell.reply.values.get('_', display.result)
        return display.result

    @no_var_expand
    @magic_arguments()
    @argument('ranges', nargs='*', metavar='RANGE', help='Lines such as 3, 3-5 or 3-, whose whole code is shown.')
    @argument('-o', '--outputs', action='store_true', help='Whole code, and what each line has shown.')
    @argument('-n', '-l', '--limit', metavar='LIMIT', help=f'How many lines; by default the newest {LIMIT}, or all of a range.')
    @argument('--all', action='store_true', help='All lines, also those that are not listed (--no-history).')
    @argument('--run', metavar='N', help='Run the code of line N again, as a new cell.')
    @argument('--connection', metavar='NAME', help='The session, if not the last connected one.')
    @line_magic
    def erp5_history(self, line: str) -> Any:
        """The lines of the notebook, whoever has run them: number, end, user, status, code.

        Examples:

            %erp5_history
            %erp5_history 3-5 8 --outputs
            %erp5_history --run 3
        """
        options = parse(self.erp5_history, line)
        session = self.erp5.session(options.connection)
        if options.run is not None:
            return self._run_again(session, options)
        entries = list(asked(session, options))
        if not entries:
            write('stdout', 'No lines.\n')
        elif options.ranges or options.outputs:
            self._tell_whole(entries, options.outputs)
        else:
            write('stdout', table(('', 'ended', 'user', 'status', 'code'), [row(entry) for entry in entries]))
        return None

    def _run_again(self, session: 'Session', options: Namespace) -> Any:
        if options.ranges or options.outputs or options.limit or options.all:
            raise OptionError('%erp5_history --run N runs one line again, and takes only --connection besides')
        entry = session.past.line(number(options.run, '--run'))
        if not entry['code'].strip():
            raise OptionError(f'line {entry["number"]} has no code to run again: {outcome(entry)}')
        if self.erp5.feedback >= NORMAL:
            write('stdout', f'Line {entry["number"]} again: {first_line(entry["code"])}\n')
        return self.erp5.run_cell(session, entry['code'])

    def _tell_whole(self, entries: list[Entry], outputs: bool) -> None:
        for entry in entries:
            head = '  '.join(filter(None, (moment(entry['when']), entry['user'], outcome(entry))))
            write('stdout', f'[{entry["number"]}]  {head}\n{entry["code"].rstrip()}\n')
            if outputs:
                self._show(entry)
            write('stdout', '\n')

    def _show(self, entry: Entry) -> None:
        """As the cell has left it; its error too."""
        display, left = Display(self.shell, NORMAL), list[Entry]()
        for message in entry.get('messages') or ():
            left = [] if message['msg_type'] == 'clear_output' else [*left, message]
        for message in left:
            if message['msg_type'] == 'error':
                write('stdout', self.erp5.colored('\n'.join(message['traceback'])) + '\n')
            elif message['msg_type'] != 'context':
                display.take(message)
        if display.result is not None:
            display.publish(data=display.result.data, metadata=display.result.metadata)


# ---------------------------------------------------------------- what was asked for
def meant(session: 'Session', identifier: str) -> str:
    """The request_id of a cell; the handles of this session need no site that keeps a history."""
    ours = [key for key in session.cells if len(identifier) >= SHORT and key.startswith(identifier)]
    running = tuple(key for key, cell in session.cells.items() if not cell.done())
    return ours[0] if len(ours) == 1 else session.past.find(identifier, running)


def asked(session: 'Session', options: Namespace) -> Iterator[Entry]:
    limit = number(options.limit, '--limit') if options.limit is not None else None if options.ranges or options.all else LIMIT
    for first, last in map(bounds, options.ranges or ['1-']):
        yield from session.history(first, last, limit=limit, outputs=options.outputs, unlisted=options.all)


def bounds(text: str) -> tuple[int, int]:
    """First and last line of a range; 0: the newest."""
    found = RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[3] or 0) if found[2] else int(found[1])) if found else (0, 0)
    if not first or last and last < first:
        raise OptionError(f'expected lines such as 3, 3-5 or 3-, got {text!r}')
    return first, last


def number(text: str, option: str) -> int:
    if not text.isdecimal() or not int(text):
        raise OptionError(f'{option}: expected a number such as 12, got {text!r}')
    return int(text)


# ---------------------------------------------------------------- words
def row(entry: Entry) -> tuple[Any, ...]:
    return entry['number'], moment(entry['when']), entry['user'], outcome(entry), first_line(entry['code'])


def outcome(entry: Entry) -> str:
    from .handle import status_of
    status = status_of(entry)
    told = entry['evalue'].partition(';')[0] if status == 'lost' else '' if status == 'ok' else entry['ename']
    return f'{status}: {told}' if told and status == 'error' else told or status


def first_line(code: str) -> str:
    """The first line that says something, which a marker does not, and a sign that there is more."""
    written = [line for line in code.splitlines() if line.strip()]
    lines = [line for line in written if not line.lstrip().startswith('#')] or written
    shown = lines[0].strip()[:CODE] if lines else ''
    return shown + ' …' if len(lines) > 1 or lines and shown != lines[0].strip() else shown
