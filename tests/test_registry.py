import pytest

from ms_longtail.registry import Registry, UnknownNameError


def test_registers_and_finds():
    shapes = Registry("shape")

    @shapes.register("circle")
    class Circle:
        pass

    assert shapes.get("circle") is Circle
    assert "circle" in shapes
    assert shapes.names() == ["circle"]


def test_refuses_a_duplicate():
    shapes = Registry("shape")
    shapes.register("circle")(int)
    with pytest.raises(ValueError, match="'circle' is registered already"):
        shapes.register("circle")(float)
    assert shapes.get("circle") is int


def test_unknown_name_lists_names_and_nearest():
    shapes = Registry("shape")
    shapes.register("circle")(int)
    shapes.register("square")(float)
    with pytest.raises(
        UnknownNameError, match=r"unknown shape 'cirlce' \(did you mean 'circle'\?\); known: circle, square"
    ):
        shapes.get("cirlce")


def test_temporary_entry_goes_away_even_after_an_error():
    shapes = Registry("shape")

    def fail_inside():
        with shapes.temporary("circle", int):
            assert "circle" in shapes
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert "circle" not in shapes
