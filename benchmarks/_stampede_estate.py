"""The gateways of the bench ``stampede``: made by REST, or on PostgreSQL the first so and the others as its copies.

A thousand gateways are three thousand requests, minutes of REST's processor that the bench does not measure. A copy
differs from the first one in its ids and names. It was given no plan yet: it gets one at its first life sign.
"""

import hashlib
import uuid

from benchmarks.loaded_hub import LoadedGateway, LoadedHub

_COPIES = """
INSERT INTO gateways SELECT (jsonb_populate_record(g, jsonb_build_object(
    'id', md5('gateway ' || n)::uuid, 'gateway_id', 'gw-' || n, 'name', 'gw-' || n, 'content_digest', NULL,
    'desired_revision', 0, 'desired_at', NULL, 'published_revision', 0, 'published_digest', NULL))).*
FROM gateways g, generate_series(1, {last}) n WHERE g.id = '{gateway}';
INSERT INTO network_interfaces SELECT (jsonb_populate_record(l, jsonb_build_object(
    'id', md5('line ' || n)::uuid, 'gateway', md5('gateway ' || n)::uuid, 'name', 'line of gw-' || n))).*
FROM network_interfaces l, generate_series(1, {last}) n WHERE l.gateway = '{gateway}';
INSERT INTO meter_devices SELECT (jsonb_populate_record(m, jsonb_build_object(
    'id', md5('meter ' || n)::uuid, 'network_interface', md5('line ' || n)::uuid, 'name', 'gw-' || n || ' 1'))).*
FROM meter_devices m, generate_series(1, {last}) n WHERE m.id = '{meter}';
ANALYZE gateways, network_interfaces, meter_devices;
"""


def make_gateways(loaded: LoadedHub, count: int) -> list[LoadedGateway]:
    """Make so many gateways, ``gw-0`` and so on, each with one line and one meter on it."""
    if loaded.server is None:
        return [loaded.add_gateway(f"gw-{number}", 1) for number in range(count)]
    first = loaded.add_gateway("gw-0", 1)
    if count > 1:
        loaded.server.sql(_COPIES.format(last=count - 1, gateway=first.id, meter=first.meters[0]))
    copies = [
        LoadedGateway(f"gw-{number}", _id(f"gateway {number}"), (_id(f"meter {number}"),)) for number in range(1, count)
    ]
    return [first, *copies]


def _id(text: str) -> str:
    return str(uuid.UUID(bytes=hashlib.md5(text.encode(), usedforsecurity=False).digest()))
