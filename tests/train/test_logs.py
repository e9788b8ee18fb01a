import csv
import json
import math

import pytest

from sparseq.train import RowLog

ROWS = [{"epoch": 1, "loss": 0.5, "name": 'a, "b"\nc'}, {"epoch": 2, "loss": 1e-300, "name": "é"}]


def filled(folder, rows=ROWS):
    log = RowLog(folder)
    for row in rows:
        log.append(row)
    return log


def csv_rows(log):
    with log.csv.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_can_be_read_from_both_files(tmp_path):
    log = filled(tmp_path / "deep" / "folder")
    assert RowLog(tmp_path / "deep" / "folder").rows == log.rows == ROWS
    assert [json.loads(line) for line in log.jsonl.read_text().splitlines()] == ROWS
    assert csv_rows(log) == [{key: str(value) for key, value in row.items()} for row in ROWS]


def test_a_row_is_on_disk_immediately(tmp_path):
    log = RowLog(tmp_path)
    for count, row in enumerate(ROWS, start=1):
        log.append(row)
        assert log.jsonl.read_bytes().count(b"\n") == len(csv_rows(log)) == count


@pytest.mark.parametrize("lost", [1, 5, 12, 30])
def test_a_truncated_last_line_is_removed_and_the_log_continues(tmp_path, lost):
    log = filled(tmp_path)
    log.jsonl.write_bytes(log.jsonl.read_bytes()[:-lost])
    log.csv.write_bytes(log.csv.read_bytes()[:-3])
    again = RowLog(tmp_path)
    assert again.rows == ROWS[:1]
    again.append({"epoch": 2, "loss": 7.0, "name": "z"})
    assert [row["loss"] for row in RowLog(tmp_path).rows] == [0.5, 7.0]
    assert [row["loss"] for row in csv_rows(again)] == ["0.5", "7.0"]


def test_zeros_after_a_power_failure_are_removed(tmp_path):
    log = filled(tmp_path)
    with log.jsonl.open("ab") as file:
        file.write(bytes(50))
    assert RowLog(tmp_path).rows == ROWS


def test_damage_in_the_middle_is_an_error_and_nothing_is_lost(tmp_path):
    log = filled(tmp_path)
    damaged = b"{nonsense\n" + log.jsonl.read_bytes()
    log.jsonl.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"log\.jsonl: line 1 is damaged"):
        RowLog(tmp_path)
    assert log.jsonl.read_bytes() == damaged


def test_new_columns_are_added_to_the_csv(tmp_path):
    log = filled(tmp_path, [{"a": 1}, {"b": 2, "a": 3}, {"b": 4}])
    assert log.csv.read_text() == "a,b\n1,\n3,2\n,4\n"
    assert log.columns == ["a", "b"]


def test_drop_rewrites_both_files(tmp_path):
    log = filled(tmp_path)
    log.drop(lambda row: row["epoch"] == 1)
    assert log.rows == RowLog(tmp_path).rows == ROWS[1:]
    assert len(csv_rows(log)) == 1
    log.drop(lambda row: True)
    assert RowLog(tmp_path).rows == []
    log.append({"new": 1})
    assert csv_rows(log) == [{"new": "1"}]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    log = filled(tmp_path, [{"loss": math.nan, "best": math.inf, "name": None}])
    assert log.rows == RowLog(tmp_path).rows == [{"loss": None, "best": None, "name": None}]
    assert "NaN" not in log.jsonl.read_text()


def test_a_row_that_is_not_json_changes_nothing(tmp_path):
    log = filled(tmp_path)
    before = log.jsonl.read_bytes(), log.csv.read_bytes()
    with pytest.raises(TypeError):
        log.append({"epoch": object()})
    assert (log.jsonl.read_bytes(), log.csv.read_bytes()) == before
    assert log.rows == ROWS


def test_another_csv_is_not_overwritten(tmp_path):
    (tmp_path / "log.csv").write_text("mine\n")
    with pytest.raises(FileExistsError, match=r"log\.csv exists without log\.jsonl"):
        RowLog(tmp_path)
    assert (tmp_path / "log.csv").read_text() == "mine\n"
    assert RowLog(tmp_path, "rounds").rows == []
