import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pd_lightning.store.codec import check_codec, codec_info, decode, encode_draws, encode_targets, encode_tokens
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo
from pd_lightning.store.payload import part_sizes
from pd_lightning.store.rounding import RoundingError


def manifest(positions, vocab_size, values="exact", columns=("log_tail",), **more):
    kind = "logits" if values else "blocks"
    return Manifest(
        kind,
        positions,
        vocab_size,
        TokenizerInfo("d", 0),
        {"train": SplitInfo(1, positions, 1)},
        codec=codec_info(values) if values else None,
        columns=columns if values else (),
        **more,
    )


@st.composite
def stored_targets(draw):
    positions = draw(st.integers(1, 6))
    vocab_size = draw(st.sampled_from([1, 2, 255, 256, 257, 65536, 65537, 300_000, 1 << 24]))
    counts = draw(hnp.arrays(np.int64, positions, elements=st.integers(0, min(vocab_size, 6))))
    total = int(counts.sum())
    ids = st.integers(0, vocab_size - 1)
    logprob = st.floats(-(2.0**40), 0, width=32) | st.just(-np.inf)
    column = hnp.arrays(np.float32, positions, elements=st.floats(-1e4, 1e4, width=32) | st.just(-np.inf))
    return {
        "block": draw(hnp.arrays(np.int64, positions + 1, elements=ids)),
        "counts": counts,
        "ids": draw(hnp.arrays(np.int64, total, elements=ids)),
        "logprobs": draw(hnp.arrays(np.float32, total, elements=logprob)),
        "columns": {"log_tail": draw(column), "entropy": draw(column)},
        "vocab_size": vocab_size,
    }


@given(stored_targets())
@settings(max_examples=150, deadline=None)
def test_exact_values_come_back_bit_for_bit(targets):
    item = encode_targets(**targets, values="exact")
    positions = targets["counts"].size
    decoded = decode(item, manifest(positions, targets["vocab_size"], columns=("log_tail", "entropy")))
    expected = {**targets, **targets["columns"]}
    assert decoded.keys() == {"block", "counts", "ids", "logprobs", "log_tail", "entropy"}
    for name, array in decoded.items():
        assert array.dtype == (np.float32 if name in ("logprobs", "log_tail", "entropy") else np.int64)
        np.testing.assert_array_equal(array, expected[name])


@st.composite
def rows(draw):
    """What a teacher may say: K from 0 to V, ties, impossible ids, sure and undecided rows."""
    positions = draw(st.integers(1, 6))
    vocab_size = draw(st.sampled_from([1, 2, 3, 40, 256, 257, 65537, 1 << 24]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    counts, ids, logprobs, tails = [], [], [], []
    for _ in range(positions):
        count = draw(st.sampled_from([0, 1, min(vocab_size, 9), min(vocab_size, 300)]))
        kept = rng.permutation(min(vocab_size, 400))[:count] * (vocab_size // min(vocab_size, 400))
        shape = draw(st.sampled_from(["plain", "uniform", "one-hot", "tied"]))
        # One more than the ids: the tail.
        logits = rng.normal(size=count + 1) * draw(st.sampled_from([0.1, 3.0, 40.0]))
        if shape == "uniform":
            logits[:] = 0.0
        elif shape == "one-hot":
            logits[1:] = -np.inf
        elif shape == "tied":
            logits = np.round(logits)
        if count == vocab_size:
            logits[-1] = -np.inf
        truth = [*np.sort(logits[:-1])[::-1].tolist(), logits[-1]] if count else [0.0]
        truth = np.array(truth) - np.logaddexp.reduce(truth)
        counts.append(count)
        ids += kept.tolist()
        logprobs += truth[:-1].tolist()
        tails.append(truth[-1])
    return {
        "block": rng.integers(0, vocab_size, positions + 1),
        "counts": np.array(counts),
        "ids": np.array(ids, dtype=np.int64),
        "logprobs": np.array(logprobs, dtype=np.float32),
        "columns": {"log_tail": np.array(tails, dtype=np.float32)},
        "vocab_size": vocab_size,
    }


def sorted_by_id(counts, ids, *arrays):
    order = np.lexsort((ids, np.repeat(np.arange(counts.size), counts)))
    return ids[order], *(array[order] for array in arrays)


@pytest.mark.parametrize("values", ["half", "compact"])
@given(targets=rows())
@settings(max_examples=150, deadline=None)
def test_rounded_values_stay_within_their_bounds(values, targets):
    error = RoundingError()
    item = encode_targets(**targets, values=values, error=error)
    counts = targets["counts"]
    decoded = decode(item, manifest(counts.size, targets["vocab_size"], values=values))
    np.testing.assert_array_equal(decoded["counts"], counts)
    ids, given = sorted_by_id(counts, targets["ids"], targets["logprobs"].astype(np.float64))
    decoded_ids, got = sorted_by_id(counts, decoded["ids"], decoded["logprobs"].astype(np.float64))
    np.testing.assert_array_equal(decoded_ids, ids)
    assert got.max(initial=0) <= 0
    np.testing.assert_array_equal(got == -np.inf, given == -np.inf)
    some = given > -99
    difference = np.abs(given[some] - got[some])
    # Half a step, and a shift of the whole position by as much: 11 significant bits, or a quarter of a nat.
    bound = 2 * np.maximum(np.abs(given[some]), 1) * 2.0**-11 if values == "half" else 0.27
    row = np.repeat(np.arange(counts.size), counts)
    tail = decoded["log_tail"].astype(np.float64)
    # A tail next to 1 leaves no digits in float16 for the mass of what is kept.
    sure = (tail < -1e-2)[row][some]
    assert (difference - bound)[sure].max(initial=0) <= 1e-6
    p, q = np.exp(given), np.exp(got)
    with np.errstate(invalid="ignore"):
        kl = np.where(p > 0, p * (given - got), 0).sum() + (q - p).sum()
    assert kl / counts.size <= (1e-6 if values == "half" else 1.01e-4)
    assert error.kl / counts.size == pytest.approx(kl / counts.size, abs=1e-6)
    mass = np.bincount(row, q, counts.size) + np.exp(tail)
    np.testing.assert_allclose(mass[(counts > 0) & (tail < -1e-6)], 1, atol=2e-5)


@pytest.mark.parametrize("values", ["compact", "counts"])
def test_the_largest_value_of_each_position_comes_first(values, samples):
    targets = samples.draws(3) if values == "counts" else samples.targets(3)
    encode = encode_draws if values == "counts" else lambda **arrays: encode_targets(**arrays, values="compact")
    about = {"selection": {"samples": 6}, "teacher_steps": True} if values == "counts" else {}
    item = encode(**targets, vocab_size=300)
    decoded = decode(item, manifest(8, 300, values, columns=tuple(targets["columns"]), **about))
    numbers = decoded["draws" if values == "counts" else "logprobs"]
    for n, end in zip(decoded["counts"], np.cumsum(decoded["counts"]), strict=True):
        assert np.all(np.diff(numbers[end - n : end]) <= 0)


def test_draws_and_the_teachers_step_come_back_exactly(samples):
    targets = samples.draws(5)
    item = encode_draws(**targets, vocab_size=300)
    about = {"selection": {"samples": 6}, "teacher_steps": True}
    decoded = decode(item, manifest(8, 300, "counts", columns=("entropy",), **about))
    assert decoded.keys() == {"block", "counts", "ids", "draws", "entropy", "teacher_step"}
    assert decoded["teacher_step"].tolist() == [105]
    assert decoded["teacher_step"].dtype == decoded["draws"].dtype == np.int64
    expected = sorted_by_id(targets["counts"], targets["ids"], targets["draws"])
    for array, truth in zip(sorted_by_id(decoded["counts"], decoded["ids"], decoded["draws"]), expected, strict=True):
        np.testing.assert_array_equal(array, truth)


@given(targets=rows(), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_any_draws_come_back_exactly(targets, seed):
    draws = np.random.default_rng(seed).integers(1, 1 << 20, targets["ids"].size)
    kept = {name: targets[name] for name in ("block", "counts", "ids", "vocab_size")}
    item = encode_draws(**kept, draws=draws, columns={})
    about = {"selection": {"samples": 1 << 24}}
    decoded = decode(item, manifest(targets["counts"].size, targets["vocab_size"], "counts", columns=(), **about))
    expected = sorted_by_id(targets["counts"], targets["ids"], draws)
    for array, truth in zip(sorted_by_id(decoded["counts"], decoded["ids"], decoded["draws"]), expected, strict=True):
        np.testing.assert_array_equal(array, truth)


def test_estimates_of_another_proposal_are_kept_as_they_are():
    """Log-probs of sampled stores with s other than 1: no tail to restore, and above 0 where few draws say much."""
    logprobs = np.array([0.5, -3.0], dtype=np.float32)
    item = encode_targets(
        np.zeros(2, dtype=int), np.array([2]), np.array([1, 2]), logprobs, {}, values="half", vocab_size=9
    )
    about = {"selection": {"samples": 6}}
    np.testing.assert_array_equal(decode(item, manifest(1, 9, "half", columns=(), **about))["logprobs"], logprobs)


def test_the_error_is_what_decoding_gives(samples):
    targets = samples.targets(1)
    for values in ("exact", "half", "compact"):
        error = RoundingError()
        item = encode_targets(**targets, values=values, vocab_size=300, error=error)
        decoded = decode(item, manifest(8, 300, values, columns=("log_tail", "entropy")))
        given = sorted_by_id(targets["counts"], targets["ids"], targets["logprobs"])[1]
        got = sorted_by_id(decoded["counts"], decoded["ids"], decoded["logprobs"])[1]
        tails = np.abs(targets["columns"]["log_tail"].astype(np.float64) - decoded["log_tail"])
        largest = max(np.abs(given.astype(np.float64) - got).max(), tails.max())
        assert error.logprob == pytest.approx(largest, abs=1e-6)
        assert (error.logprob == 0) == (values == "exact")


def test_the_parts_of_an_item_add_up(samples):
    item = encode_targets(**samples.targets(1), values="compact", vocab_size=300)
    assert sum(part_sizes(item).values()) + 8 == item["tokens"].nbytes + item["payload"].nbytes
    assert part_sizes(item)["tokens"] == 18


def test_what_does_not_go_with_the_selection_is_refused():
    for values, about in (("compact", {"selection": {"samples": 6}}), ("counts", {})):
        with pytest.raises(ValueError, match=r"with values exact, half, (compact|counts), got"):
            check_codec(manifest(2, 300, values, **about), "here")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_tokens_take_two_bytes_where_they_can(vocab_size, dtype):
    block = np.array([0, vocab_size - 1, 5])
    item = encode_tokens(block, vocab_size)
    assert item["tokens"].dtype == dtype
    np.testing.assert_array_equal(decode(item, manifest(2, vocab_size, values=None))["block"], block)


def half_precision(logits, keep):
    """Encode the `keep` most probable ids at half precision; give the decoded item and the float64 truth."""
    positions, vocab_size = logits.shape
    truth = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    ids = np.argsort(-truth, axis=-1)[:, :keep]
    kept = np.take_along_axis(truth, ids, axis=-1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.maximum(1 - np.exp(kept).sum(-1), 0.0))
    counts = np.full(positions, keep)
    item = encode_targets(
        np.zeros(positions + 1, dtype=int),
        counts,
        ids.ravel(),
        kept.ravel(),
        {"log_tail": tail},
        values="half",
        vocab_size=vocab_size,
    )
    decoded = decode(item, manifest(positions, vocab_size, values="half"))
    return decoded, decoded["logprobs"].reshape(positions, keep).astype(np.float64), kept, tail


@pytest.mark.parametrize("keep", [1, 10, 300])
def test_half_values_keep_the_mass_exact_and_the_shape_within_rounding(keep):
    logits = np.random.default_rng(0).normal(size=(50, 300)) * 3
    decoded, logprobs, truth, tail = half_precision(logits, keep)
    stored_tail = np.exp(tail.astype(np.float16).astype(np.float64))
    np.testing.assert_allclose(np.exp(logprobs).sum(-1), 1 - stored_tail, rtol=1e-5)
    # float16 has 11 significant bits; the shift moves all of a position by at most as much again.
    assert np.abs(logprobs - truth).max() <= 2 * np.abs(truth).max() * 2.0**-11
    np.testing.assert_array_equal(decoded["counts"], keep)


def test_half_values_of_a_sure_teacher_are_one_hot():
    logits = np.full((3, 20), -np.inf)
    logits[:, 7] = 0.0
    with np.errstate(invalid="ignore"):
        decoded, logprobs, _, _ = half_precision(logits, keep=3)
    np.testing.assert_array_equal(logprobs[:, 0], 0.0)
    np.testing.assert_array_equal(logprobs[:, 1:], -np.inf)
    np.testing.assert_array_equal(decoded["log_tail"], -np.inf)


def test_half_values_without_a_finite_shift_stay_as_stored():
    # Position 0 keeps nothing, position 1 keeps only impossible ids, position 2 has a tail of everything.
    logprobs = np.array([-np.inf, -np.inf, -20.0], dtype=np.float32)
    item = encode_targets(
        np.zeros(4, dtype=int),
        np.array([0, 2, 1]),
        np.array([1, 2, 3]),
        logprobs,
        {"log_tail": np.zeros(3)},
        values="half",
        vocab_size=9,
    )
    np.testing.assert_array_equal(decode(item, manifest(3, 9, values="half"))["logprobs"], logprobs)


def test_half_values_turn_log_probs_below_the_range_into_impossible_ids():
    item = encode_targets(
        np.zeros(2, dtype=int),
        np.array([2]),
        np.array([1, 2]),
        np.array([0.0, -1e6]),
        {"log_tail": np.array([-np.inf])},
        values="half",
        vocab_size=9,
    )
    np.testing.assert_array_equal(decode(item, manifest(1, 9, values="half"))["logprobs"], [0.0, -np.inf])


def small_item(vocab_size=300, teacher_step=None):
    return encode_targets(
        np.array([1, 2, 3]),
        np.array([1, 2]),
        np.array([5, 6, 299]),
        np.array([-0.5, -1.0, -2.0]),
        {"log_tail": np.array([-1.0, -2.0])},
        values="exact",
        vocab_size=vocab_size,
        teacher_step=teacher_step,
    )


@pytest.mark.parametrize("name", ["tokens", "payload", "teacher_step"])
def test_every_flipped_bit_is_found(name):
    item = small_item(teacher_step=7)
    for bit in range(item[name].nbytes * 8):
        damaged = bytearray(item[name].tobytes())
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            decode({**item, name: np.frombuffer(damaged, dtype=item[name].dtype)}, manifest(2, 300, teacher_steps=True))


def test_every_cut_payload_is_found():
    item = small_item()
    for length in range(item["payload"].size):
        with pytest.raises(ValueError):
            decode({**item, "payload": item["payload"][:length]}, manifest(2, 300))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (manifest(3, 300), "it has 3 tokens, not 4"),
        (manifest(2, 3), "a token id lies outside the vocabulary"),
        (manifest(2, 299), "a kept id lies outside the vocabulary"),
        (manifest(2, 100_000), "its tokens are stored as uint16"),
        (manifest(2, 300, values="half"), "its payload expands to"),
        (manifest(2, 300, columns=("log_tail", "entropy")), "its payload expands to"),
        (manifest(2, 300, columns=()), "it has 29 bytes of columns, but the store has none"),
        (manifest(2, 300, teacher_steps=True), r"its arrays are \['payload', 'tokens'\], not"),
        (manifest(2, 300, values=None), "it has targets, but the folder has none"),
    ],
)
def test_an_item_that_does_not_fit_its_manifest_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        decode(small_item(), other)


def test_ids_outside_the_vocabulary_are_not_written():
    with pytest.raises(ValueError, match=r"token ids must lie in \[0, 10\), got \[3, 10\].*vocab_size"):
        encode_tokens(np.array([3, 10]), 10)
    with pytest.raises(ValueError, match=r"kept ids must lie in \[0, 299\), got \[5, 299\]"):
        small_item(vocab_size=299)


def test_numbers_that_are_none_are_not_written():
    with pytest.raises(ValueError, match=r"got 1 NaN in log_tail.*bfloat16 or float32"):
        encode_targets(
            np.zeros(2, dtype=int),
            np.array([0]),
            np.zeros(0, dtype=int),
            np.zeros(0),
            {"log_tail": np.array([np.nan])},
            values="half",
            vocab_size=9,
        )


def test_a_newer_codec_is_refused():
    newer = manifest(2, 300)
    newer.codec = {"name": "pd-targets", "version": 2, "values": "exact"}
    with pytest.raises(ValueError, match=r"the codec of here must be pd-targets version 1.*pip install -U"):
        check_codec(newer, "here")
