"""Where to connect and as whom: `resolve` turns what was typed into a `Connection`, and never talks to a site.

    options of the magic ─► environment ─► connections.ini ─► keyring ─► netrc ─► a prompt         the first that knows wins
        target              ERP5_URL       section of the     password   user,    password
        user                ERP5_USER      target's name      of         password
        reference …         ERP5_PASSWORD  or URL, else       (url, user)
                            …_FILE         `default`
        token, files        ERP5_REFERENCE
                            ERP5_TOKEN, …_FILE

    nothing to connect to ─► the embedded node of this user, started if none runs (`local_node`)

`auth` says how the site is shown who asks (see `authentication`), and so what is looked for: a password for `basic`, a token for
`bearer`, files for `certificate`; for another, a password that is known without asking.

It promises: a password or token is in a `Secret`, which shows itself nowhere; it is sent only as the user, and to the site, for which
it was found (the environment's belongs to ERP5_URL where that is set), and never over plain HTTP beyond this machine unless
`insecure` says so; a file that others may read is refused. Every error says which setting to make.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePath
from urllib.parse import SplitResult, urlsplit, urlunsplit

from . import local_node
from .authentication import BASIC, BEARER
from .credentials import Ask, Secret, Site, client_files, find_token, find_user, known_user, password_for
from .errors import TargetError, did_you_mean
from .settings import Section, connections_file, read_sections

DEFAULT, EMBEDDED = 'default', 'embedded'
KEYS = ('url', 'user', 'password', 'reference', 'title', 'serializer', 'ca_bundle', 'auth', 'token', 'client_cert', 'client_key')
ENDPOINT = '/Base_executeJupyter'


@dataclass(frozen=True)
class Connection:
    """What a client needs. `ca_bundle`: a path, '' for the usual authorities; `trusted`: the site is on this machine.

    `auth`: a name that `authentication` knows; `password`, `token`, `client_cert` and `client_key` (paths) are what it may need.
    `data_dir`: of the embedded node, '' for another site.
    """

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
    auth: str = BASIC
    token: Secret = Secret('')
    client_cert: str = ''
    client_key: str = ''
    data_dir: str = ''


def resolve(target: str | None = None, *, user: str | None = None, reference: str | None = None, title: str | None = None,
            serializer: str | None = None, ca_bundle: str | None = None, insecure: bool = False, password: str | Secret | None = None,
            auth: str | None = None, ask: Ask | None = None, notebook_name: str = '') -> Connection:
    """The connection to `target`: a URL, a configured name, or None for the default connection, else the embedded node.

    `ask` is called with a prompt for a password that nothing else knows. TargetError says what is missing or wrong; starting
    the embedded node raises NodeError, or UnsupportedError where its requirements are not installed.
    """
    site = find_site(target or None)
    known = site.settings
    refuse_plain(site.url, insecure)
    auth = BASIC if site.embedded else auth or known.get('auth') or BASIC
    user = user or (find_user(site) if auth == BASIC else known_user(site))
    return Connection(
        name=site.name, url=site.url, user=user, password=secret(password) or Secret(password_for(auth, site, user, ask)),
        auth=auth, token=Secret(find_token(site) if auth == BEARER else ''), **client_files(site, auth),
        reference=reference or os.environ.get('ERP5_REFERENCE') or known.get('reference') or made_reference(user, notebook_name),
        title=title or known.get('title', ''), serializer=serializer or known.get('serializer', ''),
        ca_bundle=existing(own_certificate(site) or ca_bundle or known.get('ca_bundle') or os.environ.get('REQUESTS_CA_BUNDLE', '')),
        insecure=insecure, trusted=is_loopback(site.url), embedded=site.embedded,
        data_dir=known.get('data_dir', '') if site.embedded else '')


def secret(password: str | Secret | None) -> Secret:
    return password if isinstance(password, Secret) else Secret(password or '')


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


def site_again(connection: Connection) -> Site:
    """The site of a connection, with what is configured for it now."""
    sections = read_sections(connections_file())
    same = sections.get(connection.name, Section())
    return configured(connection.name, same) if is_url_of(same.get('url', ''), connection.url) else site_at(connection.url, sections)


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
    known = Section(user=node.user, password=node.password(), ca_bundle=node.ca_bundle, data_dir=str(node.data_dir))
    return Site(EMBEDDED, node.url, known, environment=False, embedded=True)


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
                          f'--insecure (or `%config ERP5Magics.insecure = True`) if the network is yours')


# ---------------------------------------------------------------- the rest
def own_certificate(site: Site) -> str:
    """That of the embedded node, if it vouches for itself: no other authority could."""
    return site.settings.get('ca_bundle', '') if site.embedded else ''


def existing(ca_bundle: str) -> str:
    if ca_bundle and not Path(ca_bundle).expanduser().exists():
        raise TargetError(f'the CA bundle {ca_bundle} does not exist: expected a file of certificates in PEM format (--ca-bundle, the key '
                          '`ca_bundle`, or REQUESTS_CA_BUNDLE)')
    return str(Path(ca_bundle).expanduser()) if ca_bundle else ''


def made_reference(user: str, notebook_name: str) -> str:
    """A reference for somebody who gave none: the notebook's name unless a thousand others have it, else user, host and date."""
    name = PurePath(notebook_name or os.environ.get('JPY_SESSION_NAME', '')).stem
    if name and not name.startswith('Untitled'):
        return name
    return '-'.join(filter(None, (user, socket.gethostname().partition('.')[0], date.today().isoformat())))
