"""`docs/scale.md` says what `benchmarks/scale.py` computes, and that computes with what models and stores are."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## A run on paper\n")[2].partition("\n## ")[0]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module
    spec.loader.exec_module(module)
    return module


SCALE = load()
GIVEN = SCALE.Assumptions()
TABLES = SCALE.tables(GIVEN)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_a_table_stands_on_the_page(table: Any) -> None:
    assert "\n".join(table.lines()) in SECTION


def test_no_other_figure_stands_in_a_table() -> None:
    computed = {line for table in TABLES for line in table.lines()}
    assert {line for line in SECTION.splitlines() if line.startswith("|")} == computed


def test_assumptions_stand_on_the_page() -> None:
    assert f"a failure every {GIVEN.gpu_hours_a_failure:,.0f} GPU-hours" in SECTION
    for said in ("989 TFLOPS", "40 % of that", "50 % for a teacher", "151,552 ids", "blocks of 4,096 tokens, 2,048 of"):
        assert said in SECTION
    assert (GIVEN.peak_flops, GIVEN.training_mfu, GIVEN.forward_mfu) == (989e12, 0.4, 0.5)
    assert (GIVEN.vocab_size, GIVEN.block_size, GIVEN.batch_blocks, GIVEN.micro_batch) == (151_552, 4096, 2048, 2)
    assert "micro-batches of 2; 50 GB/s of network a GPU; a shared file system that gives 2 GB/s a node" in SECTION
    assert (GIVEN.network, GIVEN.disk, GIVEN.opens, GIVEN.restart_seconds) == (50e9, 2e9, 20_000, 600)
    assert "opens 20,000 files a second" in SECTION
    assert "10 minutes to start again" in SECTION


def test_the_student_is_that_of_the_configurations() -> None:
    text = (ROOT / "configs" / "paper" / "student" / "1.9b.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)["model"]["student"]["init_args"]["config"]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    shape = SCALE.STUDENT
    assert [config[name] for name in names] == [shape.layers, shape.hidden, shape.ffn, shape.heads, shape.groups]


@pytest.mark.parametrize("name", ["STUDENT", "TEACHER"])
def test_parameters_and_work_are_those_of_a_model(name: str) -> None:
    """Counted by torch on the model itself, which has no storage."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, block = getattr(SCALE, name), 256
    config = AutoConfig.for_model(
        "llama",
        vocab_size=GIVEN.vocab_size,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
        with FlopCounterMode(display=False) as counter:
            ids = torch.zeros(1, block, dtype=torch.int64)
            # Both given, since transformers would look at values for them, and there are none.
            model(ids, position_ids=ids, attention_mask=torch.zeros(1, 1, block, block), use_cache=False)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(shape.parameters(GIVEN), rel=1e-3)
    given = SCALE.Assumptions(block_size=2 * block)  # eager attention computes the half that is masked, too
    assert counter.get_total_flops() == pytest.approx(block * shape.forward(given), rel=1e-3)


def test_what_the_page_concludes() -> None:
    rows = {table.title: {row[0]: row[1:] for row in table.rows} for table in TABLES}
    network = rows["The network"]
    assert float(network["1,024"][3]) > float(network["1,024"][0])
    assert float(network["64"][0]) > 10 * float(network["64"][3])
    assert all(float(row[6]) > float(row[1]) for row in network.values())
    memory = rows["GB of a GPU, of 80"]["**online, together**, with the teacher's logits of a chunk"]
    assert 0.9 * 80 < float(memory[0]) < 80
    assert float(memory[1]) - float(memory[3]) < 0.2 * (float(memory[0]) - float(memory[3]))
    orders = rows["The order"]["500B, in windows of 4,096"]
    assert float(orders[1]) == pytest.approx(float(orders[2]) / 4, rel=0.01)
    found = SCALE.measured()
    assert f"took {found['largest_order_seconds']:.0f} s of a processor and" in SECTION
    assert f"and {found['largest_order_bytes'] / 1e9:.1f} GB of resident memory" in SECTION
    bandwidth = rows["Bandwidth"]
    assert float(bandwidth["read, top-p 0.95, k 100, `compact`"][1]) < 0.02 * GIVEN.disk / 1e6
    assert [bandwidth[f"{way}, top-p 0.95, k 100, `compact`"][4] for way in ("read", "record")] == ["0.15", "0.29"]
    assert max(float(row[0]) for row in rows["Failures in a run, whatever the number of GPUs"].values()) < 0.69
    assert "more likely than not to meet none" in SECTION


def test_assumptions_can_be_replaced() -> None:
    half = SCALE.Assumptions(training_mfu=GIVEN.training_mfu / 2)
    assert SCALE.train_rate(half) == pytest.approx(SCALE.train_rate(GIVEN) / 2)
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), "--gpu_bytes", "40e9", "--batch_blocks", "4096"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert "GB of a GPU, of 40" in done.stdout
    assert re.search(r"\| offline, or LM alone \| 64 \| 37,517 \| 6\.99 \|", done.stdout)
