"""The REST page of the documentation says what there is: every path, filter and operation."""

import re
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar
from litestar.routes import HTTPRoute

from hub import amr_tasks
from hub.app import RESOURCES
from hub.calling import LARGEST_DELAY_SECONDS
from hub.resources import Resource
from tests.parts.rest import application

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text("utf-8")
LETTERS = {"list": "L", "create": "C", "read": "R", "edit": "E", "delete": "D"}


def described() -> dict[str, tuple[str, str]]:
    """Return operations and filters by path, as the page's table has them."""
    rows = re.findall(r"^\| `(/v1/[^`]*)`[^|]*\| (\w+) \| (.*?) *\|$", PAGE, re.MULTILINE)
    return {path: (operations, filters) for path, operations, filters in rows}


def methods(app: Litestar) -> dict[str, set[str]]:
    """Return the methods of each path of the application."""
    return {
        route.path_format: {method for method in route.methods if method not in {"OPTIONS", "HEAD"}}
        for route in app.routes
        if isinstance(route, HTTPRoute)
    }


def test_the_table_of_resources_is_complete() -> None:
    page = described()
    resources: list[Resource] = [amr_tasks.RESOURCE]
    resources += [module.RESOURCE for module in RESOURCES if hasattr(module, "RESOURCE")]
    assert {resource.path for resource in resources} == set(page)
    routes = methods(application())
    needed = {"L": "GET", "C": "POST"}, {"R": "GET", "E": "PATCH", "D": "DELETE"}
    for resource in resources:
        operations, filters = page[resource.path]
        offered = [routes[resource.path], routes.get(f"{resource.path}/{{row_id}}", set())]
        for letters, there in zip(needed, offered, strict=True):
            for letter, method in letters.items():
                assert (letter in operations) == (method in there), (resource.path, letter)
        assert set(re.findall(r"[a-z_]+", filters)) - {"ordering"} == set(resource.filters), resource.path
        assert ("ordering" in filters) == bool(resource.orderings), resource.path


def test_other_operations_are_on_the_page() -> None:
    for path, offered in methods(application()).items():
        if path in described() or path.removesuffix("/{row_id}") in described() or path.startswith("/schema"):
            continue
        place = path.replace("{row_id}", "{id}")
        assert f"`POST {place}`" in PAGE if "POST" in offered else f"`{place}`" in PAGE, place


def test_limits_on_the_page() -> None:
    assert f"0 to {LARGEST_DELAY_SECONDS}" in PAGE


KINDS: dict[Any, str] = {
    msgspec.inspect.StrType: "text",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.FloatType: "number",
    msgspec.inspect.DecimalType: "decimal",
    msgspec.inspect.DateTimeType: "time",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.UUIDType: "id",
    msgspec.inspect.DictType: "object",
    msgspec.inspect.StructType: "object",
    msgspec.inspect.AnyType: "object",
}


def kind_of(found: Any) -> str:  # noqa: ANN401 - msgspec's own types
    """Say a field's type as the page does."""
    if isinstance(found, msgspec.inspect.UnionType):
        (inner,) = [one for one in found.types if not isinstance(one, msgspec.inspect.NoneType)]
        return f"{kind_of(inner)} or null"
    if isinstance(found, msgspec.inspect.Metadata):
        return kind_of(found.type)
    if isinstance(found, msgspec.inspect.ListType):
        return f"list of {kind_of(found.item_type)}"
    return KINDS[type(found)]


def fields_of(resource: Resource) -> str:
    """Return a resource's fields as the page lists them."""
    written = {field.name: field for field in msgspec.structs.fields(resource.body)}
    told = []
    for field in msgspec.structs.fields(resource.out):
        mark = "*" if field.name in written and written[field.name].required else ""
        only = "" if field.name in written else ", ro"
        told.append(f"`{field.name}`{mark} ({kind_of(msgspec.inspect.type_info(field.type))}{only})")
    told += [
        f"`{field.name}` ({kind_of(msgspec.inspect.type_info(field.type))}, wo)"
        for field in msgspec.structs.fields(resource.body)
        if field.name not in resource.out.__struct_fields__
    ]
    return f"| `{resource.path}` | {', '.join(told)} |"


def test_every_field_is_on_the_page() -> None:
    resources = [amr_tasks.RESOURCE, *(module.RESOURCE for module in RESOURCES if hasattr(module, "RESOURCE"))]
    missing = [row for row in map(fields_of, resources) if row not in PAGE.splitlines()]
    assert not missing, "\n".join(missing)
