"""The subcommand `user`: add, remove and list the users of a site, change a password. A node may run, or none.

A password is asked for twice at a terminal, or read from a file or the standard input; it is never an argument, which others of
the machine could see.
"""

import getpass
import sys
from pathlib import Path

from traitlets import Enum, Unicode

from . import local_node
from .command import NAME, OnDatabase
from .errors import NodeError


class User(OnDatabase):
    description = 'Add, remove and list the users of a site, or change a password: user add|remove|list|passwd [NAME].'

    role = Enum(('Author', 'Manager'), 'Author',
                help='Of a new user. A Manager uses every notebook, an Author his own and those shared with him.').tag(config=True)
    password_file = Unicode(help='A file with the password; by default it is asked for, or read from the standard input.').tag(config=True)
    aliases = {**OnDatabase.aliases, 'role': 'User.role', 'password-file': 'User.password_file'}
    actions = {'add': 1, 'remove': 1, 'list': 0, 'passwd': 1}  # names that each of them takes

    def check_arguments(self) -> None:
        action, *names = self.extra_args or ['']
        if self.actions.get(action) != len(names):
            print(f'{NAME}: expected user add NAME, user remove NAME, user list or user passwd NAME, got '
                  f'{" ".join(["user", *self.extra_args])!r}; see {NAME} help user', file=sys.stderr)
            self.exit(2)

    def work(self) -> int:
        action, *names = self.extra_args
        print(getattr(self, action)(*names))
        return 0

    def add(self, name: str) -> str:
        from .node import users
        users.check_name(name)
        password = self.password(name)
        users.change(self.folder, self.storage, lambda folder: users.add(folder, name, password, self.role))
        return f'Added {name}, {self.role}.'

    def remove(self, name: str) -> str:
        from .node import users
        self.refuse_own(name)
        users.change(self.folder, self.storage, lambda folder: users.remove(folder, name))
        return f'Removed {name}; the notebooks of this user stay.'

    def passwd(self, name: str) -> str:
        from .node import users
        self.refuse_own(name)
        users.change(self.folder, self.storage, lambda folder: users.known(folder, name))  # before anybody is asked
        password = self.password(name)
        users.change(self.folder, self.storage, lambda folder: users.change_password(folder, name, password))
        return f'The password of {name} is changed.'

    def list(self) -> str:
        from .display import table
        from .node import users
        return table(('name', 'roles'), users.change(self.folder, self.storage, users.listed)).rstrip('\n')

    def refuse_own(self, name: str) -> None:
        """The user whom a node makes, with the password of its file, at each start."""
        node = local_node.running(self.folder)
        if node is not None and node.user == name:
            raise NodeError(f'{name} is the user of the node that runs at {node.url}, who gets the password of its file at each start: '
                            f'change {node.password_file or node.data_dir / "password"}, or --user, and start it again')

    def password(self, name: str) -> str:
        if self.password_file:
            try:
                return Path(self.password_file).expanduser().read_text(encoding='utf-8').strip()
            except (OSError, UnicodeDecodeError) as error:
                raise NodeError(f'--password-file: expected a readable file, got {self.password_file}: {error}') from None
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip('\n')
        password = getpass.getpass(f'Password of {name}: ')
        if getpass.getpass('Once more: ') != password:
            raise NodeError('the two passwords are not the same: nothing was changed')
        return password
