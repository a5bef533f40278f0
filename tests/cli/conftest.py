"""The command line, run in this process as a person runs it."""

import pytest

from dvid_dask.cli.app import app
from dvid_dask.cli.console import run


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cli(capsys):
    """Run a command; its exit status and what it printed. Unless told otherwise it must succeed."""

    def call(*arguments, code=0):
        capsys.readouterr()
        got = run(app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        result = Result(got, captured.out.strip(), captured.err.strip())
        assert got == code, f"exit status {got}: {result.out}\n{result.err}"
        return result

    return call


@pytest.fixture
def store(tmp_path, cli):
    """A store with one repository of the alias fly."""
    path = tmp_path / "store"
    cli("init", path)
    cli("repo", "new", path, "fly", "--description", "a fly")
    return path
