"""Imported once by the fork server: every executor starts as a copy of this. No threads, no open database, no sockets here.

The fork server is also who stays when the node is killed, and sees to it that nothing of it does: see `descendants`.
"""

import contextlib
import gc
import importlib
import os
import sys

os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')

import AccessControl.users  # noqa: E402,F401
import cloudpickle  # noqa: E402,F401
import OFS.Application  # noqa: E402,F401
import relstorage.adapters.sqlite.adapter  # noqa: E402,F401
import relstorage.blobhelper.cached  # noqa: E402,F401
import relstorage.blobhelper.shared  # noqa: E402,F401
import relstorage.storage  # noqa: E402,F401
import relstorage.zodburi_resolver  # noqa: E402,F401
import Testing.makerequest  # noqa: E402,F401
import ZODB  # noqa: E402,F401
import zodburi  # noqa: E402,F401
import Zope2  # noqa: E402,F401
import ZPublisher.HTTPRequest  # noqa: E402,F401

from . import cell, descendants, executor, portal  # noqa: E402,F401
from .shell import CellShell  # noqa: E402

# What many notebooks need is worth sharing: it is there at once, and its memory once. It is no requirement of the node.
for library in ('numpy', 'pandas', 'matplotlib.figure', 'matplotlib.backends.backend_agg'):
    with contextlib.suppress(ImportError):
        importlib.import_module(library)

portal.configure_security()
shell = CellShell.instance()
for source in ('1 / 0', 'raise KeyboardInterrupt', "print('');  [{}]"):  # what IPython imports only when it first shows an error or a value
    shell.run(source, 0)
if any('multiprocessing.forkserver' in word for word in sys.orig_argv):  # else somebody wants the shell only
    descendants.stay_to_the_end()
gc.collect()
gc.freeze()  # the copies do not touch these objects' headers when they collect: the pages stay shared
