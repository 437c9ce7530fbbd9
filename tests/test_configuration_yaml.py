"""A configuration written as YAML is the same when it is read."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings

from dari.commands.configuration_yaml import Notes, read_configuration, write_configuration
from dari.core.configuration import Configuration
from tests.support.configurations import configurations


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=configurations(whole=True))
def test_what_is_written_is_read_and_written_again_the_same(tmp_path: Path, made: Configuration) -> None:
    file = tmp_path / "map.yaml"
    text = write_configuration(made, ("a header",))
    file.write_text(text, encoding="utf-8")
    read = read_configuration(file).configuration
    assert read.resources == made.resources
    assert set(read.links) == set(made.links)
    assert (read.lists, read.kinds) == (made.lists, made.kinds)
    assert write_configuration(read, ("a header",)) == text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=configurations(whole=True))
def test_what_is_doubtful_is_written_as_comments_only(tmp_path: Path, made: Configuration) -> None:
    """Reasons that try to end their comment do not."""
    file = tmp_path / "map.yaml"
    notes = Notes(
        links=dict.fromkeys(made.links, "why\nai_models: {}\u2028- x"),
        doubtful_links=frozenset(made.links),
        resources=dict.fromkeys((one.name for one in made.resources.values()), ("told\x85x: y",)),
    )
    file.write_text(write_configuration(made, ("a\nb: c",), notes), encoding="utf-8")
    read = read_configuration(file).configuration
    assert read.resources == made.resources
    assert read.links == ()
    assert read.lists == made.lists
