"""Image files through DataLoader: each once, the same for any workers, resumable."""

import copy
import inspect
import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Subset, WeightedRandomSampler

from handful import DataLoader, first
from handful.data.augment import RandomHorizontalFlip
from handful.data.batch_memory import BatchMemory
from handful.data.color_jitter import ColorJitter
from handful.data.image_batches import BatchWork, make_reader
from handful.data.image_changes import RandomResizedCrop
from handful.data.image_files import ImageFiles
from handful.data.image_source import ImageSource, fingerprint_images
from handful.data.sample_keys import SampleKeys
from handful.data.thread_workers import ThreadWorkers
from handful.data.transforms import Chain, Normalize, ScaleBytes
from handful.errors import ArgumentError, DataError

COUNT, SIZE = 23, 4
NORMAL = Chain(ScaleBytes(), Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
RANDOM = {
    "crop": RandomResizedCrop(),
    "flip": 0.5,
    "jitter": ColorJitter(0.4, 0.4, 0.4, 0.1),
}
WAYS = {
    "0": {},
    "2 threads": {"num_workers": 2},
    "1 process": {"num_workers": 1, "worker_type": "process"},
}


@pytest.fixture
def files(write_images):
    """Make a data set whose labels are the indices."""
    return ImageFiles(write_images(COUNT)[0], range(COUNT), 12)


@pytest.fixture
def random_files(files):
    """Make a data set with every random change."""
    return ImageFiles(files.paths, files.labels, 12, **RANDOM)


def plain(batch):
    """Return a batch as something that can be compared."""
    images, labels = batch
    return images.numpy().tobytes(), labels.tolist()


def epochs(loader, count=1):
    return [[plain(batch) for batch in loader] for _ in range(count)]


def labels_of(epoch):
    return list(itertools.chain.from_iterable(labels for _, labels in epoch))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transform", [None, NORMAL])
def test_batches_are_those_of_pytorchs_loader_bit_for_bit(files, way, transform):
    def collated(batch):
        images, labels = batch
        return (images if transform is None else transform.apply(images)), labels

    torch.manual_seed(3)
    theirs = TorchDataLoader(files, SIZE, shuffle=True)
    expected = [[plain(collated(b)) for b in theirs] for _ in range(2)]
    torch.manual_seed(3)
    ours = DataLoader(files, SIZE, shuffle=True, batch_transform=transform, **WAYS[way])
    assert epochs(ours, 2) == expected
    assert sorted(labels_of(expected[0])) == list(range(COUNT))


def test_pillow_alone_gives_the_same_batches(files):
    alone = ImageFiles(files.paths, files.labels, 12, flip=0.5, decoder="pillow")
    both = ImageFiles(files.paths, files.labels, 12, flip=0.5)
    found = [
        epochs(DataLoader(images, SIZE, seed=1, num_workers=2, batch_transform=NORMAL))
        for images in (alone, both)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_grey_images_are_scaled_as_the_transform_scales_them(files, workers):
    grey = ImageFiles(files.paths, size=12, channels=1)
    options = {"batch_size": "full", "num_workers": workers}
    (plain_batch,) = DataLoader(grey, **options)
    transform = Chain(ScaleBytes(), Normalize(0.3, 0.2))
    (batch,) = DataLoader(grey, batch_transform=transform, **options)
    assert torch.equal(batch, transform.apply(plain_batch))


def test_path_says_how_images_are_read(files):
    assert DataLoader(files).path.startswith("threads: ImageFiles is read without work")
    loader = DataLoader(files, num_workers=2)
    assert "by 2 threads, straight into the batch" in loader.path
    assert "sample by sample" in DataLoader(files, collate_fn=list).path
    assert DataLoader(files, **WAYS["1 process"]).path.startswith("pytorch: ")


@pytest.mark.parametrize("seed", [None, 5])
def test_changed_batches_are_the_same_for_any_workers(random_files, seed):
    found = []
    for options in ({}, *({"num_workers": n} for n in (1, 3)), WAYS["1 process"]):
        torch.manual_seed(1)
        loader = DataLoader(
            random_files,
            SIZE,
            shuffle=True,
            seed=seed,
            batch_transform=NORMAL,
            **options,
        )
        found.append(epochs(loader, 3))
    assert found[1:] == found[:-1]
    assert found[0][0] != found[0][1]
    assert sorted(labels_of(found[0][2])) == list(range(COUNT))


def test_changes_belong_to_the_sample_and_the_epoch_not_the_batch(random_files):
    def images(**options):
        loader = DataLoader(random_files, seed=2, **options)
        found = {}
        for batch, labels in loader:
            found.update(zip(labels.tolist(), batch, strict=True))
        return found

    alone = images(batch_size=1)
    shuffled = images(batch_size=7, shuffle=True, num_workers=2)
    assert all(torch.equal(alone[i], shuffled[i]) for i in range(COUNT))


@pytest.mark.parametrize("options", [{"drop_last": True}, {"shard": (1, 2)}])
def test_options_of_the_order_hold(files, options):
    loader = DataLoader(files, SIZE, shuffle=True, seed=1, num_workers=2, **options)
    epoch = epochs(loader)[0]
    expected = COUNT // SIZE * SIZE if "drop_last" in options else COUNT // 2
    assert len(set(labels_of(epoch))) == len(labels_of(epoch)) == expected
    assert len(loader) == len(epoch)


def test_subset_of_a_subset_is_read_straight_into_the_batch(random_files):
    part = Subset(Subset(random_files, [5, 3, -1, 8]), [2, 0, 1])
    loader = DataLoader(part, 2, num_workers=2)
    assert "straight into the batch" in loader.path
    assert labels_of(epochs(loader)[0]) == [COUNT - 1, 5, 3]
    processes = DataLoader(part, 2, seed=3, **WAYS["1 process"])
    assert epochs(DataLoader(part, 2, seed=3, num_workers=2)) == epochs(processes)


@pytest.mark.parametrize(
    ("way", "resumed"), [*((way, way) for way in WAYS), ("0", "2 threads")]
)
@pytest.mark.parametrize("seed", [None, 5])
def test_every_batch_can_be_resumed_from(random_files, way, resumed, seed):
    def make(way):
        return DataLoader(random_files, SIZE, shuffle=True, seed=seed, **WAYS[way])

    torch.manual_seed(7)
    loader = make(way)
    whole, states = [], [json.dumps(loader.state_dict())]
    for _ in range(3):  # From the third on, the pass before has begun to read it.
        for batch in loader:
            whole.append(plain(batch))
            states.append(json.dumps(loader.state_dict()))
    per_epoch = len(loader)
    # With processes each state costs a start of them: some are enough.
    step = 1 if "process" not in resumed else 5
    for delivered in range(0, len(states), step):
        other = make(resumed)
        other.load_state_dict(json.loads(states[delivered]))
        stop = max(-(-delivered // per_epoch), 1) * per_epoch
        assert [plain(batch) for batch in other] == whole[delivered:stop]


def test_state_between_passes_goes_on_with_the_next_one(random_files):
    loader = DataLoader(random_files, SIZE, shuffle=True, seed=4, num_workers=2)
    expected = epochs(loader, 3)
    for done in range(3):
        again = DataLoader(random_files, SIZE, shuffle=True, seed=4, num_workers=2)
        epochs(again, done)
        other = DataLoader(random_files, SIZE, shuffle=True, seed=4)
        other.load_state_dict(json.loads(json.dumps(again.state_dict())))
        assert epochs(other) == expected[done : done + 1]


def test_fingerprint_is_of_the_samples_that_are_chosen(files):
    part = [Subset(files, indices) for indices in ([1, 2], [2, 1], [1, 3])]
    assert len({fingerprint_images(dataset) for dataset in (*part, files)}) == 4
    again = Subset(Subset(files, [4, 2, 1]), [2, 1])
    assert fingerprint_images(again) == fingerprint_images(part[0])
    assert fingerprint_images(ImageFiles([])) == fingerprint_images(ImageFiles([]))


def test_arguments_are_kept_under_their_names(files):
    given = {"worker_type": "thread", "on_error": "skip", "max_errors": 3}
    loader = DataLoader(files, SIZE, **given)
    names = list(inspect.signature(DataLoader.__init__).parameters)[1:]
    # Frameworks put their own samplers in.
    own = {"shuffle", "sampler", "batch_sampler"}
    kept = {name: getattr(loader, name) for name in names if name not in own}
    assert {name: kept[name] for name in given} == given
    assert epochs(DataLoader(**kept)) == epochs(loader)


def test_subset_with_wrong_indices_says_so(files):
    with pytest.raises(IndexError, match="below 23; got 99"):
        list(DataLoader(Subset(files, [1, 99]), 2, num_workers=2))


def test_state_of_other_images_is_refused(files):
    state = DataLoader(files, SIZE).state_dict()
    other = ImageFiles(files.paths, [0] * COUNT, 12)
    with pytest.raises(DataError, match="the data set is another one"):
        DataLoader(other, SIZE).load_state_dict(state)


def test_pass_that_was_read_ahead_is_that_of_the_epoch_asked_for(random_files):
    def make():
        return DataLoader(random_files, SIZE, shuffle=True, seed=4, num_workers=2)

    expected = epochs(make(), 6)
    loader = make()
    assert epochs(loader) == expected[:1]
    assert loader._ahead is None  # It may well be the only one.
    assert epochs(loader, 2) == expected[1:3]
    assert loader._ahead is not None
    loader.epoch = 5  # What was begun of epoch 3 is of no use.
    assert epochs(loader) == expected[5:]
    loader.sampler.set_epoch(1)
    assert epochs(loader, 2) == expected[1:3]
    loader.batch_transform = None
    assert first(loader)[1].tolist() == expected[3][0][1]
    assert epochs(loader) == expected[3:4]


def test_transform_that_was_exchanged_is_that_of_the_next_pass(files):
    loader = DataLoader(files, SIZE, seed=0, num_workers=1)
    epochs(loader, 3)
    loader.batch_transform = ScaleBytes()
    assert all(images.dtype is torch.float32 for images, _ in loader)


def test_batches_that_are_kept_do_not_change(files):
    loader = DataLoader(files, SIZE, num_workers=2, batch_transform=ScaleBytes())
    expected = [images.clone() for images, _ in loader]
    kept = [images for _ in range(4) for images, _ in loader]
    views = [images[1:2, 0].numpy() for images in kept]
    for _ in range(4):
        epochs(loader)
    for number, images in enumerate(kept):
        assert torch.equal(images, expected[number % len(expected)])
    del kept, images
    for _ in range(4):
        epochs(loader)
    for number, view in enumerate(views):
        assert (view == expected[number % len(expected)][1:2, 0].numpy()).all()


def test_memory_of_batches_that_are_gone_is_used_again(files):
    loader = DataLoader(files, SIZE, num_workers=1, drop_last=True)
    places = {images.data_ptr() for _ in range(10) for images, _ in loader}
    assert len(places) <= 2 + 5  # as many as are read ahead, held and kept


def test_batch_can_be_written_saved_and_shared(files, tmp_path):
    loader = DataLoader(files, SIZE, num_workers=1, batch_transform=ScaleBytes())
    images, _ = next(iter(loader))
    assert images.is_contiguous()
    assert images.data_ptr() % 64 == 0
    assert images.untyped_storage().nbytes() == images.nbytes
    images.mul_(2).add_(1)
    torch.save(images, tmp_path / "batch.pt")
    assert (tmp_path / "batch.pt").stat().st_size < images.nbytes + 4096
    images.share_memory_()
    assert images.min() >= 1


def test_random_transform_of_batches_has_the_samples_keys(files):
    found = []
    for workers in (0, 3):
        loader = DataLoader(
            files,
            SIZE,
            shuffle=True,
            seed=1,
            num_workers=workers,
            batch_transform=Chain(RandomHorizontalFlip(), ScaleBytes()),
        )
        found.append(epochs(loader, 2))
    assert found[0] == found[1]
    plain_batches = epochs(DataLoader(files, SIZE, shuffle=True, seed=1))
    assert found[0][0] != plain_batches[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_own_transform_collation_and_sampler_are_used(files, workers):
    sampler = WeightedRandomSampler([1.0] * COUNT, 10)
    torch.manual_seed(0)
    loader = DataLoader(
        files,
        3,
        sampler=sampler,
        num_workers=workers,
        collate_fn=lambda samples: [label for _, label in samples],
        batch_transform=lambda labels: [-label for label in labels],
    )
    torch.manual_seed(0)
    theirs = TorchDataLoader(files, 3, sampler=sampler, collate_fn=list)
    expected = [[-label for _, label in batch] for batch in theirs]
    torch.manual_seed(0)
    assert list(loader) == expected


def test_single_samples_come_without_a_batch_size(files):
    loader = DataLoader(files, batch_size=None, num_workers=2)
    samples = list(loader)
    assert [label for _, label in samples] == list(range(COUNT))
    assert torch.equal(samples[4][0], files[4][0])


def test_images_without_labels_or_size_are_batched(files, write_images):
    bare = ImageFiles(files.paths, size=12)
    (batch,) = DataLoader(bare, "full", num_workers=2, batch_transform=ScaleBytes())
    assert batch.shape == (COUNT, 3, 12, 12)
    large = ImageFiles(files.paths, size=None)
    (batch,) = DataLoader(large, "full", num_workers=2)
    assert batch.shape == (COUNT, 3, 24, 32)


def test_mixed_sizes_without_a_size_are_named(files, make_picture):
    make_picture(30, 20, 0).save(files.paths[2])
    mixed = ImageFiles(files.paths, files.labels, None)
    message = (
        r"got 24 x 32 .* in .*0000\.jpg and 30 x 20 .* in .*0002\.jpg\. "
        "Give ImageFiles a size"
    )
    for workers in (0, 2):
        with pytest.raises(DataError, match=message):
            list(DataLoader(mixed, SIZE, num_workers=workers))


def spoil(files, *indices):
    for index in indices:
        with Path(files.paths[index]).open("r+b") as file:
            file.truncate(200)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_file_is_named_when_its_batch_is_due(files, workers):
    spoil(files, 6, 5)
    loader = DataLoader(files, SIZE, num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(DataError, match=r"0005\.jpg cannot be read as an image: it i"):
        next(iterator)
    assert next(iterator)[1].tolist() == [8, 9, 10, 11]
    other = DataLoader(files, SIZE, num_workers=workers)
    other.load_state_dict(loader.state_dict())
    assert next(iter(other))[1].tolist() == [12, 13, 14, 15]


def test_dropped_batch_reads_no_further_file(files):
    spoil(files, 0)
    reader = make_reader(ImageSource(files), None, skips=True)
    keys = SampleKeys(0, 0, torch.arange(4))
    for is_dropped in (False, True):
        work = BatchWork(reader, [0, 1, 2, 3], keys, BatchMemory())
        if is_dropped:
            work.drop()
        work.start(ThreadWorkers(0))
        assert work.future.done() != is_dropped
        assert len(work._failures) == (not is_dropped)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [12, None])
def test_bad_files_are_left_out_and_listed_once(files, workers, size):
    spoil(files, 1, *range(8, 12))
    files = ImageFiles(files.paths, files.labels, size)
    loader = DataLoader(files, SIZE, num_workers=workers, on_error="skip")
    for _ in range(3):
        labels = [batch.tolist() for _, batch in loader]
        assert labels[:3] == [[0, 2, 3], [4, 5, 6, 7], [12, 13, 14, 15]]
    assert [skip.index for skip in loader.skipped] == [1, 8, 9, 10, 11]
    path, index, reason = loader.skipped[0]
    assert (path, index) == (files.paths[1], 1)
    assert "damaged" in reason


def test_what_is_left_of_a_batch_is_what_it_would_be(random_files):
    before = copy.deepcopy(random_files)
    kept = {index: Path(random_files.paths[index]).read_bytes() for index in (1, 2)}
    for transform in (NORMAL, Chain(RandomHorizontalFlip(), NORMAL)):
        options = {"seed": 3, "batch_transform": transform, "num_workers": 2}
        (whole, _) = next(iter(DataLoader(before, 12, **options)))
        spoil(random_files, *kept)
        (rest, _) = next(iter(DataLoader(before, 12, on_error="skip", **options)))
        assert torch.equal(rest, whole[[0, *range(3, 12)]])
        for index, data in kept.items():
            Path(random_files.paths[index]).write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_pass_with_files_left_out_can_be_resumed(files, workers):
    spoil(files, 1, *range(8, 12), 22)

    def make():
        return DataLoader(
            files, SIZE, shuffle=True, seed=2, num_workers=workers, on_error="skip"
        )

    loader = make()
    whole, states = [], []
    for batch in loader:
        whole.append(plain(batch))
        states.append((json.dumps(loader.state_dict()), list(loader.skipped)))
    assert len(loader.skipped) == 6
    for delivered, (state, skipped) in enumerate(states[:-1], 1):
        other = make()
        other.load_state_dict(json.loads(state))
        assert [plain(batch) for batch in other] == whole[delivered:]
        assert other.skipped == loader.skipped
        assert other.skipped[: len(skipped)] == skipped


def test_more_errors_than_allowed_are_an_error(files):
    spoil(files, 2, 5, 6)
    options = {"on_error": "skip", "num_workers": 2}
    assert len(list(DataLoader(files, SIZE, max_errors=3, **options))) == 6
    message = r"at most max_errors=2 .*; 3 cannot .*0006\.jpg: it is damaged"
    with pytest.raises(DataError, match=message):
        list(DataLoader(files, SIZE, max_errors=2, **options))
    assert len(list(DataLoader(files, SIZE, max_errors=None, **options))) == 6


def test_transform_that_does_not_fit_is_named(files):
    loader = DataLoader(files, SIZE, num_workers=2, batch_transform=Normalize(0, 1))
    with pytest.raises(DataError, match="must be float32 for Normalize; got torch"):
        next(iter(loader))


def test_errors_of_the_users_transform_reach_the_caller(files):
    def fail(batch):
        raise KeyError("mine")

    loader = DataLoader(files, SIZE, num_workers=2, batch_transform=fail)
    with pytest.raises(KeyError, match="mine"):
        next(iter(loader))


def test_loader_can_be_pickled_copied_and_looked_into_meanwhile(random_files):
    loader = DataLoader(
        random_files, SIZE, shuffle=True, seed=1, num_workers=2, batch_transform=NORMAL
    )
    expected = epochs(loader, 3)
    peek = plain(first(loader))
    copies = [copy.copy(loader), copy.deepcopy(loader)]
    copies.append(pickle.loads(pickle.dumps(loader)))
    assert [other._threads.count for other in copies] == [2, 2, 2]
    for other in (loader, *copies):
        assert other.epoch == 3
        following = epochs(other)
        assert following[0][0] == peek
        assert following[0] not in expected
        assert following == epochs_from(random_files, 3)


def epochs_from(files, epoch):
    loader = DataLoader(files, SIZE, shuffle=True, seed=1, batch_transform=NORMAL)
    loader.epoch = epoch
    return epochs(loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker_type": "threads"}, "worker_type must be.*Did you mean 'thread'"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip; got 'ignore'"),
        ({"max_errors": -1}, "max_errors must be 0 or more, or None; got -1"),
    ],
)
def test_wrong_arguments_are_named(files, options, message):
    with pytest.raises(ArgumentError, match=message):
        DataLoader(files, **options)


def test_arguments_of_other_paths_are_refused(files):
    with pytest.raises(ArgumentError, match="device must be None on the threads' path"):
        iter(DataLoader(files, device="cpu"))
    with pytest.raises(ArgumentError, match="on_error must be 'raise' on PyTorch's pa"):
        iter(DataLoader(files, on_error="skip", **WAYS["1 process"]))


def test_worker_init_fn_means_processes(files):
    loader = DataLoader(files, SIZE, num_workers=1, worker_init_fn=print)
    assert loader.path.startswith("pytorch: ")
