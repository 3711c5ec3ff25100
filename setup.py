"""Lists the packages: the rooms of the root become packages of `parquetry`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOMS = ("schemas", "producers", "tasks", "workers", "monitor")


def packages() -> list[str]:
    """Every folder of every room, by its installed name."""
    names = find_packages("parquetry")
    for room in ROOMS:
        names += [room, *(f"{room}.{below}" for below in find_packages(room))]
    return ["parquetry", *(f"parquetry.{name}" for name in names)]


setup(packages=packages())
