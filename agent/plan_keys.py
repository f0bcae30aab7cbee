"""Keys of meters that push: they come with the plan, sealed for this gateway, and are open in memory only.

The public half that the hub seals with is said in the life sign while the plan has a receiver whose payloads may need
keys: a gateway without one loads nothing for it. What was opened for the plan before is not opened again.
"""

import dataclasses
import uuid
from collections.abc import Iterator, Mapping

from agent.duties import Roster
from protocol.envelopes import SigningKey
from protocol.plans import Problem, PushMeter, Receiver

_Sealed = tuple[uuid.UUID, bytes]


class PlanKeys:
    """Opens the keys of plans.

    Args:
        key: The agent's own, from which its sealing key is derived.
        gateway: Its id in topics.
    """

    def __init__(self, key: SigningKey, gateway: str) -> None:
        self._key, self._gateway = key, gateway
        self._opened: dict[_Sealed, Mapping[str, bytes]] = {}
        self.sealing_key = b""
        """The public half for the life sign; empty while the plan needs no keys."""

    def open(self, roster: Roster) -> Roster:
        """Return the roster with the keys of its meters; those that cannot be opened are problems."""
        receivers = [one for one in roster.receivers.values() if _needs_keys(one)]
        if not receivers:
            self.sealing_key, self._opened = b"", {}
            return roster
        from protocol.meter_keys import gateway_sealing_key, open_keys  # noqa: PLC0415 - as above
        from protocol.seals import UnsealableError  # noqa: PLC0415 - as above

        sealing = gateway_sealing_key(self._key)
        self.sealing_key = sealing.public
        opened: dict[_Sealed, Mapping[str, bytes]] = {}
        problems = []
        for receiver, meter in _sealed(receivers):
            known = (meter.device, meter.keys)
            try:
                opened[known] = (
                    self._opened.get(known) or open_keys(sealing, meter.keys, self._gateway, meter.device).by_kind()
                )
            except UnsealableError as error:
                text = f"{receiver.name}: the keys of {meter.name} cannot be opened: {error}"
                problems.append(Problem("receiver", str(receiver.id), text))
        self._opened = opened
        keys = {device: kinds for (device, _), kinds in opened.items()}
        return dataclasses.replace(roster, keys=keys, problems=[*roster.problems, *problems])


def _sealed(receivers: list[Receiver]) -> Iterator[tuple[Receiver, PushMeter]]:
    return ((receiver, meter) for receiver in receivers for meter in receiver.meters if meter.keys)


def _needs_keys(receiver: Receiver) -> bool:
    # A gateway without receivers never loads them: its memory is small.
    from receivers.catalogue import find_receiver  # noqa: PLC0415 - as above

    return find_receiver(receiver.receiver).ciphered
