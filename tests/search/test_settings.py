from dataclasses import fields

from expcam.search.settings import Settings


def test_every_number_has_its_reason() -> None:
    text = Settings.__doc__ or ""
    for field in fields(Settings):
        assert f"        {field.name}: " in text, field.name


def test_they_are_few() -> None:
    # With the handful of constants beside them a search holds at most 25.
    assert len(fields(Settings)) <= 15
