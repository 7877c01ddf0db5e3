"""Claims of "Model Training with Mini-Batches in PyTorch"."""

from __future__ import annotations

from handful.lessons.claims import judge_loading, judge_models, loading, models, sizes
from handful.lessons.claims.claim import Claim
from handful.lessons.registry import WINE

CLAIMS = (
    Claim(
        WINE,
        "11",
        "Learning from one sample at a time gives feedback soon but is noisy.",
        models.noise,
        judge_models.noise_falls,
    ),
    Claim(
        WINE,
        "13",
        "Using all samples before each step gives a clear picture but is slow.",
        models.regimes,
        judge_models.full_is_slow,
    ),
    Claim(
        WINE,
        "15",
        "A few samples a step are faster than all of them.",
        sizes.measure_sizes,
        judge_loading.few_beat_full,
    ),
    Claim(
        WINE,
        "19",
        "Smaller batches take less memory.",
        models.memory,
        judge_models.memory_by_size(""),
    ),
    Claim(
        WINE,
        "20",
        "Mini-batches lie between the noise of single samples and the slowness of all.",
        models.regimes,
        judge_models.few_balance,
    ),
    Claim(
        WINE,
        "21",
        "The noise of mini-batches helps against overfitting.",
        models.regularisation,
        judge_models.noise_regularises,
    ),
    Claim(
        WINE,
        "39",
        "A loader can read data in several processes.",
        loading.orders,
        judge_loading.workers_are_right,
    ),
    Claim(
        WINE,
        "57",
        "With a batch size of 32, each batch has 32 samples.",
        loading.orders,
        judge_loading.batches_are_32,
    ),
    Claim(
        WINE,
        "57",
        "Shuffling in each epoch makes the model generalise better.",
        models.shuffle,
        judge_models.shuffling_helps,
    ),
    Claim(
        WINE,
        "112",
        "Weighting each batch's loss by its size is needed for a right mean.",
        models.running_mean,
        judge_models.samples_are_weighted,
    ),
    Claim(
        WINE,
        "114",
        "The mean loss of an epoch tells how the model does on the whole data.",
        models.running_mean,
        judge_models.running_mean_tells,
    ),
    Claim(
        WINE,
        "116",
        "Mini-batches allow data that would not fit into memory at once.",
        loading.streamed,
        judge_loading.streams_large_data,
    ),
)
