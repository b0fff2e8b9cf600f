"""Users of a site, and which notebooks each of them may use.

    request ─► Zope: does a role of the user have `Manage portal`? ─► may_use(user, notebook)? ─► the notebook
                     no: 401                                          no: 403, or the error of a cell

    Manager    runs code, uses every notebook, adds and removes users
    Author     runs code, in notebooks of his own and in those shared with him
    Assignee   Zope's local role on a notebook that is shared with a user

Owner is who made the notebook. This keeps people out of one another's notebooks; it is no wall against their code, which runs as
the user of the system who started the node (README, Security).

Shares are in a record of their own: sharing a notebook never conflicts with a cell that writes to it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from Acquisition import aq_base
from persistent.mapping import PersistentMapping
from transaction.interfaces import TransientError

from ..errors import NodeError, UnauthorizedError, UnknownUserError, did_you_mean
from . import storage

MANAGER, AUTHOR, ASSIGNEE = 'Manager', 'Author', 'Assignee'
ROLES = (MANAGER, AUTHOR)
RESERVED = ('Anonymous User', 'System Processes')  # Zope's own
Result = TypeVar('Result')


# ---------------------------------------------------------------- who may use which notebook
def may_use(user: Any, notebook: Any) -> bool:
    """Whether a user of Zope may run code in a notebook, see what it holds, and interrupt its cells."""
    return owns(user, notebook) or bool(user.has_role((MANAGER, ASSIGNEE), notebook))


def owns(user: Any, notebook: Any) -> bool:
    return bool(notebook.owner) and notebook.owner == user.getId()


def refusal(user: Any, notebook: Any) -> str:
    """Why `may_use` is False, and what to do about it."""
    owner = notebook.owner or 'nobody'
    asked = owner if notebook.owner else 'a Manager'
    return (f'the notebook {notebook.reference!r} belongs to {owner}, and is not shared with {user.getId()}: ask {asked} for '
            f'`%erp5_notebooks --share {user.getId()} --reference {quoted(notebook.reference)}`, or take another reference')


def quoted(text: str) -> str:
    return text if text and not any(char.isspace() or char in '"\'' for char in text) else repr(text)


def check(module: Any, notebook: Any, name: str) -> None:
    """UnauthorizedError unless the user of this name may use the notebook: for an executor, which knows no more of the user."""
    if notebook.owner == name:
        return
    folder = module.getPhysicalRoot().acl_users
    user = folder.getUserById(name)
    if user is None:
        raise UnauthorizedError(f'the user {name} has been removed')
    if not may_use(user.__of__(folder), notebook):
        raise UnauthorizedError(refusal(user, notebook))


# ---------------------------------------------------------------- sharing
def shared_with(notebook: Any) -> list[str]:
    """The users with whom a notebook is shared, sorted."""
    return sorted(name for name, roles in (notebook.__ac_local_roles__ or {}).items() if ASSIGNEE in roles)


def share(user: Any, notebook: Any, name: str) -> None:
    """Let another user use a notebook. UnauthorizedError unless `user` owns it or is a Manager; UnknownUserError."""
    may_share(user, notebook)
    folder = notebook.getPhysicalRoot().acl_users
    if folder.getUserById(name) is None:
        raise unknown(name, folder)
    set_roles(notebook, name, {*roles_of(notebook, name), ASSIGNEE})


def unshare(user: Any, notebook: Any, name: str) -> None:
    """End a share, also that of a user who has been removed. UnknownUserError if there is none."""
    may_share(user, notebook)
    names = shared_with(notebook)
    if name not in names:
        raise UnknownUserError(f'the notebook {notebook.reference!r} is not shared with {name!r}'
                               f'{did_you_mean(name, names)} It is shared with {", ".join(names) or "nobody"}')
    set_roles(notebook, name, {*roles_of(notebook, name)} - {ASSIGNEE})


def may_share(user: Any, notebook: Any) -> None:
    if not owns(user, notebook) and not user.has_role((MANAGER,), notebook):
        raise UnauthorizedError(f'the notebook {notebook.reference!r} belongs to {notebook.owner or "nobody"}: only its owner and '
                                'Managers may share it')


def roles_of(notebook: Any, name: str) -> Iterable[str]:
    return (notebook.__ac_local_roles__ or {}).get(name, ())


def set_roles(notebook: Any, name: str, roles: Iterable[str]) -> None:
    """Zope's own methods would write the notebook itself. A notebook of an older version gets its record here."""
    if not isinstance(notebook.__ac_local_roles__, PersistentMapping):
        aq_base(notebook).__ac_local_roles__ = PersistentMapping(notebook.__ac_local_roles__ or {})
    if roles:
        notebook.__ac_local_roles__[name] = sorted(roles)
    else:
        notebook.__ac_local_roles__.pop(name, None)


# ---------------------------------------------------------------- the users
def add(folder: Any, name: str, password: str, role: str) -> None:
    check_name(name)
    check_password(password)
    check_role(role)
    if folder.getUserById(name) is not None:
        raise NodeError(f'there is a user {name!r} already: `ipython-erp5 user passwd {name}` changes the password')
    folder._doAddUser(name, encrypted(folder, password), [role], [])


def remove(folder: Any, name: str) -> None:
    """The user's notebooks stay."""
    user = known(folder, name)
    managers = [other.getId() for other in folder.getUsers() if MANAGER in other.getRoles()]
    if MANAGER in user.getRoles() and len(managers) == 1:
        raise NodeError(f'{name!r} is the last {MANAGER}: add another one before, or nobody could see to the site')
    folder._doDelUsers([name])


def change_password(folder: Any, name: str, password: str) -> None:
    user = known(folder, name)
    check_password(password)
    folder._doChangeUser(name, encrypted(folder, password), user.roles, user.domains)


def listed(folder: Any) -> list[tuple[str, str]]:
    """(name, roles) of all users, sorted by name."""
    return sorted((user.getId(), ', '.join(role for role in user.getRoles() if role != 'Authenticated')) for user in folder.getUsers())


def known(folder: Any, name: str) -> Any:
    user = folder.getUserById(name)
    if user is None:
        raise unknown(name, folder)
    return user


def unknown(name: str, folder: Any) -> UnknownUserError:
    return UnknownUserError(f'there is no user {name!r}{did_you_mean(name, folder.getUserNames())} '
                            '`ipython-erp5 user list` shows all, `ipython-erp5 user add` makes one')


def encrypted(folder: Any, password: str) -> Any:
    """Before Zope looks at it, which would take a password that begins like a hash for one."""
    return folder._encryptPassword(password)


def check_name(name: str) -> None:
    wrong = ('a name that is not empty' if not name else
             'a name without a colon, which ends the name in HTTP Basic' if ':' in name else
             'printable characters without a blank at either end' if not name.isprintable() or name != name.strip() else
             'a name that is not one of Zope\'s own' if name in RESERVED else '')
    if wrong:
        raise NodeError(f'expected {wrong}, got the user {name!r}')


def check_role(role: str) -> None:
    if role not in ROLES:
        raise NodeError(f'--role: expected one of {", ".join(ROLES)}, got {role!r}')


def check_password(password: str) -> None:
    if not password:
        raise NodeError('expected a password, got an empty text')
    if not password.isprintable():
        raise NodeError('expected a password of printable characters, got others among them')


# ---------------------------------------------------------------- the database
def change(data_dir: Path, uri: str, action: Callable[[Any], Result]) -> Result:
    """Do something to the user folder of the site, committed; a node may run. NodeError if there is no site, or it stays busy."""
    with storage.existing_database(data_dir, uri) as database:
        try:
            return storage.change(database, lambda root: action(storage.application_in(root).acl_users))
        except TransientError:
            raise NodeError('the users could not be changed: other processes keep changing the same record') from None
