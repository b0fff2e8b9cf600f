"""`python -m ipython_erp5` is the command `ipython-erp5`."""

import sys

from .cli import main

sys.exit(main())
