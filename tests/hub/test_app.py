"""The REST page of the documentation says what there is: every path, filter and operation."""

import re
from pathlib import Path

from litestar import Litestar
from litestar.routes import HTTPRoute

from hub import amr_tasks
from hub.app import RESOURCES
from hub.commands import LARGEST_DELAY_SECONDS
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
