"""The edge process: polls meters by the hub's plan and keeps every reading until its receipt.

Rules of this room: only ``app.py``, the command-line modules and the simulator's wiring own a clock; only ``links.py``
touches a port, only ``store.py`` and its parts SQLite, MQTT is ``mqtt``'s. Importing any module does nothing.
"""
