import json
from pathlib import Path

import pytest

from pd_lightning import demo


@pytest.mark.timeout(600)
def test_the_demo_writes_its_results_and_uses_them_again(
    small_checkout: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert demo.main([]) == 0
    results = json.loads((small_checkout / "runs/demo/results.json").read_text())
    assert results["tokens"] == 3 * 16 * 128
    for student in ("lm", "offline", "online"):
        figures = results["students"][student]
        assert figures.keys() == set(demo.METRICS)
        assert 0 < figures["val_lm_loss"] < 10
        assert 0 <= figures["top1_agreement"] <= 1
        assert figures["train_seconds"] > 0
        assert (figures["teacher_forward_seconds"] > 0) == (student == "online")
    assert results["store"].keys() == {"bytes_per_token", "kept_mass", "record_seconds"}
    assert results["teacher"]["val_lm_loss"] > 0
    page = (small_checkout / "runs/demo/report.html").read_text()
    assert all(f"{results['students'][name]['val_lm_loss']:.3f}" in page for name in demo.STUDENTS)
    assert "def __init__(self" in page
    assert "offline PD" in capsys.readouterr().out

    monkeypatch.setattr(demo, "_complete", lambda folder: "")
    assert demo.main([]) == 0
    again = capsys.readouterr().out
    assert "pd-lightning fit" not in again
    assert "pd-lightning record" not in again
    assert json.loads((small_checkout / "runs/demo/results.json").read_text()) == results


def test_results_of_other_configurations_are_not_mixed_in(
    small_checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo._check_folder()
    demo._check_folder()
    with (small_checkout / "configs/demo/student.yaml").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ValueError, match=r"got others\. Remove runs/demo"):
        demo._check_folder()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(FileNotFoundError, match="must run in a checkout of pd-lightning"):
        demo._check_folder()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_distillation_beats_plain_training_with_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(Path(__file__).parents[1] / "configs")
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--seeds", "3"]) == 0
    losses = json.loads((tmp_path / "runs/demo/results.json").read_text())["seeds"]
    alone = losses["lm"]["val_lm_loss"]["values"]
    for student in ("offline", "online"):
        assert all(
            taught < plain for taught, plain in zip(losses[student]["val_lm_loss"]["values"], alone, strict=True)
        )
