"""Modules are found by file name, and an unknown one is answered with the nearest."""

import sys

import pytest

from slipstream.base import registry
from slipstream.base.errors import InputError


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "shop_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "apple.py").write_text("PRICE = 3\n")
    (folder / "pear.py").write_text("raise RuntimeError('imported')\n")
    (folder / "_private.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "shop_of_tests"
    for name in [name for name in sys.modules if name.startswith("shop_of_tests")]:
        del sys.modules[name]


def test_names_lists_public_modules_without_importing_them(package):
    assert registry.names(package) == ["apple", "pear"]
    assert not any(name.startswith(f"{package}.") for name in sys.modules)


def test_load_imports_by_name(package):
    assert registry.load(package, "apple").PRICE == 3


def test_unknown_name_says_the_nearest_and_all(package):
    with pytest.raises(InputError, match=r"fruit='aple': unknown; did you mean 'apple'\? known: apple, pear"):
        registry.load(package, "aple", "fruit")
    with pytest.raises(InputError, match=r"^shop_of_tests='zzz': unknown; known: apple, pear$"):
        registry.load(package, "zzz")


def test_an_error_inside_a_module_is_not_taken_for_an_unknown_name(package):
    with pytest.raises(RuntimeError, match="imported"):
        registry.load(package, "pear")


def test_a_missing_package_is_a_programming_error():
    with pytest.raises(ModuleNotFoundError, match="slipstream.base.errors"):
        registry.names("slipstream.base.errors")
