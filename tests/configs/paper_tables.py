"""The tables of Peng et al. (arXiv 2410.16215), written out: what each row changes of the preliminary run."""

from typing import Any

Row = dict[str, Any]
NO_DECAY = "Cosine(peak=0.0004, warmup=0.01, floor=4e-05)"
WSD_LR = "WSD(peak=0.0004, warmup=0.01, decay=0.1, floor=4e-05, shape='linear')"
WSD_ALPHA = "WSD(peak=0.9, warmup=0.1, decay=0.1, floor=0, shape='linear')"
SHAPES = {  # hidden, FFN, layers, heads, KV groups, tied
    "330m": (1024, 4096, 12, 16, 2, True),
    "670m": (1024, 4096, 24, 16, 2, False),
    "1.9b": (2048, 6912, 24, 16, 2, False),
    "3.8b": (3072, 8192, 28, 24, 8, False),
    "6.8b": (4096, 12800, 28, 32, 8, False),
}
BASE: Row = {
    "p": 0.95,
    "k": 100,
    "tail": "renormalize",
    "temperature": 1.0,
    "loss": "NLL",
    "kd_weight": "Constant(value=1)",
    "lr": NO_DECAY,
    "student": SHAPES["1.9b"],
    "data": "runs/paper/store",
}


def constant(value: str) -> Row:
    return {"kd_weight": f"Constant(value={float(value):g})"}


ROWS: dict[str, Row] = {
    "base": {},
    **{f"p/{p}": {"p": float(p)} for p in ("0.50", "0.60", "0.70", "0.80", "0.85", "0.90", "0.95")},
    **{f"k/{k}": {"k": k} for k in (1, 3, 5, 10, 20, 50, 100)},
    **{f"temperature/{t}": {"temperature": float(t)} for t in ("0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10")},
    "adaptive_temperature/normkd": {"temperature": "NormKD"},
    "adaptive_temperature/wttm": {"temperature": "WTTM"},
    "adaptive_temperature/adakd_sd": {"temperature": "AdaKD-SD"},
    "adaptive_temperature/adakd_h": {"temperature": "AdaKD-H"},
    "loss/nll": {"loss": "NLL"},
    "loss/kld": {"loss": "KLD"},
    "loss/mse": {"loss": "MSE"},
    "lm": constant("0"),
    **{f"kd_weight/{a}": constant(a) for a in ("0.10", "0.50", "0.60", "0.70", "0.80", "0.90", "0.95", "1.00")},
    "kd_weight_schedule/cosine_lr/linear_up": {"kd_weight": "Linear(start=0, end=1)"},
    "kd_weight_schedule/cosine_lr/linear_down": {"kd_weight": "Linear(start=1, end=0)"},
    "kd_weight_schedule/cosine_lr/periodic": {"kd_weight": "Periodic(low=0, high=1, period=0.2, shape='triangle')"},
    "kd_weight_schedule/cosine_lr/wsd": {"kd_weight": WSD_ALPHA},
    "kd_weight_schedule/wsd_lr/lm_only": {**constant("0"), "lr": WSD_LR},
    "kd_weight_schedule/wsd_lr/kd_only": {**constant("1"), "lr": WSD_LR},
    "kd_weight_schedule/wsd_lr/wsd_lm_weight": {"kd_weight": f"OneMinus(schedule={WSD_ALPHA})", "lr": WSD_LR},
    "kd_weight_schedule/wsd_lr/wsd_both": {"kd_weight": WSD_ALPHA, "lr": WSD_LR},
    **{f"student/{name}": {"student": shape} for name, shape in SHAPES.items()},
    "logits/offline": {"data": "runs/paper/store"},
    "logits/online_early": {"data": "runs/paper/store-online-early"},
    "logits/online_late": {"data": "runs/paper/store-online-late"},
    "logits/online_late_best": {"data": "runs/paper/store-online-late", "k": 50, **constant("0.1")},
    "best": {"k": 50, "temperature": 2.0, "loss": "KLD", "kd_weight": WSD_ALPHA, "lr": WSD_LR},
}
