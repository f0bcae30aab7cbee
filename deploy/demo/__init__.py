"""The demo: the whole product on one machine, told as a story in the terminal.

Nothing here imports ``agent`` or ``hub``: the demo uses their commands and the REST interface like anybody else, and
``expected`` computes what must have arrived from the simulators' truth and the task list alone.
"""
