"""Layers import downwards only: the table of every file of the package, and a test that fails on any other import.

All imports count, also those inside functions; those for type checkers, which import nothing, count for the wall only: outside
of `node/` there is nothing of Zope or ZODB, and nothing of `node/` but the import with which `ipython-erp5 serve` becomes a node.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ipython_erp5

PACKAGE = Path(ipython_erp5.__file__).parent

# file: what it may import of the package                                    # the reason why the file exists
LAYERS = {
    'errors': '',                                                              # every exception, one root
    'wire': 'errors',                                                          # messages and their bytes
    'environment': 'errors',                                                   # AST pass: tree in, tree and changes out
    'written': 'errors environment',                                           # where a function was written, and if it can be a setup
    'setups': 'errors environment written',                                    # setups in order, the `environment` object
    'fidelity': 'errors',                                                      # what must not be taken; names of what may lie
    'live': 'errors',                                                          # how functions and classes of a notebook are kept
    'arrays': 'errors',                                                        # how arrays and their views are kept
    'frames': 'arrays',                                                        # how frames are, and what reduces which type
    'paths': 'fidelity',                                                       # Python paths through what a pickler visited
    'serializers': 'errors fidelity frames live',                              # interface, registry, three built-in ones
    'diagnosis': 'errors fidelity paths serializers',                          # culprits inside a value, and their paths
    'amounts': '',                                                             # bytes, times and counts as people read them
    'report': 'diagnosis',                                                     # what was not saved, why, the way out
    'transformer': '',                                                         # markers -> magics, a function of lines
    'remote_code': 'transformer',                                              # what stands at the cursor: code, or words of a magic
    'magic_words': 'remote_code',                                              # which word of a magic is typed
    'help_lines': 'transformer',                                               # `%erp5 name?`
    'authentication': 'errors',                                                # how a client shows who it is
    'local_node': 'errors',                                                    # the node of this user: files, starting it
    'settings': 'errors',                                                      # the file of connections
    'credentials': 'errors authentication settings',                           # as whom: user, password, token
    'connections': 'errors local_node authentication credentials settings',    # what was typed -> where and as whom
    'cell_text': '',                                                           # the statements of a cell, in either Python
    'splitting': 'cell_text environment errors',                               # a cell for a stock site: what defines first, then the rest
    'stock': 'cell_text errors wire',                                          # what a stock site says, and values for it
    'exchanges': '',                                                           # what went to the site and came back lately
    'octets': '',                                                              # bodies of requests and answers that are memory
    'trouble': 'errors wire authentication credentials stock',                  # what goes wrong with a site, as errors
    'adapter': '',                                                             # the connections below a client
    'client': 'errors wire connections authentication stock credentials exchanges octets trouble adapter',  # all HTTP to a site
    'reply': 'errors wire stock',                                              # what one cell did
    'ctrl_c': 'errors reply',                                                  # Ctrl-C while a remote cell runs
    'delivery': 'errors wire client reply stock trouble',                      # one request to the site, at most once
    'handle': 'errors wire delivery history reply',                            # a cell that nobody waits for
    'history': 'errors',                                                       # the lines of a notebook, and finding one
    'known_names': 'wire',                                                     # the names of a notebook, as far as they were heard
    'stock_delivery': 'client delivery errors report splitting stock wire',    # the requests that a stock site needs for one cell
    'reconnecting': 'errors authentication client connections credentials exchanges local_node',  # where the site is now, and as whom
    'transfer': 'arrays diagnosis errors fidelity report serializers',         # values -> bytes and large buffers, and back
    'shipping': 'client delivery errors octets transfer',                      # large buffers in requests of their own, as often as needed
    'values': 'client errors reply serializers shipping transfer wire stock',  # what may be pushed and pulled
    'session': 'errors wire connections client ctrl_c delivery reply handle history stock_delivery exchanges reconnecting transfer values '
               'known_names',
    #                                                                          # a notebook of a site: execute, push, pull
    'progress': 'amounts',                                                     # one line about what takes long
    'display': 'errors wire progress report',                                  # events -> IPython display
    'options': 'errors',                                                       # the words of a magic's line
    'sessions': 'errors connections options serializers session exchanges',    # the sessions of one shell
    'completion': 'wire connections known_names magic_words remote_code session sessions settings',  # Tab and Shift-Tab of what is there
    'magics': 'local_values values errors wire display masking options reply session sessions background credentials progress reconnecting '
              'amounts',
    #                                                                          # connecting, and running cells
    'background': 'errors wire display handle history local_values session',   # where the outputs of such a cell go
    'recalling': 'errors display handle history magics options session',       # cells and lines that are there already
    'mode': 'errors display magics options sessions transformer',              # which cells run there: marked ones, or all
    'masking': '',                                                             # a typed password, out of IPython's history
    'official': 'connections credentials display magics masking mode options session settings',  # the magics of ERP5's own kernel
    'looking': 'errors display magics options sessions status',                # what there is: variables, notebooks, nodes
    'local_values': 'amounts errors reply values',                             # the local end of a push or a pull in IPython
    'moving': 'magics options',                                                # %erp5_push, %erp5_pull
    'manual': '',                                                              # the pages of %erp5_help
    'helping': 'errors display exchanges magics manual options',               # the manual; what went to the sites
    'extension': 'moving helping errors looking magics mode official progress sessions transformer recalling completion help_lines',
    #                                                                          # load and unload, without a trace
    'status': 'errors local_node connections credentials client display amounts',  # what a node says of itself, for people
    'command': 'errors local_node',                                            # what all subcommands have in common
    'converting': 'command errors transformer',                                # a notebook of ERP5's own kernel -> the standard one
    'upkeep': 'amounts command node.cluster',                                  # pack, export, import, verify
    'accounts': 'errors local_node command display node.users',                # the users of a site
    'cli': 'errors local_node accounts command converting status upkeep node.cluster',  # serve, start, stop, status
    '__init__': 'errors connections session extension credentials',            # the public names
    '__main__': 'cli',                                                         # python -m ipython_erp5
    'node.__init__': '',                                                       # says what the wall is
    'node.journal': '',                                                        # the log: lines, and what they must not show
    'node.metrics': '',                                                        # what Prometheus is told
    'node.claims': '',                                                         # requests that may have begun
    'node.cures': '',                                                          # faults of RelStorage's packs
    'node.storage': 'errors node.cures',                                       # the database by its URI, and its blobs
    'node.descendants': '',                                                    # the processes below a process, and their end
    'node.memory': 'node.descendants',                                         # what a process uses, what the machine has left
    'node.limits': 'amounts errors wire',                                      # sizes and times that may be used
    'node.source': '',                                                         # the code filenames of cells
    'node.tracebacks': 'node.source',                                          # which frames of an error are shown, and how
    'node.threads': '',                                                        # which cell a thread works for
    'node.shell': 'errors wire node.namespace node.source node.threads node.tracebacks',  # the IPython shell that runs a cell
    'node.libraries': '',                                                      # what libraries keep for everybody
    'node.references': 'errors node.libraries',                                # what is referred to rather than copied
    'node.chunks': 'arrays errors',                                            # large buffers in pieces, mapped and shared
    'node.names': '',                                                          # what a code object could do to its globals
    'node.namespace': 'errors node.names',                                     # globals into which variables come when asked for
    'node.audit': 'node.names node.namespace',                                 # what only the interpreter sees a cell do
    'node.bodies': '',                                                         # bodies between a socket and files, past waitress
    'node.parcels': 'errors node.bodies node.chunks node.storage',             # large buffers between a client and a cell
    'node.carrying': 'amounts diagnosis errors transfer wire node.parcels',    # the values of a push and a pull, in the cell
    'node.definitions': 'live node.chunks node.references',                    # classes and functions that records share
    'node.sharing': '',                                                        # which variables belong together
    'node.stored': 'node.chunks',                                              # a notebook's variables in ZODB
    'node.context': 'errors diagnosis report serializers node.chunks node.definitions node.namespace node.references node.stored',
    #                                                                          # variables while a cell runs
    'node.units': 'amounts errors diagnosis fidelity node.chunks node.context node.definitions node.references node.sharing node.stored',
    #                                                                          # what a cell could have changed, as bytes
    'node.saving': 'errors fidelity report node.context node.sharing node.stored node.units',  # what changed, into the database
    'node.document': 'errors',                                                 # what ERP5 calls a document, and its module
    'node.notebook': 'serializers wire node.claims node.document node.stored',  # Data Notebook, its lines, its claim
    'node.history': 'node.notebook',                                           # a page of a notebook's lines, as JSON
    'node.cell': 'errors wire environment setups serializers report node.audit node.claims node.context node.namespace node.notebook '
                 'node.references node.saving node.source node.storage',
    #                                                                          # one cell as one transaction
    'node.users': 'errors node.storage',                                       # users, and which notebooks each may use
    'node.answers': 'node.notebook node.users',                                # what a request of Zope asks, and its answer
    'node.portal': 'errors wire node.answers node.document node.metrics node.notebook node.users',  # the site: modules, catalog, users
    'node.completing': 'environment known_names serializers wire node.cell node.context node.shell node.stored',  # asked while one types
    'node.executor': 'errors wire node.carrying node.cell node.claims node.descendants node.journal node.limits '
                     'node.notebook node.shell node.completing node.tracebacks',
    #                                                                          # the process that runs cells
    'node.preload': 'node.cell node.descendants node.executor node.portal node.shell',  # imported once, before the forks
    'node.process': 'wire node.claims node.descendants node.executor node.limits node.memory node.cell',
    #                                                                          # one executor process, seen from the node
    'node.pool': 'node.process node.cell',                                     # the processes: start, choose, give back
    'node.questions': 'node.completing node.executor node.journal node.pool node.process',  # its processes, and the answer in time
    'node.run': 'wire node.claims node.process',                               # one request on its way, and its lines
    'node.turns': 'node.run',                                                  # whose turn it is
    'node.registry': 'node.journal node.storage',                              # the nodes, as they find each other in the database
    'node.peers': 'errors wire node.registry',                                 # what one node asks another
    'node.losses': 'wire node.journal node.storage',                           # outcomes of cells whose process has died
    'node.elsewhere': 'errors wire node.claims node.peers node.run',           # a notebook that another node has claimed
    'node.signals': 'node.limits node.run node.turns',                         # ending a cell that runs
    'node.dispatch': 'errors wire node.claims node.elsewhere node.executor node.journal node.limits node.losses node.metrics node.peers '
                     'node.pool node.process node.run node.signals node.storage node.turns',
    #                                                                          # requests: at most once, here or elsewhere
    'node.housekeeping': 'node.dispatch node.journal node.limits node.memory node.pool',  # memory, idle executors, what was not written
    'node.service': 'errors octets wire serializers node.bodies node.parcels node.history node.dispatch node.journal '
                    'node.metrics node.peers node.answers node.registry node.signals node.completing node.questions '
                    'node.users',
    #                                                                          # what the published methods ask of a node
    'node.publisher': 'node.bodies node.journal node.portal node.service node.storage',  # WSGI, authorization, event stream
    'node.packing': 'amounts errors node.chunks node.parcels node.journal node.storage',  # removing what no record needs
    'node.tls': 'errors',                                                      # TLS before waitress, which has none
    'node.integrity': 'serializers node.chunks',                               # bytes that are what was stored, or not
    'node.verifying': 'amounts wire node.chunks node.document node.integrity node.storage node.stored',  # whether all of it can be read
    'node.loading': 'node.cell node.preload node.process node.stored node.verifying',  # the same of the values, elsewhere
    'node.archive': 'errors node.chunks __init__',                             # the file of an exported notebook
    'node.exporting': 'amounts environment errors node.archive node.chunks node.document node.integrity node.notebook node.storage '
                      'node.stored node.users',                                # a notebook into a file
    'node.importing': 'errors node.archive node.chunks node.document node.exporting node.notebook node.storage node.stored node.users',
    #                                                                          # a file into a notebook
    'node.cluster': 'errors node.archive node.cell node.descendants node.dispatch node.exporting node.housekeeping node.importing '
                    'node.journal node.limits node.loading node.losses node.metrics node.packing node.peers node.pool node.portal '
                    'node.process node.publisher node.registry node.service node.storage node.tls node.verifying',
    #                                                                          # all of it is one node
}

# The one import that goes up.
UPWARDS = {('node.executor', 'node.preload')}                                  # a fork takes the shell that it was born with

# What the client half needs besides the standard library. Everything else belongs behind the wall.
CLIENT_REQUIREMENTS = {'IPython', 'traitlets', 'cloudpickle', 'dill', 'zodbpickle', 'requests', 'urllib3', 'keyring', 'ipykernel'}
ONLY_WHERE = {'requests': {'adapter', 'client', 'trouble'}, 'urllib3': {'adapter', 'client', 'trouble'}, 'dill': {'serializers'},
              'keyring': {'credentials'}}


def module_of(path):
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def nodes_of(node, typing):
    """Every node of a tree, without what stands below `if TYPE_CHECKING:` unless `typing` says so."""
    yield node
    if typing or not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING'):
        for child in ast.iter_child_nodes(node):
            yield from nodes_of(child, typing)


def imports_of(module, typing=True):
    """(line, module) of every import, absolute and complete; `from . import a` is an import of `a`."""
    package = ['ipython_erp5', *module.split('.')[:-1]]
    for node in nodes_of(ast.parse(FILES[module].read_text()), typing):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[:len(package) - node.level + 1] if node.level else [])
            origin = '.'.join(filter(None, (base, node.module)))
            yield from ((node.lineno, name) for name in imported(origin, [alias.name for alias in node.names]))


def imported(origin, names):
    """The modules that `from origin import names` imports: of our packages, the files; of others, the origin."""
    if not origin.startswith('ipython_erp5'):
        return [origin]
    inner = origin.removeprefix('ipython_erp5').lstrip('.')
    files = [f'ipython_erp5.{inner}.{name}'.replace('..', '.') for name in names if f'{inner}.{name}'.lstrip('.') in FILES]
    return files or [origin]


def own(name):
    """The row of the table that a module of the package is; '' for others."""
    if name.partition('.')[0] != 'ipython_erp5':
        return ''
    inner = name.removeprefix('ipython_erp5').lstrip('.')
    return inner if inner in FILES else f'{inner}.__init__'.lstrip('.')


def test_every_file_is_in_the_table_and_nothing_else():
    assert sorted(LAYERS) == sorted(FILES)


def test_the_table_has_no_circle():
    left = {module: set(below.split()) for module, below in LAYERS.items()}
    while left:
        ready = {module for module, below in left.items() if not below & left.keys()}
        assert ready, f'these import each other: {sorted(left)}'
        left = {module: below for module, below in left.items() if module not in ready}


@pytest.mark.parametrize('module', FILES)
def test_a_file_imports_only_what_is_below_it(module):
    allowed = set(LAYERS[module].split())
    wrong = [f'line {line}: {name}' for line, name in imports_of(module, typing=False)
             if own(name) and own(name) not in allowed and (module, own(name)) not in UPWARDS]
    assert not wrong, f'{module} imports what the table does not allow'


@pytest.mark.parametrize('module', [module for module in FILES if not module.startswith('node.')])
def test_the_client_half_needs_only_its_requirements(module):
    allowed = CLIENT_REQUIREMENTS | sys.stdlib_module_names | {'ipython_erp5'}
    wrong = [f'line {line}: {name}' for line, name in imports_of(module) if name.partition('.')[0] not in allowed]
    assert not wrong, f'{module} is outside of node/ and needs more than the client requirements'


def test_only_the_command_line_passes_the_wall():
    passing = {(module, own(name)) for module in FILES if not module.startswith('node.')
               for _, name in imports_of(module) if own(name).startswith('node.')}
    assert passing == {('cli', 'node.cluster'), ('accounts', 'node.users'), ('upkeep', 'node.cluster')}


@pytest.mark.parametrize('package, files', ONLY_WHERE.items())
def test_a_package_with_one_place_has_one_place(package, files):
    users = {module for module in FILES for _, name in imports_of(module) if name.partition('.')[0] == package}
    assert users <= files


LOAD = '''
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.extension_manager.load_extension('ipython_erp5')
assert 'ipython_erp5' in shell.extension_manager.loaded
print(*{name.partition('.')[0] for name in sys.modules})
'''


def test_loading_the_extension_imports_nothing_heavy(tmp_path):
    """In an interpreter of its own; what IPython itself imports is no concern of ours."""
    done = subprocess.run([sys.executable, '-c', LOAD], capture_output=True, text=True, cwd=PACKAGE.parent,
                          env={'HOME': str(tmp_path), 'PATH': ''}, timeout=60)
    assert done.returncode == 0, done.stderr
    heavy = {'Zope2', 'zope', 'ZODB', 'AccessControl', 'OFS', 'transaction', 'waitress',
             'dill', 'requests', 'urllib3', 'cloudpickle', 'zodbpickle'}
    assert 'IPython' in done.stdout.split()
    assert heavy & set(done.stdout.split()) == set()
