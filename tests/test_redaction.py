"""Secrets stay out of what is saved and said."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_lightning.composition.compose import compose
from pd_lightning.redaction import is_secret, redact, redact_text, redacted_yaml, refuse_redacted

KEY = "hf_" + "A1b2" * 8


@pytest.mark.parametrize(
    "name",
    [
        *(
            "token",
            "hf_token",
            "auth_token",
            "use_auth_token",
            "access_token",
            "api_token",
            "session_token",
            "sas_token",
        ),
        *("api_key", "apikey", "apiKey", "API_KEY", "wandb_api_key", "OPENAI_API_KEY", "aws_secret_access_key"),
        *("secret", "client_secret", "aws_session_token", "password", "db_password", "passwd", "passphrase", "pwd"),
        *("private_key", "secret_key", "account_key", "access_key", "encryption_key", "credentials", "credential"),
        *("connection_string", "authorization", "Authorization", "bearer", "sig", "signature", "awsAccessKey"),
        *("X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "X-Goog-Signature"),
    ],
)
def test_a_secret_by_its_name(name: str) -> None:
    assert is_secret(name)
    assert redact({"a": [{name: "value"}]}) == {"a": [{name: "***"}]}


@pytest.mark.parametrize(
    "name",
    [
        *("num_tokens", "tokens", "max_tokens", "max_new_tokens", "tokenizer", "tokenizer_dir", "tokenizer_bytes"),
        *(
            "eos_token",
            "eos_token_id",
            "bos_token",
            "pad_token",
            "unk_token",
            "mask_token",
            "sample_tokens",
            "token_id",
        ),
        *("tokens_field", "SampleTokens", "mask_first_tokens", "val_fraction", "key", "keys", "key_padding", "monitor"),
        *("num_key_value_heads", "passes", "bypass", "compass", "seed", "secretary", "author", "signal", "design"),
        *("class_path", "path", "password_hint_length", "token_blocks", "special_token", "image_token", "sharding_key"),
    ],
)
def test_no_secret(name: str) -> None:
    assert redact({name: "value"}) == {name: "value"}


def test_numbers_marks_and_nothing_are_no_secrets() -> None:
    settings = {
        "answer_token": "<answer>",
        "turn_token": "[turn]",
        "token": None,
        "api_key": "",
        "password": 3,
        "secret": True,
    }
    assert redact(settings) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://me:word@bucket/store", "s3://***@bucket/store"),
        ("postgresql://me:w%40rd@host:5432/db", "postgresql://***@host:5432/db"),
        ("https://:word@host/x", "https://***@host/x"),
        ("redis://host:6379 and ftp://a:b@host", "redis://host:6379 and ftp://***@host"),
        ("https://host/x?token=abc", "https://host/x?token=***"),
        ("https://host/x?part=1&sig=a%2Bb&se=2", "https://host/x?part=1&sig=***&se=2"),
        (
            "https://b.s3.amazonaws.com/x?X-Amz-Credential=AK%2F1&X-Amz-Expires=60&X-Amz-Signature=ab",
            "https://b.s3.amazonaws.com/x?X-Amz-Credential=***&X-Amz-Expires=60&X-Amz-Signature=***",
        ),
        (f"got {KEY}.", "got ***."),
        ("sk-" + "a" * 40, "***"),
        ("ghp_" + "b" * 36, "***"),
        ("AKIA" + "C" * 16, "***"),
        ("Bearer " + "glpat-" + "d" * 20, "Bearer ***"),
    ],
)
def test_text_with_a_secret(text: str, expected: str) -> None:
    assert redact_text(text) == expected
    assert redact([text]) == [expected]
    with pytest.raises(ValueError, match=r"data\.path must be given anew, got \*\*\*.*environment variable"):
        refuse_redacted({"data": {"path": expected.rstrip(".").removeprefix("got ")}})


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/store", "https://me@host/x", "memory://store", "runs/demo/store", "user:word", "a@b.c"),
        *("https://host/x?page=2&tokens=3", "hf_small", "sk-learn", "**bold** *** ruler ***".replace("***", "--")),
        *("a rule *** in a text***", "key=value", "10:30@noon", "<|endoftext|>", "https://host:8080/x@1"),
    ],
)
def test_text_without_one(text: str) -> None:
    assert redact_text(text) == text


def test_a_yaml_without_secrets_stays_as_it_is() -> None:
    text = "model:\n  # why\n  eos_token: '</s>'\n  lr: 1e-3\n"
    assert redacted_yaml(text) == text
    assert yaml.safe_load(redacted_yaml("a: {api_key: x, lr: 0.1}")) == {"a": {"api_key": "***", "lr": 0.1}}


def test_settings_are_not_changed() -> None:
    settings = {"a": {"token": "x", "list": ["s3://a:b@c"]}}
    redact(settings)
    assert settings == {"a": {"token": "x", "list": ["s3://a:b@c"]}}


def test_a_saved_configuration_without_its_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("trainer: {logger: {class_path: my.Logger, init_args: {api_key: '***'}}}\n")
    with pytest.raises(ValueError, match=r"trainer\.logger\.init_args\.api_key must be given anew.*WANDB_API_KEY"):
        compose(["--config", str(path)])
    config, _ = compose(["--config", str(path), "--trainer.logger.api_key=word"])
    assert config["trainer"]["logger"]["init_args"] == {"api_key": "word"}


def test_an_error_does_not_tell(capsys: pytest.CaptureFixture) -> None:
    from pd_lightning.cli import main

    assert main(["inspect", f"memory://me:{KEY}@bucket/store"]) == 1
    message = capsys.readouterr().err
    assert "memory://***@bucket/store" in message or "memory:/***" in message
    assert KEY not in message


def test_a_source_of_ones_own_does_not_tell(tmp_path: Path) -> None:
    """What it is goes into the manifest of the data."""
    from pd_lightning.data import TextFiles
    from pd_lightning.data.tokenize import tokenize

    class Fetched(TextFiles):
        def __init__(self, paths: list[str], token: str) -> None:
            super().__init__(paths)
            self.token = token

    (tmp_path / "text.txt").write_text("some words to learn\n" * 200)
    source = Fetched([str(tmp_path / "text.txt")], "a-word-of-mine")
    for _ in range(2):  # the second time finds that the data are there
        tokenize(str(tmp_path / "blocks"), source, vocab_size=300, block_size=8, val_fraction=0.0)
    assert "a-word-of-mine" not in (tmp_path / "blocks" / "manifest.json").read_text()
    assert "token='***'" in (tmp_path / "blocks" / "manifest.json").read_text()


LOGGER = """
from lightning.pytorch.loggers import CSVLogger

class Service(CSVLogger):
    def __init__(self, api_key: str, url: str = "", project: str = "mine"):
        assert "***" not in api_key + url
        super().__init__("service")
"""


def test_no_file_of_a_run_tells(
    tmp_path: Path, blocks: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from pd_lightning.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_service.py").write_text(LOGGER)
    service = {"api_key": "word-one", "url": "https://me:word-two@host/x?sig=word-three", "project": KEY}
    settings = {
        "model": {"student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}}},
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(blocks), "batch_size": 40}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "default_root_dir": "run",
            "enable_progress_bar": False,
            "limit_val_batches": 1,
            "logger": [
                {"class_path": "my_service.Service", "init_args": service},
                {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "run"}},
            ],
        },
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", "settings.yaml"]) == 0
    said = capsys.readouterr()
    written = [path for folder in ("run", "service") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert {".yaml", ".ckpt"} <= {path.suffix for path in written}
    words = [word.encode() for word in ("word-one", "word-two", "word-three", KEY)]
    told = [(path.name, word) for path in written for word in words if word in path.read_bytes()]
    assert told == []
    assert not any(word.decode() in said.out + said.err for word in words)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    expected = {"api_key": "***", "url": "https://***@host/x?sig=***", "project": "***"}
    assert saved["trainer"]["logger"][0]["init_args"] == expected
    assert saved["model"]["student"]["init_args"]["config"] == tiny.config
    assert main(["fit", "--config", "run/config.yaml", "--ckpt_path", "auto"]) == 1
    assert "trainer.logger.init_args.api_key must be given anew" in capsys.readouterr().err
