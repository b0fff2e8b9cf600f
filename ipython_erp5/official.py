"""The magics of ERP5's own kernel, so that its notebooks run unchanged below `%load_ext ipython_erp5`.

    %erp5_url, %erp5_user, %erp5_password, %notebook_set_reference ─► all known: a session, and every cell runs there (see `mode`)
                                                                   └► not yet: which are missing; a cell is refused and not run here

What they do not say is looked for where `%erp5_connect` looks. Texts and order are that kernel's. Unlike there, certificates are
verified, nothing is sent that leaves an empty line in the notebook's history, a password goes only to the site and only as the user
for whom it was typed, and it stays in no history: see `masking`.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from .display import write
from .magics import SessionMagics
from .masking import mask_typed
from .mode import mode_of
from .options import PASSWORD_PLACES

if TYPE_CHECKING:
    from .session import Session

REQUIRED = {'url': 'erp5_url', 'user': 'erp5_user', 'password': 'erp5_password', 'reference': 'notebook_set_reference'}
ALL_THERE = 'You have entered all required magics. You may now use your notebook.\n'
REFUSED = 'Unauthorized access: nothing was run.'


@magics_class
class OfficialMagics(SessionMagics):
    """Connect as the notebooks of ERP5's own kernel do."""

    @no_var_expand
    @magic_arguments()
    @argument('url', nargs='?', metavar='URL', help='Of the site, or of its Base_executeJupyter.')
    @line_magic
    def erp5_url(self, line: str) -> None:
        """The site, as in notebooks of ERP5's own kernel; see %erp5_connect.

        Examples:

            %erp5_url https://host/erp5
        """
        from . import connections
        url = first_word(line)
        if '@' in url:   # refused, and a password may be in it
            mask_typed(self.shell, 'erp5_url')
        if url:
            connections.refuse_plain(connections.site_url(url, '%erp5_url: '), self.erp5.insecure)
        self._set('url', url)

    @no_var_expand
    @magic_arguments()
    @argument('user', nargs='?', metavar='USER', help='The user on the site.')
    @line_magic
    def erp5_user(self, line: str) -> None:
        """The user, as in notebooks of ERP5's own kernel; see %erp5_connect.

        Examples:

            %erp5_user ana
        """
        self._set('user', first_word(line))

    @no_var_expand
    @magic_arguments()
    @argument('password', nargs='?', metavar='PASSWORD', help='Better none: it is asked for.')
    @line_magic
    def erp5_password(self, line: str) -> None:
        """The password, as in notebooks of ERP5's own kernel; better without it: then it is asked for.

        A notebook's file is no place for a password.

        Examples:

            %erp5_password
        """
        from .credentials import Secret, asked_password
        typed = Secret(first_word(line))
        if typed:
            failed = mask_typed(self.shell, 'erp5_password')
            write('stderr', 'The password is out of the history of this session' + (f', but {failed}' if failed else '')
                  + f'; the file of a notebook still has it: delete it there. {PASSWORD_PLACES}.\n')
        self._set('password', typed or Secret(asked_password('Password: ', self.erp5.ask)))

    @no_var_expand
    @magic_arguments()
    @argument('reference', nargs='?', metavar='REFERENCE', help='The notebook: who gives the same one again finds its variables.')
    @line_magic
    def notebook_set_reference(self, line: str) -> None:
        """The notebook, as in notebooks of ERP5's own kernel; see %erp5_connect.

        Examples:

            %notebook_set_reference sales
        """
        self._set('reference', first_word(line))

    @no_var_expand
    @magic_arguments()
    @argument('title', nargs='*', metavar='TITLE', help='The title of a new notebook.')
    @line_magic
    def notebook_set_title(self, line: str) -> None:
        """The title of a new notebook, as in notebooks of ERP5's own kernel; see %erp5_connect.

        Examples:

            %notebook_set_title Sales of the year
        """
        title, session = line.strip(), self._session()
        if title and session is not None:
            session.title = title
        self._set('title', title)

    @no_var_expand
    @magic_arguments()
    @line_magic
    def my_notebooks(self, line: str) -> None:
        """The notebooks of the site, as ERP5's own kernel shows them; see %erp5_notebooks.

        Examples:

            %my_notebooks
        """
        rows = [{key: row.get(key) for key in ('reference', 'title')} for row in self.erp5.session().notebooks()]
        write('stdout', f'{rows}\n')

    # ------------------------------------------------------------ what was given
    def _set(self, key: str, value: Any) -> None:
        name, given = REQUIRED.get(key, f'notebook_set_{key}'), mode_of(self.shell).given
        if not value:
            self.erp5.tell(f'Empty value for {name} magic\n')
            return
        told, same = '' if key == 'password' else f'Your {name} is {value}. \n', given.get(key) == value
        if key in ('url', 'user') and key in given and not same:
            given.pop('password', None)   # it was for another site, or for somebody else
        given[key] = value
        if key == 'title' and self._session() is not None:
            self.erp5.tell(told)
        else:
            self._go_on(told, again=key == 'password' and not same, warn=key == 'reference')

    def _session(self) -> 'Session | None':
        """The default one, unless another is about to be connected."""
        sessions = self.erp5.sessions
        return None if sessions.refusal else sessions.by_name.get(sessions.default)

    def _go_on(self, told: str, again: bool, warn: bool) -> None:
        """Connect once all is known, `again` also if there is such a session; until then, and if that fails, a cell is refused."""
        sessions, settings = self.erp5.sessions, self._settings()
        missing = [name for key, name in REQUIRED.items() if not settings.get(key)]
        mode_of(self.shell).remote = True
        if missing:
            sessions.refusal = f'{REFUSED} Missing: {", ".join(f"%{name}" for name in missing)}'
            self.erp5.tell(f'{told}You have these required magics remaining: {", ".join(missing)}. \n')
            return
        session = self._session()
        if session is not None and not again and is_of(session, settings):
            known = warn and session.check()
        else:
            sessions.refusal = f'{REFUSED} The connection failed: give its magics again, or %erp5_connect'
            _, known, _ = self.erp5.opened(settings.pop('url'), Namespace(**settings))
        if known and warn:
            told = f"WARNING: You already have a notebook with reference {settings['reference']}. Its variables are there; a new " \
                   f'notebook needs another reference. \n{told}'
        self.erp5.tell(told + ALL_THERE)

    def _settings(self) -> dict[str, Any]:
        """What these magics were told, and what is known elsewhere: without a URL of theirs, by the session that there is."""
        from . import connections
        from .credentials import Secret, known_user, passwords
        given, erp5 = mode_of(self.shell).given, self.erp5
        session = None if 'url' in given else erp5.sessions.by_name.get(erp5.sessions.default)
        url = session.client.url if session else given.get('url') or erp5.url or known_url()
        if not url:
            return dict(given)
        site = connections.find_site(url)
        user = given.get('user') or (session.client.user if session else '') or erp5.user or known_user(site)
        password = given.get('password') or Secret(next(filter(None, passwords(site, user)), ''))
        reference = given.get('reference') or (session.reference if session else '') or erp5.reference \
            or os.environ.get('ERP5_REFERENCE') or site.settings.get('reference')
        return {**given, 'url': url, 'user': user, 'password': password, 'reference': reference}


def known_url() -> str:
    """That of the default connection, if there is one."""
    from . import connections
    from .settings import Section, connections_file, read_sections
    default = read_sections(connections_file()).get(connections.DEFAULT, Section())
    return connections.environment_url() or str(default.get('url', ''))


def is_of(session: 'Session', settings: Mapping[str, Any]) -> bool:
    from . import connections
    url = connections.find_site(settings['url']).url
    return (session.client.url, session.client.user, session.reference) == (url, settings['user'], settings['reference'])


def first_word(line: str) -> str:
    """As in ERP5's kernel, where a value has no blanks."""
    return next(iter(line.split()), '')
