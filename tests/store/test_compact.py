import numpy as np
import pytest

from pd_lightning.store.compact import decode_compact, encode_compact


def targets(logits, keep):
    """The `keep` most probable ids of each row of logits `[T, V]`."""
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ids = np.argsort(-logprobs, axis=1)[:, :keep]
    kept = np.take_along_axis(logprobs, ids, axis=1)
    log_tail = np.log(np.maximum(1 - np.exp(kept).sum(axis=1), 1e-9)).astype(np.float16)
    return np.full(len(logits), keep), ids.ravel(), kept.ravel(), log_tail


def test_a_smaller_budget_is_kept_and_costs_more():
    rng = np.random.default_rng(0)
    counts, ids, logprobs, log_tail = targets(4 * rng.standard_normal((32, 500)), 40)
    tokens, sizes = np.zeros(32, dtype=int), []
    for budget in (1e-3, 1e-4, 1e-5, 1e-6):
        data, decoded = encode_compact(tokens, counts, ids, logprobs, log_tail, budget)
        _, got_ids, got = decode_compact(data, tokens, log_tail, 500, 500)
        row = np.repeat(np.arange(32), counts)
        given = logprobs[np.lexsort((ids, row))]
        got = got[np.lexsort((got_ids, row))]
        np.testing.assert_allclose(decoded[np.lexsort((ids, row))], got, rtol=1e-6)
        # The tail's own rounding, which moves all of a position, is taken out.
        kl = np.exp(given) * (given - got) - np.exp(given) + np.exp(got)
        assert kl.sum() / 32 <= 1.02 * budget
        sizes.append(len(data))
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.2 * sizes[0]


def test_one_hot_rows_impossible_ids_and_the_floor():
    counts = np.array([3, 1, 2, 4])
    ids = np.array([5, 1, 2, 7, 0, 3, 9, 8, 7, 6])
    logprobs = np.array([0, -np.inf, -np.inf, 0, -np.inf, -np.inf, -1e30, -90, 0, -0.0], dtype=np.float32)
    log_tail = np.array([-np.inf, -np.inf, 0, -np.inf], dtype=np.float16)
    tokens = np.zeros(4, dtype=int)
    got = decode_compact(encode_compact(tokens, counts, ids, logprobs, log_tail)[0], tokens, log_tail, 10, 10)[2]
    np.testing.assert_allclose(np.exp(got[:4]), np.exp(logprobs[:4]), atol=1e-6)
    np.testing.assert_array_equal(got[4:6], -np.inf)
    # A log-prob below the floor comes back as the floor; the mass of two ones becomes one.
    np.testing.assert_allclose(got[6:], [-np.log(2), -np.log(2), -90 - np.log(2), -100 - np.log(2)], atol=0.13)


def test_a_forged_step_is_refused():
    counts, ids, logprobs, log_tail = targets(np.zeros((2, 8)), 3)
    tokens = np.zeros(2, dtype=int)
    data, _ = encode_compact(tokens, counts, ids, logprobs, log_tail, kl_budget=1e-6)
    for step in (0.0, np.nan, 1.0, 1e-9):
        with pytest.raises(ValueError, match="its quantiser has a step of"):
            decode_compact(np.float32(step).tobytes() + data[4:], tokens, log_tail, 8, 8)
    with pytest.raises(ValueError, match="its levels go beyond"):
        decode_compact(np.float32(2.0**-5).tobytes() + data[4:], tokens, log_tail, 8, 8)
    with pytest.raises(ValueError, match="cut off"):
        decode_compact(data[:4], tokens, log_tail, 8, 8)
