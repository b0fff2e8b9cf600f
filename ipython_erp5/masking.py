"""A password that was typed into a cell: out of all that IPython keeps of what was typed in this session.

    %erp5_password secret ─► %erp5_password ********     In, _i, _i5, %history, the history's database, the source of tracebacks, %logstart

IPython stores a cell before it runs it, so that this comes after: a row that has been written is overwritten, its old bytes with
zeros. What the front end keeps, the notebook's file above all, is out of reach.
"""

import linecache
import sqlite3
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

MASK = '********'
SHORTCUTS = ('_i00', '_i', '_ii', '_iii')   # of the history manager: the last inputs


def mask_typed(shell: InteractiveShell, name: str) -> str:
    """Mask what follows the line magic `name`, wherever it is; what could not be done, as a clause, else ''."""
    for key, value in list(shell.user_ns.items()):
        if key.startswith('_i') and isinstance(value, str):
            shell.user_ns[key] = masked(value, name)
    for entry in list(linecache.cache.values()):
        if len(entry) == 4 and entry[1] is None:   # a cell's, and no file's
            entry[2][:] = masked(''.join(entry[2]), name).splitlines(keepends=True)
    history = shell.history_manager
    if history is None:
        return ''
    for inputs in (history.input_hist_parsed, history.input_hist_raw):
        inputs[:] = [masked(text, name) for text in inputs]
    for shortcut in SHORTCUTS:
        setattr(history, shortcut, masked(getattr(history, shortcut), name))
    return mask_database(history, name) or mask_log(shell.logger, name)


def mask_database(history: Any, name: str) -> str:
    """The rows that wait, under the lock of the thread that writes them; then those that it has written."""
    with history.db_input_cache_lock:
        history.db_input_cache[:] = [(line, masked(source, name), masked(raw, name)) for line, source, raw in history.db_input_cache]
    if not history.enabled:
        return ''
    try:
        with history.db as database:
            database.execute('PRAGMA secure_delete = ON')
            rows = list(database.execute('SELECT line, source, source_raw FROM history WHERE session = ?', (history.session_number,)))
            changed = [(masked(source, name), masked(raw, name), history.session_number, line) for line, source, raw in rows
                       if masked(raw, name) != raw]
            database.executemany('UPDATE history SET source = ?, source_raw = ? WHERE session = ? AND line = ?', changed)
    except sqlite3.Error as error:
        return f'the history in {history.hist_file} could not be changed ({error})'
    return ''


def mask_log(logger: Any, name: str) -> str:
    """The file of %logstart, which stays open, and in its place."""
    if logger.logfile is None:
        return ''
    try:
        text = Path(logger.logfile.name).read_text(encoding='utf-8')
        logger.logfile.seek(0)
        logger.logfile.truncate()   # first: what is written to some logs goes to their end
        logger.logfile.write(masked(text, name))
        logger.logfile.flush()
    except (OSError, UnicodeDecodeError):
        return f'the log {logger.logfname} has it'
    return ''


# ---------------------------------------------------------------- texts
def masked(text: str, name: str) -> str:
    """A source, or what IPython has made of it, with asterisks for all that follows the magic on its line, or on the next ones."""
    lines, continued = [], False
    for line in text.splitlines(keepends=True):
        new = '' if continued else masked_line(line, name)
        continued = (continued or new != line) and line.rstrip('\r\n').endswith('\\')
        lines.append(new)
    return ''.join(lines)


def masked_line(line: str, name: str) -> str:
    end = line[len(line.rstrip('\r\n')):]
    head, call, argument = line.partition(f"run_line_magic('{name}', ")
    if call:
        return f'{head}{call}{MASK!r}){end}' if argument.rstrip() != "'')" else line
    head, word, argument = line.partition(name)
    is_magic = word and (not head.strip() or head.endswith('%')) and argument[:1].isspace() and argument.strip()
    return f'{head}{word} {MASK}{end}' if is_magic else line
