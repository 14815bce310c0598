"""Journals of a run folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmbert.journals.run_journal import NodeProblem, NodeReport, append_record, read_records


def _report(number: int) -> NodeReport:
    return NodeReport(
        unix_time=1.0, host=f"n{number}", problem=NodeProblem.SLOW, detail="é" * 2000, step=number
    )


def test_records_of_several_writers_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "nodes.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_record(path, _report(number)), range(200)))
    assert sorted(report.host for report in read_records(path, NodeReport)) == sorted(
        f"n{number}" for number in range(200)
    )


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "nodes.jsonl"
    assert list(read_records(path, NodeReport)) == []
    append_record(path, _report(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100] + b"\n" + whole)
    assert list(read_records(path, NodeReport)) == [_report(1), _report(1)]
