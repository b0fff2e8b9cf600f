"""What `%erp5_help TOPIC` says: the pages. What magics and settings say of themselves is put to it by `helping`.

In a page, what is indented by four blanks is a cell, one after another on an empty line: the tests run all cells of all pages, in this
order, in one session. What is indented by two is something else: a file, a command line.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """`about` is the line for the list of topics; `magics`: names whose manuals belong to it, of which those are listed that there are."""

    about: str
    text: str
    magics: tuple[str, ...] = ()


PAGES = {
    'first-steps': Page('from nothing to a variable that is there tomorrow', """
A marked cell runs on the cluster; all others run here, as ever. Without a target, `%erp5_connect` starts an embedded cluster on this
machine. The reference names a notebook there: who gives it again finds its variables.

    %erp5_connect --reference first-steps

    %%erp5
    prices = {'tea': 4.2, 'coffee': 7.9}
    max(prices, key=prices.get)

A comment does the same as `%%erp5`, and leaves the cell plain Python for editors and linters:

    # erp5
    sorted(prices)

The value of an expression comes here:

    total = %erp5 sum(prices.values())

    round(1.19 * total, 2)

Restart the kernel, connect with the same reference, and `prices` is there.
""", ('erp5', 'erp5_connect')),

    'connect': Page('sites, notebooks, passwords, several sessions', """
`%erp5_connect` takes the URL of a site, such as https://host/erp5, the name of a configured connection, or nothing: the default
connection, else the embedded cluster.

    %erp5_connect --reference help

    %erp5_status

You may have several sessions. A cell goes to the one that was connected last, or to that of `--connection NAME`:

    # erp5: --connection embedded
    1 + 1

User, password and all else are looked for in the options (never a password), the settings, the environment (ERP5_URL, ERP5_USER,
ERP5_PASSWORD or ERP5_PASSWORD_FILE, ERP5_TOKEN or ERP5_TOKEN_FILE, ERP5_REFERENCE), a section of ~/.config/ipython_erp5/connections.ini
(mode 0600), the keyring, ~/.netrc; where somebody can answer, you are asked for the password. Such a section is

  [sales]
  url = https://erp5.example.com/erp5
  user = ana
  password = …

and `%erp5_connect sales` connects to it. `default` is the section for `%erp5_connect` alone. If a password is changed, the next cell
takes the new one from the same places, or asks; if the embedded cluster has ended, the next cell starts it again.

    %erp5_disconnect
""", ('erp5_connect', 'erp5_disconnect', 'erp5_status', 'erp5_notebooks')),

    'cells': Page('what runs there, and what it keeps', """
`# erp5` stands before the first line of code, also below blank lines and other comments; options go behind a colon:

    # erp5: --no-history --timeout 60
    import datetime
    today = datetime.date.today()

In such a cell there are `context` (the portal), `environment` (the page of this name), figures, `await`, `!ls` and IPython's magics.
Every variable is kept that can be; what cannot is reported, with what to write instead:

    # erp5
    lock = __import__('threading').Lock()
    print(context.getTitle(), today.year)

    %erp5_vars

One cell is one transaction: if it raises, the changes of the database are undone; variables keep the values that they had then. Ctrl-C
or the stop button interrupts it there; the second time its process is ended.
""", ('erp5', 'erp5_vars', 'erp5_interrupt')),

    'moving': Page('values from here to there and back', """
The value of `%erp5 EXPRESSION` comes here. A cell takes variables with it, and brings others back:

    here = [1, 2, 3]

    %%erp5 --push here --pull squares
    squares = [number ** 2 for number in here]

    squares

So do these two, without a cell:

    %erp5_push here

    %erp5_pull squares

Whatever the serializer carries may go there. To load what comes back runs code here, so it comes from this machine and from
`%config ERP5Magics.trusted_sites` only; plain values come from everywhere.
""", ('erp5', 'erp5_push', 'erp5_pull')),

    'not-waiting': Page('cells that run while you go on', """
    %%erp5 --noblock
    import time
    time.sleep(1)
    'done'

is done at once, and gives a handle:

    handle = _

    handle.result()

A cell goes on when the kernel is restarted, or the laptop is closed. From any session that uses the notebook, this shows the cell that
runs, from its first output on, or the one that ended last:

    %erp5_result

    %erp5_history
""", ('erp5_result', 'erp5_history', 'erp5_interrupt')),

    'environment': Page('what cannot travel as data: imports, connections, settings', """
Variables travel as data. What cannot (open connections, settings of a library) travels as source, a setup, which is run before every
later cell, in whichever process. Imports at the top level of a cell become setups by themselves. Others are functions:

    # erp5
    def load_database():
        import sqlite3
        return {'database': sqlite3.connect(':memory:')}
    environment.define(load_database, 'database')

    # erp5
    database.execute('select 6 * 7').fetchone()

    %erp5_environment

    # erp5
    environment.undefine('database')

`environment.define(name=value)` keeps values; `environment.clearAll()` forgets all; `environment.showSetup()` shows the sources.
""", ('erp5_environment',)),

    'notebooks': Page('whole notebooks there; those of the ERP5 kernel', """
In remote mode every cell runs there, but those that begin with `# local`:

    %erp5_mode remote

    answer = 6 * 7

    # local
    'answer' in globals()

    %erp5_mode marked

A notebook of ERP5's own kernel runs unchanged below `%load_ext ipython_erp5`. To make it one of the standard kernel with marked cells:

  ipython-erp5 convert NOTEBOOK.ipynb

papermill, nbclient and `nbconvert --execute` run such notebooks as they are: the password comes from the environment or a file, an error
there is an error of the notebook. `c.InteractiveShellApp.extensions = ['ipython_erp5']` in a profile loads the extension everywhere.
""", ('erp5_mode', 'erp5_notebooks', 'erp5_url', 'erp5_user', 'erp5_password', 'notebook_set_reference', 'notebook_set_title',
      'my_notebooks')),

    'settings': Page('every default, and how to change it', """
Every default is a setting of ERP5Magics, for this session:

    %config ERP5Magics.feedback = 1

for always, in ipython_config.py of the profile: `c.ERP5Magics.feedback = 1`; for once: `ipython --ERP5Magics.feedback=1`.
"""),

    'troubleshooting': Page('when something does not work', """
`%erp5_status` shows the sessions, and what the node says of itself:

    %erp5_status

`%erp5_debug` shows the last exchanges with the sites: place, sizes, status and times; no code, no values, no passwords:

    %erp5_debug

A session stands for a notebook that stays on the site: connect again, with the same reference, and go on. A cell is never run twice; if
the connection breaks under it, its outcome is fetched or you are told that it is not known. A cell that hangs: Ctrl-C, twice to end its
process. The errors of this extension are
""", ('erp5_status', 'erp5_debug', 'erp5_interrupt', 'erp5_result')),
}


def cells(text: str) -> list[str]:
    """The cells of a page, in order."""
    paragraphs = text.strip('\n').split('\n\n')
    return ['\n'.join(line[4:] for line in paragraph.split('\n')) for paragraph in paragraphs
            if all(line.startswith('    ') for line in paragraph.split('\n'))]
