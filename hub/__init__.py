"""The server: stores what gateways send, distributes plans and commands, serves operators a REST API.

Rules of this room: cut by resource, not by layer. A resource is one module: structs, queries, operations as plain
functions that take a session, the controller last. ``models.py`` has all tables; ``relay.py`` is the only module that
speaks MQTT, ``app.py`` and ``entry.py`` the only ones that wire. Importing any module does nothing.
"""
