from pathlib import Path

from pd_lightning.loggers import MetricsCSV


def test_rows_keep_their_columns(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"loss": 2.5}, step=0)
    logger.log_metrics({"val": 1.0}, step=0)
    logger.log_metrics({"loss": 2.0, "val": 0.5}, step=1)
    assert (tmp_path / "logs" / "metrics.csv").read_text().splitlines() == [
        "step,loss,val",
        "0,2.5,",
        "0,,1.0",
        "1,2.0,0.5",
    ]


def test_a_second_start_goes_on(tmp_path: Path) -> None:
    for step in range(4):
        MetricsCSV(str(tmp_path)).log_metrics({"loss": float(step)}, step)
    again = MetricsCSV(str(tmp_path))
    again.rewind(2)
    again.log_metrics({"loss": 9.0, "rate": 0.5}, 2)
    assert again.rows() == [
        {"step": "0", "loss": "0.0", "rate": ""},
        {"step": "1", "loss": "1.0", "rate": ""},
        {"step": "2", "loss": "9.0", "rate": "0.5"},
    ]


def test_a_row_that_a_crash_has_cut_is_dropped(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"loss": 1.0, "rate": 2.0}, 0)
    with logger.path.open("a") as file:
        file.write("1,3")
    again = MetricsCSV(str(tmp_path))
    again.rewind(1)
    again.log_metrics({"loss": 4.0, "rate": 5.0}, 1)
    assert [row["loss"] for row in again.rows()] == ["1.0", "4.0"]


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path / "new"))
    logger.rewind(0)
    assert logger.rows() == []
    assert not (tmp_path / "new").exists()
