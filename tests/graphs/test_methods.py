import pandas as pd
import pytest

from expcam.errors import FileFormatError
from expcam.graphs.methods import method_rows


def test_a_method_that_did_not_run_has_a_reason_and_no_map(failed_table: pd.DataFrame) -> None:
    ours, ran, failed = method_rows(failed_table)
    assert [row.ours for row in (ours, ran, failed)] == [True, False, False]
    assert (ran.reason, failed.reason) == ("", "no feature map")
    assert ran.attribution is not None
    assert failed.attribution is None


def test_a_table_without_reasons_is_one_in_which_all_ran(failed_table: pd.DataFrame) -> None:
    older = failed_table.drop(columns="reason").iloc[:2]
    assert [row.reason for row in method_rows(older)] == ["", ""]
    gaps = failed_table.assign(reason=[None, float("nan"), "why"])
    assert [row.reason for row in method_rows(gaps)] == ["", "", "why"]


def test_a_missing_column_is_named(failed_table: pd.DataFrame) -> None:
    with pytest.raises(FileFormatError, match="no column `seconds`; make it with compare"):
        method_rows(failed_table.drop(columns="seconds"))
