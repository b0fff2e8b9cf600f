"""The package as it is installed: in a virtual environment with nothing but the five client requirements."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

IMPORT_ALL = '''
import importlib, pkgutil
import ipython_erp5
for module in pkgutil.iter_modules(ipython_erp5.__path__):
    if module.name not in ('node', '__main__'):
        print(importlib.import_module(f'ipython_erp5.{module.name}').__name__)
'''

MARKED_CELL = '''
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.extension_manager.load_extension('ipython_erp5')
print(shell.transform_cell('# erp5: --no-history\\nx = 1'))
'''


@pytest.fixture(scope='session')
def client_python(tmp_path_factory):
    """The interpreter of an environment into which the project was installed without extras."""
    folder = tmp_path_factory.mktemp('client')
    source = folder / 'source'
    source.mkdir()
    for name in ('setup.py', 'setup.cfg', 'README.rst'):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / 'ipython_erp5', source / 'ipython_erp5', ignore=shutil.ignore_patterns('__pycache__'))
    subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)
    python = folder / 'venv/bin/python'
    subprocess.run([python, '-m', 'pip', 'install', '-q', source], check=True)
    return python


def output(python, code, home):
    """What a piece of code prints, in a fresh interpreter that knows nothing of this folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'ERP5'))}
    done = subprocess.run([python, '-W', 'error::DeprecationWarning:ipython_erp5', '-c', code], capture_output=True, text=True,
                          cwd=home, env={**environment, 'HOME': str(home)}, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_requirements_are_five_ranges(client_python, tmp_path):
    code = "import importlib.metadata; print(*importlib.metadata.requires('ipython_erp5'), sep='\\n')"
    required = [line for line in output(client_python, code, tmp_path).splitlines() if 'extra' not in line]
    assert sorted(line.partition('<')[0].partition('>')[0] for line in required) == [
        'cloudpickle', 'dill', 'ipython', 'requests', 'zodbpickle']
    assert all('<' in line and '>=' in line for line in required)


def test_every_client_module_is_importable(client_python, tmp_path):
    names = output(client_python, IMPORT_ALL, tmp_path).split()
    assert {'ipython_erp5.client', 'ipython_erp5.magics', 'ipython_erp5.cli', 'ipython_erp5.connections'} <= set(names)


def test_there_is_no_zope_in_it(client_python, tmp_path):
    code = "import importlib.util; print([name for name in ('Zope2', 'ZODB', 'waitress') if importlib.util.find_spec(name)])"
    assert output(client_python, code, tmp_path) == '[]\n'


def test_a_marked_cell_becomes_the_magic(client_python, tmp_path):
    assert output(client_python, MARKED_CELL, tmp_path).strip() == (
        "get_ipython().run_cell_magic('erp5', '--no-history', '# erp5: --no-history\\nx = 1\\n')")


def test_the_embedded_node_says_what_to_install(client_python, tmp_path):
    done = subprocess.run([client_python.parent / 'ipython-erp5', 'start', '--data-dir', tmp_path / 'data'], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('ipython-erp5: a node needs more than a client, and there is no Zope2, ZODB, relstorage, ')
    assert "pip install 'ipython_erp5[node]'" in done.stderr


def test_it_says_that_it_has_types(client_python, tmp_path):
    code = "import ipython_erp5, pathlib; print((pathlib.Path(ipython_erp5.__file__).parent / 'py.typed').exists())"
    assert output(client_python, code, tmp_path) == 'True\n'
