"""Clips of speech become frames; what the detector takes is what its makers feed it."""

import wave

import numpy as np
import pytest

from trimtab.errors import CorruptFile, DataError
from trimtab.packages import fetch_many, names
from trimtab.tasks import speech
from trimtab.tasks.speech import RATE, Speech, read_wave, resampled


def write(path, samples, rate=8000, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes((np.asarray(samples) * 32_767).astype("<i2").tobytes())
    return path


@pytest.fixture
def clips(tmp_path, monkeypatch):
    tone = np.sin(np.arange(12_000) * 0.3)
    paths = [write(tmp_path / f"clip{number}.wav", tone[: 2000 + 500 * number] * 0.5) for number in range(12)]
    monkeypatch.setattr(speech, "clip_paths", lambda: paths)
    return paths


def test_an_example_is_a_clip_in_frames_that_overlap(clips):
    task = Speech(noise=0.0, seconds=0.5)
    example = task.split("test")[0]
    frames, length = example.inputs["sequence"], int(example.inputs["length"])
    assert frames.shape == (length, 576)
    assert length <= task.steps
    assert np.array_equal(frames[1:, :64], frames[:-1, -64:])
    assert not frames[0, :64].any()
    assert example.cluster == example.id
    seconds = frames[:, 64:].size / RATE
    assert 0.25 + 0.6 <= seconds <= 0.5 + 0.6 + 0.032


def test_noise_depends_on_the_clip_and_the_seed_alone(clips, monkeypatch):
    def signals(**arguments):
        return {one.id: one.inputs["sequence"][:4] for one in Speech(seconds=0.3, **arguments).split("test")}

    first, other = signals(), signals(seed=1)
    monkeypatch.setattr(speech, "clip_paths", lambda: clips[::-1])
    again = signals()
    assert set(first) == set(again)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    shared = next(name for name in first if name in other)
    assert not np.array_equal(first[shared], other[shared])


def test_scores_stop_where_the_clip_does(clips):
    task = Speech(seconds=0.3)
    batch = task.collate(task.split("test")[:4])
    sequence, length = batch.inputs["sequence"], batch.inputs["length"]
    answers = np.where(np.arange(sequence.shape[1]) < length[:, None], 0.9, 0.1)[..., None]
    rows = task.score({"output": answers}, batch)
    assert rows.shape == (4, 1 + task.steps)
    assert np.isfinite(rows[:, 1:]).sum(axis=1).tolist() == length.tolist()
    flipped = task.score({"output": np.where(answers > 0.5, 0.9, 0.9)}, batch)
    assert task.metric("agreement").values(np.hstack([flipped, rows])).tolist() == [1.0] * 4
    with pytest.raises(DataError, match="does not fit the task speech"):
        task.score({"output": answers[:, :2]}, batch)


def test_resampling_keeps_the_wave(tmp_path):
    seconds = np.arange(800) / 8000
    tone = np.sin(2 * np.pi * 400 * seconds)
    found = read_wave(write(tmp_path / "tone.wav", tone), seconds=1.0)
    wanted = np.sin(2 * np.pi * 400 * np.arange(1600) / RATE)
    assert np.allclose(found, wanted, atol=1e-3)
    assert np.allclose(resampled(wanted, 800), tone, atol=1e-3)
    assert len(read_wave(write(tmp_path / "tone.wav", tone), seconds=0.05)) == 800


@pytest.mark.parametrize("settings", [{"channels": 2}, {"width": 1}])
def test_other_wave_files_are_refused(tmp_path, settings):
    with pytest.raises(CorruptFile, match="not one channel of 16 bits"):
        read_wave(write(tmp_path / "a.wav", np.zeros(4), **settings), 1.0)


def test_a_torn_clip_says_so(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(CorruptFile, match="delete it and it comes anew"):
        read_wave(tmp_path / "a.wav", 1.0)


def test_settings_that_cannot_be(clips):
    with pytest.raises(DataError, match="seconds above 0"):
        Speech(seconds=0.0).split("train")


@pytest.mark.slow
def test_the_real_clips(monkeypatch):
    try:
        inside = [name for name in names(speech.PARCEL) if name.endswith(".wav")]
    except DataError as error:
        pytest.skip(str(error))
    assert len(inside) == 568
    assert fetch_many(speech.PARCEL, [speech.PARCEL.member])[0].stat().st_size > 10_000
    assert len(Speech(clips=20).split("test")) == 14
