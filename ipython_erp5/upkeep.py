"""The subcommands that see to a database: pack, export, import, verify. A node may run, or none.

    pack     remove what is not needed                                      0
    export   all of a notebook into one file                                0, or 1 and there is no file
    import   a notebook out of one                                          0, or 1 and nothing has changed
    verify   a line for the site and each notebook, one for each fault      0, or 1 if there are faults
"""

from pathlib import Path

from traitlets import Bool, Unicode

from . import amounts
from .command import NAME, OnDatabase


class Pack(OnDatabase):
    description = 'Remove from the database what no variable, and nothing else in it, needs any more; a node may run.'

    def work(self) -> int:
        from .node import cluster
        print(f'Packed: {cluster.pack(self.folder, self.storage)}.')
        return 0


class Export(OnDatabase):
    description = 'Write all of a notebook into one file: export REFERENCE [FILE]; a node may run.'

    force = Bool(False, help='Replace the file if there is one.').tag(config=True)
    flags = {'force': ({'Export': {'force': True}}, 'Replace the file if there is one.')}
    usage, least, most = 'export REFERENCE [FILE]', 1, 2

    def work(self) -> int:
        from .node import cluster
        reference, *files = self.extra_args
        done, path = cluster.export_notebook(self.folder, self.storage, reference, absolute(files[0]) if files else None, self.force)
        print(f'Exported: {done}; {path} has all of it.')
        return 0


class Import(OnDatabase):
    description = 'Make a notebook of a file of export: import FILE; a node may run. Only files of people whom you trust.'

    reference = Unicode(help='Another reference for the notebook.').tag(config=True)
    owner = Unicode(help='Another owner for the notebook.').tag(config=True)
    aliases = {**OnDatabase.aliases, 'reference': 'Import.reference', 'owner': 'Import.owner'}
    usage, least, most = 'import FILE', 1, 1

    def work(self) -> int:
        from .node import cluster
        done = cluster.import_notebook(self.folder, self.storage, absolute(self.extra_args[0]), self.reference, self.owner)
        print(f'Imported: {done}; its owner is {done.owner or "nobody"}.')
        if not done.owner_known:
            print(f'There is no user {done.owner} here: only Managers can use it until `{NAME} user add {done.owner}`.')
        return 0


class Verify(OnDatabase):
    description = 'Read all that the notebooks have in the database; exit code 1 if something is wrong; a node may run.'

    values = Bool(False, help="Also load every variable, which runs the notebooks' code: setups and classes.").tag(config=True)
    flags = {'values': ({'Verify': {'values': True}}, "Also load every variable, which runs the notebooks' code: setups and classes.")}

    def work(self) -> int:
        from .node import cluster
        notebooks, records, faults = -1, 0, 0  # the first that is said is of the site
        for found in cluster.verify(self.folder, self.storage, self.values):
            print(found, flush=True)
            notebooks, records, faults = notebooks + 1, records + found.records, faults + len(found.faults)
        counts = amounts.count(notebooks, 'notebook'), amounts.count(records, 'record'), amounts.count(faults, 'fault')
        print(f'Verified: {", ".join(counts)}.')
        return 1 if faults else 0


def absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
