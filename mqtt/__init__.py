"""The wire: one MQTT 5 connection to a broker, as agent and hub both need it.

Rules of this room: it imports ``protocol`` and aiomqtt, and nobody else imports aiomqtt. What a message means, how long
to wait before the next connection and what is kept meanwhile is the business of whoever holds the connection.
Importing any module does nothing.
"""
