"""What meters push: one module per receiver, one catalogue.

Rules of this room: imports ``protocol`` only, like ``contexts`` beside it. A receiver is bytes in, values out; sockets,
ports, timers, clocks and the store are the agent's (``agent.receiving``). The hub imports it to judge a receiver's
endpoint and ``receiver_kwargs``, the agent to decode what comes.
"""
