import sys

import pytest
from sqlalchemy.exc import OperationalError

from cxr import database


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "Could not parse SQLAlchemy URL from given URL string"),
        ("sqlite:////nowhere/study.db", "unable to open database file"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch, url, reason):
    monkeypatch.setattr(database.time, "sleep", lambda seconds: None)
    (tmp_path / "text.db").write_text("no database " * 1000)
    with (
        pytest.raises(ValueError, match=f"^the database of the study refuses: .*{reason}.*; the same command goes on"),
        database.database_errors(),
    ):
        database.open_tables(url.format(folder=tmp_path))


def test_a_database_without_its_driver_is_named_with_the_remedy():
    text = r"^--storage needs the driver of its database \(No module named 'pymssql'\)\. Install it, for postgresql"
    with pytest.raises(ImportError, match=text):
        database.open_tables("mssql+pymssql://host/trials")


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"^searching needs Optuna\. Run: pip install -r requirements-search\.txt$"):
        database.import_optuna()


@pytest.mark.parametrize(("patience", "waits"), [(30.0, 4), (0.0, 0)])
def test_a_refusal_is_waited_out_but_not_after_a_long_wait(monkeypatch, patience, waits):
    slept = []
    monkeypatch.setattr(database.time, "sleep", slept.append)
    monkeypatch.setattr(database, "PATIENCE", patience)
    with pytest.raises(OperationalError, match="unable to open database file"):
        database.open_tables("sqlite:////nowhere/study.db")
    assert slept == [0.5] * waits
