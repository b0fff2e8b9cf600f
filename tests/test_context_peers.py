"""What the benchmark of the context compares runs cells and keeps variables: it is asked too rarely to show that by itself."""

import os
import subprocess
import sys
from pathlib import Path

import context_peers
import pytest


@pytest.mark.parametrize('scheme', ['ours', 'one record'])
def test_a_scheme_runs_cells_and_keeps_what_they_make(scheme: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, context_peers.__file__, scheme, str(tmp_path)], input='["x = 1"]\n"counter += x"\nnull\n',
                          capture_output=True, text=True, timeout=60, env={**os.environ, 'IPYTHONDIR': str(tmp_path / 'ipython')})
    assert done.returncode == 0, done.stderr[-2000:]
    ready, milliseconds, kept = done.stdout.split()
    assert (ready, kept) == ('ready', '1') and float(milliseconds) > 0
