"""The command line: usage, exit codes, and starting, asking and ending a real node that is detached."""

import json
import os
import signal
import subprocess
import sys

import pytest

from ipython_erp5 import local_node
from ipython_erp5.cli import main


@pytest.fixture
def data(tmp_path):
    """A data directory; whatever runs in it is ended."""
    folder = tmp_path / 'data'
    yield folder
    node = local_node.described(folder)
    if node is not None and node.runs():
        os.kill(node.pid, signal.SIGKILL)


def command(*arguments, **options):
    """A command that is running, in a process of its own."""
    return subprocess.Popen(local_node.command(*arguments), env=local_node.environment(), text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def ended(process):
    """Exit code, output and errors of a command."""
    output, errors = process.communicate(timeout=100)
    return process.returncode, output, errors


# ---------------------------------------------------------------- usage
@pytest.mark.parametrize('arguments, code, text', [
    (['serve', '--prot', '80'], 2, 'there is no option --prot'),
    (['status', '--port=80'], 2, 'there is no option --port'),
    (['serve', 'there'], 2, "expected options only, got 'there'"),
    (['serve', '--port', 'x'], 1, "The 'port' trait of a Serve instance expected an int"),
    (['serve', '--port', '70000'], 1, "The value of the 'port' trait"),
    (['serve', '--executors', '0'], 1, "The value of the 'executors' trait"),
    (['serve', '--placement', 'best'], 1, "expected any of ['sticky', 'rotate', 'fresh']"),
    (['strat'], 2, "there is no command 'strat', only serve, start, stop, status"),
])
def test_wrong_usage(arguments, code, text):
    exit_code, output, errors = ended(command(*arguments))
    assert (exit_code, output) == (code, '')
    assert text in errors and 'Traceback' not in errors


@pytest.mark.parametrize('arguments, code', [([], 2), (['--help'], 0), (['help'], 0)])
def test_help_names_every_command(arguments, code):
    exit_code, output, errors = ended(command(*arguments))
    assert (exit_code, errors) == (code, '')
    assert all(f'\n{name}\n' in output for name in ('serve', 'start', 'stop', 'status', 'pack', 'export', 'import', 'verify'))


def test_help_names_every_option():
    exit_code, output, errors = ended(command('start', '--help'))
    assert (exit_code, errors) == (0, '')
    assert all(f'\n--{name}=' in output for name in (
        'host', 'port', 'executors', 'data-dir', 'storage', 'user', 'password-file', 'placement'))


def test_no_node(data, capsys):
    assert main(['status', '--data-dir', str(data)]) == 3
    assert main(['stop', '--data-dir', str(data)]) == 0
    assert capsys.readouterr().out == f'No node runs in {data}.\n' * 2
    assert data.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_enter_is_refused(data, capsys):
    data.mkdir(mode=0o755)
    (data / 'file').touch()
    assert main(['start', '--data-dir', str(data)]) == 1
    assert capsys.readouterr().err == (f'ipython-erp5: others may enter the data directory {data}: run `chmod 700 {data}`, '
                                       'or name a directory of its own\n')


def test_what_a_killed_node_left_is_removed(data, capsys):
    local_node.data_directory(data)
    with subprocess.Popen([sys.executable, '-c', '']) as process:
        process.wait()
    (data / 'node.json').write_text(json.dumps({'url': 'http://127.0.0.1:1/erp5', 'user': 'x', 'pid': process.pid}))
    assert main(['status', '--data-dir', str(data)]) == 3
    assert main(['stop', '--data-dir', str(data)]) == 0
    assert not (data / 'node.json').exists()
    assert capsys.readouterr().out == f'No node runs in {data}.\n' * 2


# ---------------------------------------------------------------- a node
def test_a_node_that_cannot_start_shows_the_end_of_its_log(data):
    exit_code, output, errors = ended(command('start', '--data-dir', str(data), '--password-file', 'no such file'))
    assert (exit_code, output) == (1, '')
    assert errors.startswith(f'ipython-erp5: the node ended with exit code 1; the end of {data}/node.log:\n')
    assert '--password-file: expected a readable file' in errors and 'Traceback' not in errors
    assert (data / 'node.log').stat().st_mode & 0o777 == 0o600


def test_two_starts_end_with_one_node(data):
    starts = [ended(process) for process in [command('start', '--data-dir', str(data)) for _ in range(2)]]
    node = local_node.running(data)
    said = f'A node runs at {node.url} (user {node.user}, its password is in {data}/password).\n'
    assert [(code, output) for code, output, _ in starts] == [(0, said), (0, said)]
    assert node.answers() and node.password()
    exit_code, output, _ = ended(command('status', '--data-dir', str(data)))
    assert exit_code == 0
    assert [line.partition('  ')[0] for line in output.partition('\nprocess')[0].splitlines() if line] == [
        'url', 'user', 'pid', 'data directory', 'node', 'up', 'storage', 'executors', 'cells', 'serializers']
    assert node.password() not in output
    assert (data / 'node.json').stat().st_mode & 0o777 == 0o600
    assert ended(command('stop', '--data-dir', str(data))) == (0, f'The node at {node.url} has ended.\n', '')
    assert local_node.running(data) is None and not (data / 'node.json').exists()
    assert ended(command('status', '--data-dir', str(data)))[0] == 3


def test_serve_ends_well_and_a_second_one_is_refused(data):
    assert ended(command('start', '--data-dir', str(data)))[0] == 0
    exit_code, output, errors = ended(command('serve', '--data-dir', str(data)))
    assert (exit_code, output, errors.count('\n')) == (1, '', 1)
    assert errors.startswith('ipython-erp5: ') and 'Traceback' not in errors
    assert ended(command('stop', '--data-dir', str(data)))[0] == 0


def test_a_node_is_started_when_none_runs(data):
    node = local_node.embedded(data)
    assert node.runs() and node.answers()
    assert local_node.embedded(data) == node
    assert main(['stop', '--data-dir', str(data)]) == 0
