"""What the subcommands of `ipython-erp5` have in common: their options, of which one that does not exist is an error."""

import sys
from pathlib import Path
from typing import Any, NoReturn

from traitlets import Unicode
from traitlets.config import Application
from traitlets.config.loader import KVArgParseConfigLoader

from . import local_node
from .errors import NodeError

NAME = 'ipython-erp5'


class StrictLoader(KVArgParseConfigLoader):
    """Options that do not exist are errors; traitlets would only warn, and a node would listen elsewhere than it was told."""

    def _handle_unrecognized_alias(self, arg: str) -> NoReturn:
        self.parser.error(f'there is no option --{arg.lstrip("-")}; see {NAME} help')


class Command(Application):
    """One subcommand; all concern the node of one data directory."""

    name = NAME
    data_dir = Unicode(help='By default $ERP5_DATA_DIR, else ipython_erp5 in the XDG data home.').tag(config=True)
    aliases = {'data-dir': 'Command.data_dir'}
    flags = {}

    def run(self) -> int:
        raise NotImplementedError

    def _create_loader(self, argv: list[str] | None, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log)

    def parse_command_line(self, argv: Any = None) -> None:
        super().parse_command_line(argv)
        self.check_arguments()

    def check_arguments(self) -> None:
        if self.extra_args:
            print(f'{NAME}: expected options only, got {" ".join(self.extra_args)!r}; see {NAME} help', file=sys.stderr)
            self.exit(2)

    @property
    def folder(self) -> Path:
        return local_node.data_directory(self.data_dir)


class OnDatabase(Command):
    """A subcommand that opens the database itself, whether a node runs or not."""

    storage = Unicode(help='The URI of a ZODB storage (zodburi); by default SQLite in the data directory.').tag(config=True)
    aliases = {**Command.aliases, 'storage': 'OnDatabase.storage'}
    usage = ''
    most = least = 0  # arguments

    def check_arguments(self) -> None:
        if not self.least <= len(self.extra_args) <= self.most:
            print(f'{NAME}: expected {self.usage or "options only"}, got {" ".join(self.extra_args)!r}; see {NAME} help', file=sys.stderr)
            self.exit(2)

    def run(self) -> int:
        local_node.require_extra()
        node = local_node.running(self.folder)
        if not self.storage and node is not None and node.storage != 'sqlite':
            raise NodeError(f'the database of this node is not in {self.folder}: name it by --storage, as for {node.storage}://…')
        return self.work()

    def work(self) -> int:
        raise NotImplementedError
