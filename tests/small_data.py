"""The tasks whose data is downloaded, on a few made-up or shortened files: nothing is fetched."""

import gzip

import numpy as np
import pytest

from trimtab.values.registry import registry

WORDS = """abacus AE1 B AH0 K AH0 S
able EY1 B AH0 L
acid AE1 S AH0 D
actor AE1 K T ER0
adam AE1 D AH0 M
agent EY1 JH AH0 N T
angle AE1 NG G AH0 L
apple AE1 P AH0 L
arm AA1 R M
ask AE1 S K
atom AE1 T AH0 M
bad B AE1 D
bag B AE1 G
ball B AO1 L
band B AE1 N D
bank B AE1 NG K
base B EY1 S
bath B AE1 TH
bead B IY1 D
bend B EH1 N D
bird B ER1 D
boat B OW1 T
book B UH1 K
cab K AE1 B
card K AA1 R D
cat K AE1 T
chin CH IH1 N
city S IH1 T IY0
dance D AE1 N S
data D EY1 T AH0
data(2) D AE1 T AH0
dog D AO1 G
either IY1 DH ER0
either(2) AY1 DH ER0
fish F IH1 SH
o'clock AH0 K L AA1 K
zebra Z IY1 B R AH0 # an animal
""".strip()
"""Real entries of the CMU pronouncing dictionary, one with an apostrophe, one with a remark."""


def opened(name, fetch, settings, names=("fetch",)):
    """Return the task, its data read by a stand-in for what downloads."""
    kind = registry("tasks").take(name)
    with pytest.MonkeyPatch.context() as patch:
        for each in names:
            patch.setattr(f"trimtab.tasks.{name}.{each}", fetch)
        task = kind(**settings)
        for split in ("train", "validation", "test"):
            task.split(split)
    return task


def cmudict(folder, **settings):
    """Return cmudict on 36 entries."""
    (folder / "cmudict.dict").write_text(WORDS)
    return opened(
        "cmudict", lambda parcel: folder / "cmudict.dict", {"train": 0, "validation": 6, "test": 8} | settings
    )


def write_idx(path, array):
    """Write a gzipped IDX file of bytes."""
    sizes = np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()))


def fashion_mnist(folder, **settings):
    """Return fashion_mnist on noise: 200 training and 40 test images."""
    random, paths = np.random.default_rng(0), []
    for part, count in (("train", 200), ("t10k", 40)):
        for kind, array in (("images", random.integers(0, 256, (count, 28, 28))), ("labels", np.arange(count) % 10)):
            paths.append(folder / f"{part}-{kind}.gz")
            write_idx(paths[-1], array)
    settings = {"size": 32, "limit": 100, "validation": 50} | settings
    return opened("fashion_mnist", lambda parcel, members: tuple(paths), settings, ("fetch_many",))


def write_series(path, count, seed):
    """Write a .ts file of series of 12 channels and 7 to 12 steps; class k has a mean of k / 2."""
    random, lines = np.random.default_rng(seed), ["@problemName x", "@classLabel true 1 2 3 4 5 6 7 8 9", "@data"]
    for row in range(count):
        steps = random.normal(row % 9 / 2, 1, (12, int(random.integers(7, 13))))
        lines.append(":".join([*(",".join(f"{x:.4f}" for x in channel) for channel in steps), str(row % 9 + 1)]))
    path.write_text("\n".join(lines) + "\n")


def japanese_vowels(folder, **settings):
    """Return japanese_vowels on made-up series: 90 to train and validate, 45 to test."""
    for part, count in (("TRAIN", 90), ("TEST", 45)):
        write_series(folder / f"{part}.ts", count, count)
    return opened("japanese_vowels", lambda parcel: folder / f"{parcel.member[-8:-3].strip('_')}.ts", settings)


def movielens(folder, **settings):
    """Return movielens on 30 people, 60 films, 25 ratings each."""
    random = np.random.default_rng(0)
    seen = [(user, film) for user in range(1, 31) for film in random.permutation(60)[:25] + 1]
    tables = {
        "inter": ["user\titem\trating\ttime", *(f"{user}\t{film}\t3\t1" for user, film in seen)],
        "item": [
            "item\ttitle\tyear\tclass",
            *(f"{film}\tFilm {film}\t{1990 + film % 9}\tDrama" for film in range(1, 61)),
        ],
        "user": [
            "user\tage\tgender\twork\tzip",
            *(f"{user}\t{15 + user}\t{'MF'[user % 2]}\tx\t0" for user in range(1, 31)),
        ],
    }
    for name, lines in tables.items():
        (folder / f"ml.{name}").write_text("\n".join(lines))
    return opened("movielens", lambda parcel: folder / f"ml.{parcel.member.rpartition('.')[2]}", settings)


def spoken(batch):
    """Return answers to words: at random, all right, and all wrong."""
    right = np.where(batch.targets < 0, 3, batch.targets)
    lengths = (batch.targets >= 0).sum(axis=1)
    random = np.random.default_rng(0).integers(4, 74, right.shape)
    wrong = np.where(right == 3, 3, (right - 4 + 35) % 70 + 4)
    return tuple({"tokens": tokens, "lengths": lengths} for tokens in (random, right, wrong))
