"""What looks like a secret stays out of a diff, and the rest can be read."""

import pytest

from pd_lightning.cli.masked_diff import masked_lines

KEY = ["-----BEGIN RSA PRIVATE KEY-----", "MIIEabc+/", "xyz==", "-----END RSA PRIVATE KEY-----"]


def masked(file: str, *lines: str) -> list[str]:
    """The lines that a diff would have of them."""
    head = [f"diff --git a/{file} b/{file}", "--- a/x", "+++ b/x", "@@ -1,2 +1,2 @@"]
    found = "\n".join(masked_lines("\n".join([*head, *(f"+{line}" for line in lines)]))).split("\n")
    assert found[: len(head)] == head
    assert all(line.startswith("+") for line in found[len(head) :])
    return [line[1:] for line in found[len(head) :]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("password: hunter2", "password: ***"),
        ("  - password: hunter 2, or 3  # mine", "  - password: ***"),
        ("API_KEY=abcdefghijklmnopqrst", "API_KEY=***"),
        ("DB_PASSWORD=p@ssw0rd!23456", "DB_PASSWORD=***"),
        ("export SECRET=correct-horse-battery", "export SECRET=***"),
        ("secret = correct horse", "secret = ***"),
        ("HF_TOKEN=\"a b\"'c'd # e", "HF_TOKEN=*** # e"),
        ("password: 'it''s'", "password: ***"),
        ('password: "a \\" b" # c', "password: *** # c"),
        ('password: "no end', "password: ***"),
        ('  "token": "abc", "lr": 1,', '  "token": ***, "lr": 1,'),
        ('{"a": {"apiKey": "x"}, "b": "y"}', '{"a": {"apiKey": ***}, "b": "y"}'),
        ("{user: me, password: hunter 2, lr: 1}", "{user: me, password: ***, lr: 1}"),
        ("env: DB_PASSWORD=hunter2 LR=1", "env: DB_PASSWORD=*** LR=1"),
        ("# password: hunter2", "# password: ***"),
        ('curl -H "Authorization: Bearer abc" url', 'curl -H "Authorization: ***'),
        ("run --wandb-api-key=abc --lr=1", "run --wandb-api-key=*** --lr=1"),
        ("url: https://me:word@host/x?sig=abc", "url: https://***@host/x?sig=***"),
        ("note: hf_abcdefghijklmnopqrstuv", "note: ***"),
    ],
)
def test_a_setting_to_its_end(line: str, expected: str) -> None:
    assert masked("run.yaml", line) == [expected]
    assert list(masked_lines(f"-{line}")) == [f"-{expected}"], "without a file's name, too"


@pytest.mark.parametrize(
    "line",
    [
        *("token: null", "use_auth_token: true,", "password:", "TOKEN=", "num_tokens: 5", "eos_token: '</s>'"),
        *("tokenizer: runs/tokenizer", "kd_weight: 0.9  # a token", "- a token, and a secret", "# password", ""),
        "What the model says of the next token: a share, not a number.",
    ],
)
def test_a_line_without_one(line: str) -> None:
    assert masked("run.yaml", line) == [line]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('api_key = "abc"', "api_key = ***"),
        ("token: str = 'abc'", "token: str = ***"),
        ('login(token="abc", timeout=5)', "login(token=***, timeout=5)"),
        ('os.environ["API_KEY"] = "abc" "def"', 'os.environ["API_KEY"] = ***'),
        ('{"token": "a=b", "name": "c"}', '{"token": ***, "name": "c"}'),
        ('password = (rb"""abc""")', "password = (***)"),
        ('    if password == "abc":', "    if password == ***:"),
    ],
)
def test_text_in_code(line: str, expected: str) -> None:
    assert masked("train.py", line) == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "def f(token): return token.id",
        "def f(token: str, name: str = 'abc') -> str:",
        "token = tokens[0]",
        "    token: str | None = None",
        "    token=token,",
        "self.password = read_password(path)",
        "api_key = os.environ['API_KEY']",
        "for token in ('a', 'b'):",
        "eos_token = '</s>'",
        'password = getpass("Your password: ")',
        'url = f"{host}/?user={user}&page=" + token',
    ],
)
def test_code_that_only_mentions_them(line: str) -> None:
    assert masked("train.py", line) == [line]


def test_the_lines_below_a_name() -> None:
    lines = ["  - password: |", "      abc", "", "      def", "    user: me", "secrets:", "- abc", "- d", "lr: 1"]
    found = ["  - password: |", "      ***", "", "      ***", "    user: me", "secrets:", "***", "***", "lr: 1"]
    assert masked("run.yaml", *lines) == found
    assert masked("a.json", '"token": {', '  "a": "b"', "},", '"c": "d"') == ['"token": {', "  ***", "},", '"c": "d"']


@pytest.mark.parametrize("file", ["id_rsa", "keys.py", "run.yaml"])
def test_a_private_key(file: str) -> None:
    assert masked(file, "a", *KEY, "b") == ["a", *["***"] * 4, "b"]
    assert masked(file, f'x("{"/".join(KEY)}", 1)') == ['x("***", 1)']


def test_a_private_key_without_its_end_goes_no_further_than_its_part_of_the_file() -> None:
    found = list(masked_lines("\n".join(["@@ -1 +1 @@", f"+{KEY[0]}", f"+{KEY[1]}", "@@ -9 +9 @@", "+a"])))
    assert found == ["@@ -1 +1 @@", "+***", "+***", "@@ -9 +9 @@", "+a"]


def test_the_line_that_git_puts_above() -> None:
    assert list(masked_lines("@@ -1,2 +1,2 @@ password: hunter 2")) == ["@@ -1,2 +1,2 @@ password: ***"]
