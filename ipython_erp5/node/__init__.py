"""The node: Zope's publisher, the executor processes, the notebooks in the database. Needs the extra `node`."""
