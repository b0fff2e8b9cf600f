"""Where to connect and as whom: `resolve` turns what was typed into a `Connection`, and never talks to a site.

    options of the magic ─► environment ─► connections.ini ─► keyring ─► netrc ─► a prompt         the first that knows wins
        target              ERP5_URL       section of the     password   user,    password
        user                ERP5_USER      target's name      of         password
        reference …         ERP5_PASSWORD  or URL, else       (url, user)
                            …_FILE         `default`
                            ERP5_REFERENCE

    nothing to connect to ─► the embedded node of this user, started if none runs (`local_node`)

It promises: a password is in a `Secret`, which shows itself nowhere; it is sent only as the user, and to the site, for which
it was found (the environment's belongs to ERP5_URL where that is set), and never over plain HTTP beyond this machine unless
`insecure` says so; a file that others may read is refused. Every error says which setting to make.
"""

import configparser
import difflib
import ipaddress
import netrc
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path, PurePath
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit, urlunsplit

from . import local_node
from .errors import TargetError

DEFAULT, EMBEDDED = 'default', 'embedded'
KEYS = ('url', 'user', 'password', 'reference', 'title', 'serializer', 'ca_bundle')
ENDPOINT = '/Base_executeJupyter'

# Asks for a password: the text of the prompt -> what was typed.
Ask = Callable[[str], str]


class Secret:
    """A password. Only `reveal` gives it; as text it is asterisks, and it cannot be pickled."""

    __slots__ = ('_value',)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return '********'

    def __format__(self, format: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> 'Secret':
        return self

    def __deepcopy__(self, memo: object) -> 'Secret':
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError('a password is not serialized')


@dataclass(frozen=True)
class Connection:
    """What a client needs. `ca_bundle`: a path, '' for the usual authorities; `trusted`: the site is on this machine."""

    name: str
    url: str
    user: str
    password: Secret
    reference: str
    title: str = ''
    serializer: str = ''
    ca_bundle: str = ''
    insecure: bool = False
    trusted: bool = False
    embedded: bool = False


@dataclass(frozen=True)
class Site:
    """A site and what is configured for it (`KEYS`); `environment`: whether ERP5_USER and ERP5_PASSWORD are meant for it."""

    name: str
    url: str
    settings: Mapping[str, str] = field(repr=False)
    environment: bool
    embedded: bool = False


def resolve(target: str | None = None, *, user: str | None = None, reference: str | None = None, title: str | None = None,
            serializer: str | None = None, ca_bundle: str | None = None, insecure: bool = False, password: str | None = None,
            ask: Ask | None = None, notebook_name: str = '') -> Connection:
    """The connection to `target`: a URL, a configured name, or None for the default connection, else the embedded node.

    `ask` is called with a prompt for a password that nothing else knows. TargetError says what is missing or wrong; starting
    the embedded node raises NodeError, or UnsupportedError where its requirements are not installed.
    """
    site = find_site(target or None)
    known = site.settings
    refuse_plain(site.url, insecure)
    user = user or find_user(site)
    return Connection(
        name=site.name, url=site.url, user=user, password=Secret(password or find_password(site, user, ask)),
        reference=reference or os.environ.get('ERP5_REFERENCE') or known.get('reference') or made_reference(user, notebook_name),
        title=title or known.get('title', ''), serializer=serializer or known.get('serializer', ''),
        ca_bundle=existing(ca_bundle or known.get('ca_bundle') or os.environ.get('REQUESTS_CA_BUNDLE', '')),
        insecure=insecure, trusted=is_loopback(site.url), embedded=site.embedded)


# ---------------------------------------------------------------- which site
def find_site(target: str | None) -> Site:
    sections = read_sections(connections_file())
    if target and '://' in target:
        return site_at(site_url(target), sections)
    if not target and os.environ.get('ERP5_URL'):
        return site_at(environment_url(), sections)
    name = target or DEFAULT
    if name in sections:
        return configured(name, sections[name])
    if name in (DEFAULT, EMBEDDED):
        return embedded_site()
    raise TargetError(unknown_name(name, sections))


def site_at(url: str, sections: Mapping[str, Mapping[str, str]]) -> Site:
    """A site by its URL; a section with the same URL says the rest."""
    same = next((name for name, settings in sections.items() if is_url_of(settings.get('url', ''), url)), None)
    return configured(same, sections[same]) if same else Site(urlsplit(url).netloc, url, {}, environment_is_for(url))


def is_url_of(text: str, url: str) -> bool:
    try:
        return site_url(text) == url
    except TargetError:
        return False


def configured(name: str, settings: Mapping[str, str]) -> Site:
    """A section of the file, its keys checked."""
    for key in settings:
        if key not in KEYS:
            raise TargetError(f'the connection {name!r} has the unknown key {key!r}{did_you_mean(key, KEYS)} '
                              f'Keys are {", ".join(KEYS)}.')
    if not settings.get('url'):
        raise TargetError(f'the connection {name!r} has no `url`: write `url = https://host/erp5` into its section of '
                          f'{connections_file()}')
    url = site_url(settings['url'], f'connection {name!r}: ')
    return Site(name, url, settings, environment_is_for(url))


def embedded_site() -> Site:
    """The embedded node, started if none runs. The environment's user and password are for a site that was named."""
    node = local_node.embedded()
    return Site(EMBEDDED, node.url, {'user': node.user, 'password': node.password()}, environment=False, embedded=True)


def environment_is_for(url: str) -> bool:
    return environment_url() in ('', url)


def environment_url() -> str:
    named = os.environ.get('ERP5_URL', '')
    return site_url(named, 'ERP5_URL: ') if named else ''


def unknown_name(name: str, sections: Mapping[str, object]) -> str:
    names = ', '.join(sorted({*sections, EMBEDDED}))
    as_url = f' For a URL write https://{name}' if set(name) & set('.:/') else ''
    return (f'no connection is named {name!r}{did_you_mean(name, [*sections, EMBEDDED])} There are: {names} '
            f'(sections of {connections_file()}).{as_url}')


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f'; did you mean {near[0]!r}?' if near else '.'


# ---------------------------------------------------------------- URLs
def site_url(text: str, origin: str = '') -> str:
    """The URL of a site, without a slash at its end; TargetError, which begins with `origin`, if it is none.

    `/erp5` is added to a bare host, as ERP5's own kernel does, and the name of the endpoint is taken away.
    """
    parts = split_url(text.strip(), origin)
    path = (parts.path.rstrip('/') or '/erp5').removesuffix(ENDPOINT)
    return urlunsplit((parts.scheme, parts.netloc.lower(), path, '', ''))


def split_url(text: str, origin: str) -> SplitResult:
    """The parts of a URL, checked. No error shows a password, whatever was typed."""
    shown = text.rpartition('@')[2] if '@' in text else text
    wrong = f'{origin}expected the URL of a site, such as https://host/erp5, got {shown!r}'
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise TargetError(f'{wrong}: {error if "@" not in text else "it cannot be parsed"}') from None
    if '@' in parts.netloc:
        raise TargetError(f'{origin}a user or password in a URL ends up in notebooks, histories and logs: write only the site '
                          f'(…://{shown}), the user as `--user` or ERP5_USER, and the password as ERP5_PASSWORD_FILE '
                          f'or in {connections_file()}')
    if not sound or not text.isprintable() or any(char.isspace() for char in text):
        raise TargetError(wrong)
    if parts.query or parts.fragment:
        raise TargetError(f'{wrong}: leave away what follows ? or #')
    return parts


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine, by its name alone."""
    host = urlsplit(url).hostname or ''
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


def refuse_plain(url: str, insecure: bool) -> None:
    if url.startswith('http://') and not insecure and not is_loopback(url):
        raise TargetError(f'{url} is not encrypted, and everybody on the way could read the password: write https://, or '
                          f'--insecure if the network is yours')


# ---------------------------------------------------------------- the file of connections
def connections_file() -> Path:
    named = os.environ.get('ERP5_CONNECTIONS')
    folder = os.environ.get('XDG_CONFIG_HOME') or '~/.config'
    return Path(named or f'{folder}/ipython_erp5/connections.ini').expanduser()


def read_sections(path: Path) -> dict[str, dict[str, str]]:
    """Section -> key -> text. No file is no section, unless ERP5_CONNECTIONS names it. TargetError if others may read it."""
    try:
        with path.open(encoding='utf-8') as file:
            refuse_shared(path, os.fstat(file.fileno()).st_mode)
            return parse_sections(path, file)
    except FileNotFoundError:
        if not os.environ.get('ERP5_CONNECTIONS'):
            return {}
        raise TargetError(f'ERP5_CONNECTIONS names {path}, which does not exist') from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f'{path} cannot be read: {error}') from None


def refuse_shared(path: Path, mode: int) -> None:
    if mode & 0o077:
        raise TargetError(f'{path} has mode {mode & 0o777:04o}, so that others may read passwords in it: run `chmod 600 {path}`')


def parse_sections(path: Path, lines: Iterable[str]) -> dict[str, dict[str, str]]:
    # No interpolation: passwords have percent signs. No section whose keys are in all others: a password is for one site.
    parser = configparser.ConfigParser(interpolation=None, default_section='\n')
    try:
        parser.read_file(lines)
    except configparser.Error as error:
        # The text of the error would quote the line, which may be a password.
        row = getattr(error, 'lineno', None) or next((row for row, _ in getattr(error, 'errors', ())), '?')
        raise TargetError(f'{path}, line {row}: expected `[name]` and below it lines `key = value`, each once '
                          f'({type(error).__name__})') from None
    return {name: dict(parser[name]) for name in parser.sections()}


# ---------------------------------------------------------------- user and password
def find_user(site: Site) -> str:
    host = urlsplit(site.url).hostname or ''
    user = (os.environ.get('ERP5_USER', '') if site.environment else '') or site.settings.get('user') or netrc_login(host)[0]
    if not user:
        raise TargetError(f'no user is known for {site.url}: write --user NAME, or set ERP5_USER, or the key `user` of a section '
                          f'of {connections_file()}')
    return user


def find_password(site: Site, user: str, ask: Ask | None) -> str:
    """The password of `user`: from a source that names this user, or none."""
    host = urlsplit(site.url).hostname
    password = next(filter(None, passwords(site, user)), '') or asked_password(f'Password of {user} at {site.url}: ', ask)
    if not password:
        raise TargetError(f'no password is known for {user} at {site.url}: set ERP5_PASSWORD_FILE or ERP5_PASSWORD, or the key '
                          f'`password` of a section of {connections_file()}, or add `machine {host} login {user}` and its '
                          f'password to ~/.netrc')
    return password


def passwords(site: Site, user: str) -> Iterator[str]:
    """What the sources know, in their order, each asked only when it is reached."""
    if site.environment and os.environ.get('ERP5_USER', '') in ('', user):
        yield environment_password()
    if site.settings.get('user', '') in ('', user):
        yield site.settings.get('password', '')
    yield keyring_password(site.url, user)
    login, password = netrc_login(urlsplit(site.url).hostname or '')
    if login == user:
        yield password


def environment_password() -> str:
    path = os.environ.get('ERP5_PASSWORD_FILE')
    if os.environ.get('ERP5_PASSWORD') or not path:
        return os.environ.get('ERP5_PASSWORD', '')
    try:
        password = Path(path).expanduser().read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f'ERP5_PASSWORD_FILE names {path}, which cannot be read: {error}') from None
    if not password:
        raise TargetError(f'ERP5_PASSWORD_FILE names {path}, which is empty: write the password into it')
    return password


def keyring_password(url: str, user: str) -> str:
    """What `keyring set URL USER` has stored. Many machines have no keyring, or one without a backend."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return ''
    try:
        return keyring.get_password(url, user) or ''
    except keyring.errors.KeyringError as error:
        warnings.warn(f'the keyring gives no password for {user}: {error}', stacklevel=2)
        return ''


def netrc_login(host: str) -> tuple[str, str]:
    """User and password in the file that NETRC names, or in ~/.netrc; '' for what is not there."""
    try:
        entry = netrc.netrc(os.environ.get('NETRC')).authenticators(host)
    except FileNotFoundError:
        return '', ''
    except (OSError, netrc.NetrcParseError) as error:
        # Not the text of the error, which may quote a password.
        warnings.warn(f'{error.filename} is not used: its mode is not 0600, or it is malformed at line '
                      f'{getattr(error, "lineno", None) or "?"}', stacklevel=2)
        return '', ''
    return (entry[0], entry[2] or '') if entry else ('', '')


def asked_password(prompt: str, ask: Ask | None) -> str:
    """What was typed; '' where nobody can be asked (papermill, nbconvert, a closed terminal)."""
    try:
        return ask(prompt) if ask else ''
    except (EOFError, NotImplementedError):  # IPython's StdinNotImplementedError is the second
        return ''


# ---------------------------------------------------------------- the rest
def existing(ca_bundle: str) -> str:
    if ca_bundle and not Path(ca_bundle).expanduser().exists():
        raise TargetError(f'the CA bundle {ca_bundle} does not exist')
    return str(Path(ca_bundle).expanduser()) if ca_bundle else ''


def made_reference(user: str, notebook_name: str) -> str:
    """A reference for somebody who gave none: the notebook's name unless a thousand others have it, else user, host and date."""
    name = PurePath(notebook_name or os.environ.get('JPY_SESSION_NAME', '')).stem
    if name and not name.startswith('Untitled'):
        return name
    return f'{user}-{socket.gethostname().partition(".")[0]}-{date.today().isoformat()}'
