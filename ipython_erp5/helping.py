"""The magics that help: the manual, and what went to the sites lately.

    manual.PAGES, docstrings of the magics, help of the settings, classes of errors ─► %erp5_help [TOPIC]
    Exchanges ─► %erp5_debug
    IPython's error about a magic that there is not ─► misspelt: which one of ours may have been meant
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionResult
from IPython.core.magic import line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from . import errors
from .display import table, write
from .errors import ERP5Error, OptionError, near
from .exchanges import KEPT, shown
from .magics import ERP5Magics, SessionMagics
from .manual import PAGES
from .options import did_you_mean, parse

NOT_OF_A_SESSION = ('ArchiveError', 'ConversionError', 'ReferenceNeededError', 'RemoteError', 'RemoteInterrupt')
MISSING = re.compile(r'agic (?:function )?`%+(\w+)` not found')   # IPython's words


@magics_class
class HelpingMagics(SessionMagics):
    """Help."""

    @no_var_expand
    @magic_arguments()
    @argument('topic', nargs='?', metavar='TOPIC', help='A topic of the list that comes without one, or the name of a magic.')
    @line_magic
    def erp5_help(self, line: str) -> None:
        """The manual: a page with examples for each topic.

        Examples:

            %erp5_help
            %erp5_help first-steps
            %erp5_help erp5_connect
        """
        topic = str(parse(self.erp5_help, line).topic or '')
        if not topic:
            text = contents(self.erp5.own_magics())
        elif topic in PAGES:
            text = page(topic, self.erp5.own_magics())
        else:
            text = manual_of(topic, self.erp5.own_magics())
        write('stdout', text)

    @no_var_expand
    @magic_arguments()
    @argument('--last', metavar='N', default=str(KEPT), help=f'Only so many; {KEPT} are kept.')
    @line_magic
    def erp5_debug(self, line: str) -> None:
        """The last exchanges with the sites, without code, values and passwords.

        Each line has the time, the URL, the names of the fields with their lengths, the status, the size of the answer, and seconds. Of an
        answer that is no JSON, such as a proxy's page, its first bytes are shown. `%config ERP5Magics.log` names a file that gets the same
        lines.

        Examples:

            %erp5_debug
            %erp5_debug --last 3
        """
        number = parse(self.erp5_debug, line).last
        if not number.isdecimal() or not int(number):
            raise OptionError(f'%erp5_debug --last: expected a number from 1 to {KEPT}, got {number!r}')
        kept = list(self.erp5.sessions.exchanges.kept)[-int(number):]
        write('stdout', shown(kept) or 'Nothing was sent yet.\n')


Magic = Callable[..., Any]


def misspelt(names: Iterable[str]) -> Callable[[ExecutionResult], None]:
    """For IPython's event `post_run_cell`: after its error about an unknown magic, the name of ours that is near."""
    known = list(names)

    def tell(result: ExecutionResult) -> None:
        found = MISSING.search(str(result.error_in_exec)) if isinstance(result.error_in_exec, UsageError) else None
        meant = near(found[1], known) if found else ''
        if meant:
            write('stderr', f'Did you mean %{meant}? %erp5_help lists all.\n')
    return tell


# ---------------------------------------------------------------- pages
def contents(magics: dict[str, Magic]) -> str:
    topics = table(('%erp5_help TOPIC', 'about'), [(name, page.about) for name, page in PAGES.items()])
    return f'{topics}\n{listed(magics)}\nThe manual of each: %erp5_connect? and so on.\n'


def listed(magics: dict[str, Magic]) -> str:
    return table(('magic', ''), [(name, first_line(magic)) for name, magic in magics.items()])


def page(topic: str, magics: dict[str, Magic]) -> str:
    parts = [PAGES[topic].text.lstrip('\n')]
    if topic == 'settings':
        parts.append(settings())
    if topic == 'troubleshooting':
        parts.append(table(('error', ''), list(kinds_of_errors())))
    own = {name: magic for name, magic in magics.items() if name.lstrip('%') in PAGES[topic].magics}
    return '\n'.join([*parts, listed(own)] if own else parts)


def settings() -> str:
    """The traits, as they are by default, and what they say of themselves."""
    return ''.join(f'{name} = {trait.default()!r}\n{textwrap.indent(textwrap.fill(trait.help, 100), "    ")}\n'
                   for name, trait in sorted(ERP5Magics.class_own_traits(config=True).items()))


def kinds_of_errors() -> Iterable[tuple[str, str]]:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ERP5Error) and kind is not ERP5Error and name not in NOT_OF_A_SESSION:
            yield name, first_line(kind)


def first_line(described: Any) -> str:
    """What a magic or a class says of itself first. The docstring of a magic begins with its usage."""
    text = inspect.getdoc(described) or ''
    paragraphs = text.split('\n\n')
    about = paragraphs[2] if text.startswith('::') else paragraphs[0]
    return about.split('\n')[0]


def manual_of(name: str, magics: dict[str, Magic]) -> str:
    """The docstring of a magic. OptionError if there is none, and no topic, of this name."""
    bare = {key.lstrip('%'): magic for key, magic in magics.items()}
    if name.lstrip('%') in bare:
        return (inspect.getdoc(bare[name.lstrip('%')]) or '').removeprefix('::\n\n').rstrip() + '\n'
    raise OptionError(f'there is no help on {name!r}{did_you_mean(name, [*PAGES, *bare])}: %erp5_help lists the topics')
