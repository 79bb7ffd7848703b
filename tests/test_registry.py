import pytest

from ms_longtail.registry import Registry, UnknownNameError, nearest


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


def test_a_name_that_was_not_finished_is_finished():
    known = ["resnet50", "resnet20_cifar", "resnext50"]
    assert nearest("resnet20", known) == " (did you mean 'resnet20_cifar'?)"
    assert nearest("resnet5", known) == " (did you mean 'resnet50'?)"
    assert nearest("rexnet50", known) in (" (did you mean 'resnet50'?)", " (did you mean 'resnext50'?)")
    assert nearest("vgg", known) == ""
