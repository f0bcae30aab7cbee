"""What a task may ask of a meter: one module per execution context, one catalogue.

Rules of this room: imports ``protocol`` only. The hub imports it to judge ``task_kwargs``, the agent to run calls.
Time is an argument, the meter an interface (``contexts.meters``); nothing here knows a line, a loop or a database.
"""
