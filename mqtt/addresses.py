"""Where a broker is. Apart from the connection, because who only reads settings needs no MQTT library."""

from typing import NamedTuple

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
"""By the scheme of a broker's URL."""


class BrokerAddress(NamedTuple):
    """A broker's URL taken apart, without its password. As text it is ``host:port``."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None

    def __str__(self) -> str:
        """Name the broker as errors and logs do."""
        return f"{self.host}:{self.port}"
