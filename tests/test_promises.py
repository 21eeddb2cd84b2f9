"""--help shows the defaults of the code."""

from dataclasses import fields

import pytest

from ases.run import cli
from ases.settings import Settings
from tests.test_commands import command


@pytest.mark.parametrize("command_, groups", cli.FLAGS.items())
def test_help_shows_the_defaults_of_the_code(command_, groups):
    parts = command(f"{command_}.py", "--help").stdout.split("\n  --")  # one for each flag
    told = {part.split()[0]: " ".join(part.split()) for part in parts}
    declared = {f.name: (f, cls()) for cls in (Settings, cli.Options) for f in fields(cls)}
    for name in " ".join(groups.values()).split():
        f, made = declared[name]
        value = getattr(made, name)
        if not isinstance(value, bool) and value is not None:
            line = told[name.replace("_", "-")]
            assert f"[{f.metadata['shown'] or value}]" in line, line
